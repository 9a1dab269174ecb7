"""Idempotency keys: which keys are valid, and when two requests are the same.

Pure. PostgreSQL stores each key in the commit of its payment (`adapters/postgres`). This module
decides what to compare.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import timedelta

from domain.errors import IdempotencyKeyInvalid

# We promise to store a key for at least this time (rules.md §20). A caller can therefore retry even
# after an outage of a whole night.
KEY_LIFETIME = timedelta(hours=24)

KEY_LENGTH_MAX = 255
# "!" to "~". /openapi.json prints this pattern too.
VISIBLE_ASCII = re.compile(rf"[!-~]{{1,{KEY_LENGTH_MAX}}}")

# The first byte of every fingerprint. If we change how fingerprints are made, this version shows
# which stored fingerprints were made in the old way.
_FINGERPRINT_VERSION = b"\x01"
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


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

    The order of the JSON's keys does not matter. The JSON is the caller's, without our defaults and
    normalisation. A later change of these can therefore not make a retry look like another request.
    """
    text = _ENCODER.encode([method, path, body])
    return _FINGERPRINT_VERSION + hashlib.sha256(text.encode("ascii")).digest()
