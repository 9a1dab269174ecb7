"""Idempotency keys: which keys are valid, and when two requests are the same.

Pure. PostgreSQL has the keys, each reserved in its payment's own commit (`adapters/postgres`). This
module says what is compared.
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
# "!" to "~". /openapi.json prints this pattern too.
VISIBLE_ASCII = re.compile(rf"[!-~]{{1,{KEY_LENGTH_MAX}}}")

# The first byte of every fingerprint. If we change how fingerprints are made, an old one must not
# look like another request's.
_FINGERPRINT_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The answer to a key's first request. Replays repeat it byte for byte."""

    fingerprint: bytes
    status: int
    body: bytes
    payment_id: str


def validate_key(text: str) -> str:
    """`text` if it is a valid idempotency key. Raises IdempotencyKeyInvalid."""
    if not VISIBLE_ASCII.fullmatch(text):
        raise IdempotencyKeyInvalid
    return text


def fingerprint(method: str, path: str, body: object) -> bytes:
    """A digest of method, path and JSON. Two requests are the same if their digests are equal.

    The order of the JSON's keys does not matter. The JSON is as sent, so a later change of defaults
    or normalisation cannot make a retry look like another request.
    """
    text = json.dumps(
        [method, path, body], sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )
    return _FINGERPRINT_VERSION + hashlib.sha256(text.encode("ascii")).digest()
