"""Seals the signing keys of endpoints before they are stored (AES-256-GCM).

A worker needs the key itself to sign, so a hash is not enough. If the setting
WEBHOOK_SECRETS_KEY is set, a reader of the database alone cannot sign. Without the setting, keys
are stored as they are. Such a key stays readable after the setting is added, until the owner of
the endpoint rotates it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PLAIN = b"\x00"
_AES_GCM = b"\x01"
_NONCE_BYTES = 12


class KeyUnreadable(Exception):
    """The key was sealed with a secret that this process does not have."""


class KeySeal:
    """Seals with the first of `secrets`, and opens with each of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._ciphers = [AESGCM(_derive_key(secret)) for secret in secrets]

    def seal(self, key: bytes, endpoint_id: UUID) -> bytes:
        """The form of `key` that is stored. It can be opened only for the same endpoint."""
        if not self._ciphers:
            return _PLAIN + key
        nonce = os.urandom(_NONCE_BYTES)
        return _AES_GCM + nonce + self._ciphers[0].encrypt(nonce, key, endpoint_id.bytes)

    def open(self, sealed: bytes, endpoint_id: UUID) -> bytes:
        """The key. Raises KeyUnreadable."""
        form, rest = sealed[:1], sealed[1:]
        if form == _PLAIN:
            return rest
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], endpoint_id.bytes)
            except (InvalidTag, ValueError):  # a ValueError: the nonce is cut off
                continue
        raise KeyUnreadable


def _derive_key(secret: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"mkwanja webhook keys").derive(secret.encode())
