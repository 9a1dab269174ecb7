"""An issuer with a real endpoint, and a key set and a verifier whose clock the test sets."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Self

import jose.backends
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwt

from domain.errors import UnknownKey
from gateway.auth.keys import KeySet
from gateway.auth.verifier import TokenVerifier
from tests.integration.raw_server import RawServer

ISSUER = "https://project.example/auth/v1"
SECRET = "only-the-tests-use-this-secret-of-many-characters"
BACKENDS: Any = jose.backends


@cache
def private(kid: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def jwk(key: str, **changes: object) -> dict[str, object]:
    return {
        **BACKENDS.ECKey(private(key).public_key(), "ES256").to_dict(),
        "kid": key,
        "use": "sig",
        **changes,
    }


@cache
def private_rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def rsa_jwk(bits: int, **changes: object) -> dict[str, object]:
    public = private_rsa(bits).public_key()
    return {**BACKENDS.RSAKey(public, "RS256").to_dict(), "kid": "rsa", **changes}


def token(kid: str | None, *, header_kid: str | None = None, **changes: object) -> str:
    """Return a valid token, signed with the key `kid`, or with the secret if `kid` is None.

    If `header_kid` is given, the token's header names that key.
    """
    claims = {
        "iss": ISSUER,
        "aud": "authenticated",
        "exp": time.time() + 3600,
        "sub": "user",
        "role": "authenticated",
    }
    if kid is None:
        return jwt.encode(claims | changes, SECRET, "HS256")
    return jwt.encode(
        claims | changes,
        BACKENDS.ECKey(private(kid), "ES256"),
        "ES256",
        headers={"kid": kid if header_kid is None else header_kid},
    )


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: str = "200 OK", *fields: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def sending(*parts: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


FAILING = sending(answer(b"", "500 Internal Server Error"))


class Issuer(RawServer):
    """The issuer's endpoint, whose answers the test sets, with a key set and a verifier.

    At first, the set has one key, `first`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jwks: list[object] = [jwk("first")]
        self.script: Script | None = None  # replaces the answer with the keys
        self.is_open = asyncio.Event()  # while clear, the endpoint sends no answer
        self.is_open.set()
        self.has_request = asyncio.Event()
        self.requests: list[bytes] = []  # with all header fields
        self.connections = 0
        self.keeps_connections = False
        self.now = float(int(time.time()))  # our clock; python-jose reads the real one

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.keys = self.key_set()
        self.verifier = TokenVerifier(
            self.keys, SECRET, ISSUER, "authenticated", clock=lambda: self.now
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.keys.close()
        await super().__aexit__(*error)

    @property
    def fetches(self) -> int:
        return len(self.requests)

    def key_set(self, *, host: str = "127.0.0.1", has_secret: bool = False) -> KeySet:
        url = f"http://{host}:{self.port}/keys"
        return KeySet(url, clock=lambda: self.now, has_secret=has_secret)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            self.has_request.set()
            # A late answer, too, has the keys of the time of the request.
            script = self.script or sending(answer(key_set(*self.jwks)))
            await self.is_open.wait()
            await script(writer)
            if not self.keeps_connections:
                break

    async def knows(self, kid: str) -> bool:
        try:
            return (await self.keys.find_key(kid)).kid == kid
        except UnknownKey:
            return False

    async def subject(self, text: str) -> str:
        return (await self.verifier.authenticate([f"Bearer {text}"])).subject
