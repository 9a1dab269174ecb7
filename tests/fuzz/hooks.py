"""What schemathesis cannot know from the document alone; it loads this by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext

_NUMBERS = itertools.count(1)
_KEY_LENGTH_MAX = 255

# The format of our own, as the document explains it.
_printable = st.characters(codec="utf-8").filter(str.isprintable)
schemathesis.openapi.format("plain-text", st.text(_printable, min_size=1).filter(str.strip))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Makes of a valid request one that can be accepted.

    What is meant to be wrong stays as wrong as it is.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    _renew_key(case)
    # A pattern cannot say for which filters, or for which payment, a cursor was given.
    case.query.pop("cursor", None)
    # Nor which events this database has.
    case.query.pop("after", None)
    if isinstance(case.body, dict):
        # JSON Schema cannot tell 122.0 from 122. The service can, and refuses: an amount is written
        # as a whole number.
        amount = case.body.get("amount")
        if isinstance(amount, float):
            case.body["amount"] = int(amount)
        if os.environ["FUZZ_IDENTITY"] == "users":
            case.body.pop("owner", None)  # the document says in words that only backends set it


def _renew_key(case: Case[Any]) -> None:
    """Another request with the same key is refused, as it should be: so each gets one of its
    own, of much the same length.
    """
    key = case.headers.get("X-Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[!-~]+", key):
        number = f"-{next(_NUMBERS)}"
        case.headers["X-Idempotency-Key"] = key[: _KEY_LENGTH_MAX - len(number)] + number
