"""An issuer with a real endpoint, and a key set and a verifier whose clock the test sets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jose.backends
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwt

from domain.errors import UnknownKey
from gateway.auth.keys import KeySet
from gateway.auth.verifier import TokenVerifier

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


def rsa_jwk(bits: int, **changes: object) -> dict[str, object]:
    public = rsa.generate_private_key(65537, bits).public_key()
    return {**BACKENDS.RSAKey(public, "RS256").to_dict(), "kid": "rsa", **changes}


def token(kid: str | None, *, header_kid: str | None = None, **changes: object) -> str:
    """Return a valid token, signed by that key, or by the secret if `kid` is None.

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


class Issuer:
    """The issuer's endpoint, whose answers the test sets, with a key set and a verifier."""

    def __init__(self) -> None:
        self.jwks: list[object] = [jwk("first")]
        self.answer: Callable[[], web.Response] | None = None  # instead of the keys
        self.is_open = asyncio.Event()  # while clear, no answer leaves
        self.is_open.set()
        self.has_request = asyncio.Event()
        self.fetches = 0
        self.now = time.time()  # for keys and tokens; python-jose reads the real clock

    def start(self, url: str) -> None:
        self.keys = KeySet(url, clock=lambda: self.now)
        self.verifier = TokenVerifier(
            self.keys, SECRET, ISSUER, "authenticated", clock=lambda: self.now
        )

    async def serve(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        self.has_request.set()
        keys = list(self.jwks)  # the keys at the time of the request, also for a late answer
        await self.is_open.wait()
        return self.answer() if self.answer else web.json_response({"keys": keys})

    async def knows(self, kid: str) -> bool:
        try:
            return (await self.keys.find_key(kid)).kid == kid
        except UnknownKey:
            return False

    async def subject(self, text: str) -> str:
        return (await self.verifier.authenticate([f"Bearer {text}"])).subject


@asynccontextmanager
async def an_issuer() -> AsyncIterator[Issuer]:
    """Start an issuer with one key, `first`, that has received no request yet."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/keys", issuer.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.start(f"http://127.0.0.1:{runner.addresses[0][1]}/keys")
    try:
        yield issuer
    finally:
        await issuer.keys.close()
        issuer.is_open.set()
        await runner.cleanup()
