"""Signs messages as the Standard Webhooks specification says (version v1, HMAC-SHA256).

A key is random bytes. Its text form, the secret, is what the owner of an endpoint gets:
`whsec_` and the key in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from uuid import UUID

KEY_BYTES = 32
_PREFIX = "whsec_"


def new_key() -> bytes:
    """A new random key."""
    return secrets.token_bytes(KEY_BYTES)


def secret_text(key: bytes) -> str:
    """The key in the form of the specification."""
    return _PREFIX + base64.b64encode(key).decode()


def signed_headers(
    keys: Sequence[bytes], *, event_id: UUID, unix_seconds: int, body: bytes
) -> dict[str, str]:
    """The three headers of a message. Each of `keys` makes one signature.

    While an endpoint's secret rotates there are two keys, and a receiver that knows either of them
    accepts the message.
    """
    signed = f"{event_id}.{unix_seconds}.".encode() + body
    signatures = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": str(unix_seconds),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
        ),
    }
