"""Pydantic's faults as sentences of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from domain import values
from domain.errors import FieldError


def describe_faults(
    error: ValidationError, pointer: Callable[[tuple[Any, ...]], str]
) -> list[FieldError]:
    """Each fault with its place, as `pointer` writes it, and a sentence that says what to send."""
    faults = error.errors(include_url=False, include_context=False)
    return [FieldError(pointer(fault["loc"]), _sentence(fault)) for fault in faults]


_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "dict_type": "must be an object of strings",
    "too_long": f"must have at most {values.METADATA_PAIRS_MAX} pairs",
}


def _sentence(fault: ErrorDetails) -> str:
    if fault["type"] in _SENTENCES:
        return _SENTENCES[fault["type"]]
    return fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
