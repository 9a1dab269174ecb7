"""Parses a key set (JWKS) and selects the keys that may check a signature.

Only public ES256 and RS256 keys for signatures are usable. Any other key is skipped and its fault
is reported, so that one bad key does not make the good keys unusable. `gateway/auth/keys.py`
decides when a set is fetched and how long it is used. `doctor` reads a set once.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose.backends.base import Key
from jose.backends.cryptography_backend import CryptographyECKey, CryptographyRSAKey

KID_LENGTH_MAX = 255
# Below 2048 bits RSA is too weak (RFC 7518 §3.3). Above 8192 bits a check takes milliseconds, and
# all requests wait meanwhile.
RSA_BITS = (2048, 8192)
RSA_EXPONENT_BITS_MAX = 32

_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of the set, and the only algorithm that it may check.

    Two keys are equal if kid, algorithm and numbers are equal.
    """

    kid: str
    algorithm: Literal["ES256", "RS256"]
    numbers: ec.EllipticCurvePublicNumbers | rsa.RSAPublicNumbers = field(repr=False)
    checker: Key = field(repr=False, compare=False)  # the key in python-jose's type


class NoKeySet(Exception):
    """The endpoint's answer is not a key set."""


def decode_base64url(text: object) -> bytes:
    """Decodes base64url. Raises ValueError unless `text` is unpadded and in canonical form."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise ValueError("is not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("is not base64url")
    return data


def read_key_set(body: bytes) -> tuple[dict[str, PublicKey], list[str]]:
    """The usable keys by kid, and the faults of the other keys.

    Raises `NoKeySet` if `body` is not a key set.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NoKeySet("not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise NoKeySet("not a key set")
    keys: dict[str, PublicKey] = {}
    refused: list[str] = []
    for position, entry in enumerate(entries):
        try:
            # Some issuers write every possible member, with null for those that the key lacks.
            members = entry.items() if isinstance(entry, dict) else ()
            key = _parse_key({name: value for name, value in members if value is not None})
        # cryptography raises ValueError too, for impossible numbers.
        except ValueError as error:
            refused.append(f"keys[{position}] {error}")
        else:
            if keys.setdefault(key.kid, key) != key:
                refused.append(f"keys[{position}] has the kid of an earlier key")
    return keys, refused


def _parse_key(jwk: dict[str, object]) -> PublicKey:
    """Parses one key. Raises ValueError, whose text completes the sentence "keys[n] …"."""
    kid = jwk.get("kid")
    # The kid is logged, so it must be short and printable.
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_LENGTH_MAX or not kid.isprintable():
        raise ValueError(f"has no kid of 1 to {KID_LENGTH_MAX} printable characters")
    if _PRIVATE_PARTS & jwk.keys():  # the set is public, so any reader can sign with this key
        raise ValueError("contains a private or secret part: treat that key as stolen")
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        raise ValueError("is not for checking signatures")
    match jwk.get("kty"), jwk.get("crv"):
        case "EC", "P-256":
            return _parse_ec_key(kid, jwk)
        case "RSA", _:
            return _parse_rsa_key(kid, jwk)
        case _:
            raise ValueError("is neither EC on P-256 nor RSA")


def _parse_ec_key(kid: str, jwk: dict[str, object]) -> PublicKey:
    if jwk.get("alg", "ES256") != "ES256":
        raise ValueError("is for an algorithm other than ES256")
    x, y = (
        int.from_bytes(decode_base64url(jwk.get("x"))),
        int.from_bytes(decode_base64url(jwk.get("y"))),
    )
    numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
    # public_key() rejects a point that is not on the curve.
    return PublicKey(kid, "ES256", numbers, CryptographyECKey(numbers.public_key(), "ES256"))


def _parse_rsa_key(kid: str, jwk: dict[str, object]) -> PublicKey:
    if jwk.get("alg", "RS256") != "RS256":
        raise ValueError("is for an algorithm other than RS256")
    modulus, exponent = (
        int.from_bytes(decode_base64url(jwk.get("n"))),
        int.from_bytes(decode_base64url(jwk.get("e"))),
    )
    if (
        not RSA_BITS[0] <= modulus.bit_length() <= RSA_BITS[1]
        or exponent.bit_length() > RSA_EXPONENT_BITS_MAX
    ):
        raise ValueError(
            f"is not RSA of {RSA_BITS[0]} to {RSA_BITS[1]} bits with an ordinary exponent"
        )
    numbers = rsa.RSAPublicNumbers(exponent, modulus)
    return PublicKey(kid, "RS256", numbers, CryptographyRSAKey(numbers.public_key(), "RS256"))
