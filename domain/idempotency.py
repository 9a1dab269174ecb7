"""One key, one payment: what a key may be, and when two requests are the same.

Pure. The record is in Postgres, reserved in the payment's own commit (`adapters/postgres`); this
says what is compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import timedelta

from domain.errors import IdempotencyKeyInvalid

# Long enough for a retry after a night's outage, and the least that we promise (rules.md §20).
KEY_LIFETIME = timedelta(hours=24)

KEY_LENGTH_MAX = 255
VISIBLE_ASCII = re.compile(
    rf"[!-~]{{1,{KEY_LENGTH_MAX}}}"
)  # "!" to "~"; also printed in /openapi.json

# The first byte of every fingerprint: a change in how one is made must not look like a changed
# request.
_FINGERPRINT_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The answer that the first request with a key got: repeated byte for byte."""

    fingerprint: bytes
    status: int
    body: bytes
    payment_id: str


def validate_key(text: str) -> str:
    """`text` if it may be an idempotency key, else `IdempotencyKeyInvalid`."""
    if not VISIBLE_ASCII.fullmatch(text):
        raise IdempotencyKeyInvalid
    return text


def fingerprint(method: str, path: str, body: object) -> bytes:
    """What makes two requests the same: method, path, and the JSON as sent, whatever the order of
    its keys.

    As sent, so that a later change in defaults or normalisation cannot make a retry look like
    another request.
    """
    text = json.dumps(
        [method, path, body], sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )
    return _FINGERPRINT_VERSION + hashlib.sha256(text.encode("ascii")).digest()
