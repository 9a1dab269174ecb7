"""Facts that `/openapi.json` cannot express. Schemathesis loads this file by SCHEMATHESIS_HOOKS."""

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

# Our own format, as the document explains it.
_printable = st.characters(codec="utf-8").filter(str.isprintable)
schemathesis.openapi.format("plain-text", st.text(_printable, min_size=1).filter(str.strip))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Changes a valid request so that it can be accepted. Invalid requests stay invalid."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    _renew_key(case)
    # A pattern cannot say to which filters, or to which payment, a cursor belongs.
    case.query.pop("cursor", None)
    # A pattern also cannot say which events this database has.
    case.query.pop("after", None)
    case.headers.pop("Last-Event-ID", None)
    # A schema cannot say that a time must not be later than another.
    if "created_before" in case.query:
        case.query.pop("created_after", None)
    # A run has no time to wait for payments.
    if "wait" in case.query:
        case.query["wait"] = min(int(case.query["wait"]), 1)
    if isinstance(case.body, dict):
        # For JSON Schema 122.0 and 122 are equal. The service rejects 122.0, because an amount is
        # written as a whole number.
        amount = case.body.get("amount")
        if isinstance(amount, float):
            case.body["amount"] = int(amount)
        # A pattern cannot say which URLs lead to a public address. This name has no address, so no
        # message leaves.
        if "url" in case.body:
            case.body["url"] = "https://shop.invalid/webhooks"
        if os.environ["FUZZ_IDENTITY"] == "users":
            case.body.pop("owner", None)  # the document says in prose that only backends may set it


def _renew_key(case: Case[Any]) -> None:
    """Gives each request its own key of a similar length.

    The service rightly rejects a different request with the same key.
    """
    key = case.headers.get("X-Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[!-~]+", key):
        number = f"-{next(_NUMBERS)}"
        case.headers["X-Idempotency-Key"] = key[: _KEY_LENGTH_MAX - len(number)] + number
