"""Valid and invalid tokens, and a verifier with their keys."""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jose.backends
import jose.jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from domain.values import Caller
from gateway.auth.keys import KeySet
from gateway.auth.verifier import TokenVerifier

Signer = Callable[[bytes], bytes]

BACKENDS: Any = jose.backends
ISSUER = "https://project.example/auth/v1"
SECRET = "only-the-tests-use-this-secret-of-many-characters"
NOW = 1_800_000_000.0
ABSENT = "(absent)"  # a field with this value is left out
HEADER: dict[str, object] = {"alg": "ES256", "typ": "JWT", "kid": "ec"}
CLAIMS: dict[str, object] = {"iss": ISSUER, "aud": "authenticated", "exp": NOW + 3600, "iat": NOW}
CLAIMS |= {"sub": "user-1", "role": "authenticated"}
HS256 = {"alg": "HS256"}


@cache
def ec_key(name: str = "ours") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def ec_jwk(name: str = "ours") -> dict[str, object]:
    return {
        "kid": "ec",
        "use": "sig",
        **BACKENDS.ECKey(ec_key(name).public_key(), "ES256").to_dict(),
    }


def rsa_jwk() -> dict[str, object]:
    return {"kid": "rsa", **BACKENDS.RSAKey(rsa_key().public_key(), "RS256").to_dict()}


def public(encoding: Encoding) -> bytes:
    return ec_key().public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def es256(data: bytes, name: str = "ours") -> bytes:
    signature: bytes = BACKENDS.ECKey(ec_key(name), "ES256").sign(data)
    return signature


by_another = partial(es256, name="theirs")


def rs256(data: bytes) -> bytes:
    return rsa_key().sign(data, padding.PKCS1v15(), hashes.SHA256())


def hs256(secret: bytes = SECRET.encode()) -> Signer:
    return lambda data: hmac.digest(secret, data, "sha256")


def compact(header: object, claims: object, sign: Signer = es256) -> str:
    """A signed token. Bytes are used as they are, any other part is encoded as JSON."""

    def b64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    parts = [
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)
    ]
    signed = ".".join(b64(part) for part in parts)
    return f"{signed}.{b64(sign(signed.encode()))}"


def token(
    header: Mapping[str, object] | None = None, sign: Signer = es256, **claims: object
) -> str:
    """A valid token with changed header fields and claims."""
    parts = HEADER | dict(header or {}), CLAIMS | claims
    fields, body = (
        {name: value for name, value in part.items() if value is not ABSENT} for part in parts
    )
    return compact(fields, body, sign)


class Service:
    """A verifier and its keys, whose endpoint is a list in memory."""

    def __init__(self, secret: str | None = SECRET, *, allow_anonymous: bool = False) -> None:
        keys = KeysInMemory("https://project.example/keys")
        self.verifier = TokenVerifier(
            keys,
            secret,
            ISSUER,
            "authenticated",
            allow_anonymous=allow_anonymous,
            clock=lambda: NOW,
        )

    async def caller(self, text: str) -> Caller:
        return await self.verifier.authenticate([f"Bearer {text}"])


class KeysInMemory(KeySet):
    async def _download(self) -> bytes:
        return json.dumps({"keys": [ec_jwk(), rsa_jwk()]}).encode()
