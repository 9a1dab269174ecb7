"""Pydantic's faults as sentences of our own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from domain import values
from domain.errors import FieldError


def describe_faults(
    error: ValidationError, pointer: Callable[[tuple[Any, ...]], str], known: Collection[str]
) -> list[FieldError]:
    """Each fault with its place, as `pointer` writes it, and a sentence that says what to send.

    `known`: the names of all fields of the model.
    """
    faults = error.errors(include_url=False, include_context=False)
    return [FieldError(pointer(fault["loc"]), _sentence(fault, known)) for fault in faults]


_SENTENCES = {
    "missing": "is required",
    "string_type": "must be a string",
    "dict_type": "must be an object of strings",
    "too_long": f"must have at most {values.METADATA_PAIRS_MAX} pairs",
}


def _sentence(fault: ErrorDetails, known: Collection[str]) -> str:
    if fault["type"] == "extra_forbidden":
        # A body always has fields, but a query may have none.
        what_to_send = f"Send only {', '.join(known)}" if known else "This call has no parameters"
        return f"is not a known field. {what_to_send}"
    if fault["type"] in _SENTENCES:
        return _SENTENCES[fault["type"]]
    return fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
