"""What a key set (JWKS) holds: of whatever an issuer publishes, the keys that may check a signature
here.

Only public ES256 and RS256 keys made for signatures; a key that is anything else is named with its
fault and left out, so that one bad key does not take the good ones away. When a set is fetched, and
how long it is believed: `keys.py`.
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
# Below 2048 bits RSA is too weak (RFC 7518 §3.3); above 8192 a check takes milliseconds of
# everybody's time.
RSA_BITS = (2048, 8192)
RSA_EXPONENT_BITS_MAX = 32

_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of the set and the only algorithm it may check.

    Equal if kid, algorithm and numbers are.
    """

    kid: str
    algorithm: Literal["ES256", "RS256"]
    numbers: ec.EllipticCurvePublicNumbers | rsa.RSAPublicNumbers = field(repr=False)
    checker: Key = field(repr=False, compare=False)  # as python-jose takes it


class NoKeySet(Exception):
    """The endpoint answered with something that is no key set."""


def base64url(text: object) -> bytes:
    """The bytes behind `text`.

    Raises ValueError unless it is base64url, unpadded, in its one spelling.
    """
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise ValueError("is not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("is not base64url")
    return data


def read_key_set(body: bytes) -> tuple[dict[str, PublicKey], list[str]]:
    """The usable keys by kid, and why others were refused.

    Raises `NoKeySet` if it is no key set at all.
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
            # Some issuers write every member that a key could have, and null for those that it has
            # not.
            members = entry.items() if isinstance(entry, dict) else ()
            key = _public_key({name: value for name, value in members if value is not None})
        except (
            ValueError
        ) as error:  # cryptography's errors for impossible numbers are ValueErrors too
            refused.append(f"keys[{position}] {error}")
        else:
            if keys.setdefault(key.kid, key) != key:
                refused.append(f"keys[{position}] has the kid of an earlier key")
    return keys, refused


def _public_key(jwk: dict[str, object]) -> PublicKey:
    """`jwk` as a key to check signatures with.

    Raises ValueError, whose text completes "keys[n] …".
    """
    kid = jwk.get("kid")
    if (
        not isinstance(kid, str) or not 1 <= len(kid) <= KID_LENGTH_MAX or not kid.isprintable()
    ):  # it is logged
        raise ValueError(f"has no kid of 1 to {KID_LENGTH_MAX} printable characters")
    if _PRIVATE_PARTS & jwk.keys():  # published, so anybody can sign with it
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
            return _ec_key(kid, jwk)
        case "RSA", _:
            return _rsa_key(kid, jwk)
        case _:
            raise ValueError("is neither EC on P-256 nor RSA")


def _ec_key(kid: str, jwk: dict[str, object]) -> PublicKey:
    if jwk.get("alg", "ES256") != "ES256":
        raise ValueError("is for another algorithm than ES256")
    x, y = int.from_bytes(base64url(jwk.get("x"))), int.from_bytes(base64url(jwk.get("y")))
    numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
    # public_key() refuses a point that is not on the curve.
    return PublicKey(kid, "ES256", numbers, CryptographyECKey(numbers.public_key(), "ES256"))


def _rsa_key(kid: str, jwk: dict[str, object]) -> PublicKey:
    if jwk.get("alg", "RS256") != "RS256":
        raise ValueError("is for another algorithm than RS256")
    modulus, exponent = (
        int.from_bytes(base64url(jwk.get("n"))),
        int.from_bytes(base64url(jwk.get("e"))),
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
