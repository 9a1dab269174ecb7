"""An issuer of tokens in place of the project's Supabase Auth, with real keys made at run time.

It publishes its public keys at the same path as Supabase and mints tokens of every kind, including
wrong ones. It can rotate keys, withdraw them, answer with errors, hang, or be down, and counts the
requests for its key set.
"""

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

from tests.stack.ports import release_port, reserve_port

Algorithm = Literal["ES256", "RS256"]

_PATH = "/auth/v1"
_KEYS_PATH = f"{_PATH}/.well-known/jwks.json"

USER = "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a10"  # the `sub` of an app user
BACKEND = "shop-backend"  # the `sub` of a backend: its stable name


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair: the private key that signs, and the public key that is published."""

    kid: str
    algorithm: Algorithm
    private_pem: str
    public_jwk: Mapping[str, str]


class Issuer:
    """`async with Issuer() as issuer: token = issuer.mint(role="service_role")`."""

    def __init__(self) -> None:
        """Creates an issuer with one ES256 key, like a new Supabase project."""
        self.fetches = 0  # requests for the key set, including those answered by an error
        self.failing_with: int | None = None  # answer the next requests with this status
        self.delay_seconds = 0.0  # answer late
        self.port = 0
        # Includes withdrawn keys, because these can still sign.
        self._known: dict[str, SigningKey] = {}
        self._published: list[str] = []
        self._runner: web.AppRunner | None = None
        self.add_key()

    async def __aenter__(self) -> Self:
        self.port = reserve_port()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        release_port(self.port)

    @property
    def url(self) -> str:
        """The name of the issuer: the value of `iss` and of JWT_ISSUER."""
        return f"http://127.0.0.1:{self.port}{_PATH}"

    @property
    def jwks_url(self) -> str:
        """The address of the public keys: JWT_JWKS_URL."""
        return f"http://127.0.0.1:{self.port}{_KEYS_PATH}"

    async def start(self) -> None:
        """Listens again, on the same port."""
        app = web.Application()
        app.router.add_get(_KEYS_PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Refuses connections until `start`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def reset(self) -> None:
        """Makes the issuer answer as at its start. The keys stay."""
        self.fetches, self.failing_with, self.delay_seconds = 0, None, 0.0
        if self._runner is None:
            await self.start()

    def add_key(self, algorithm: Algorithm = "ES256") -> str:
        """Publishes one more key, which signs from now on. Returns its `kid`."""
        key = _new_key(algorithm)
        self._known[key.kid] = key
        self._published.append(key.kid)
        return key.kid

    def rotate(self) -> str:
        """Publishes a new key and withdraws all others. Returns the new `kid`."""
        withdrawn = list(self._published)
        kid = self.add_key()
        for old in withdrawn:
            self.remove_key(old)
        return kid

    def remove_key(self, kid: str) -> None:
        """Withdraws a key. It can still sign, as a stolen key could."""
        self._published.remove(kid)

    @property
    def kids(self) -> list[str]:
        """The published keys, oldest first. The last one signs."""
        return list(self._published)

    def key(self, kid: str) -> SigningKey:
        """Returns the key pair, for tokens that no library would sign."""
        return self._known[kid]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Returns the published key set."""
        return {"keys": [dict(self._known[kid].public_jwk) for kid in self._published]}

    def mint(
        self,
        *,
        sub: str | None = None,
        role: str = "authenticated",
        aud: str = "authenticated",
        iss: str | None = None,
        expires_in_seconds: float = 3600,
        kid: str | None = None,
        claims: Mapping[str, object] | None = None,
        drop: Collection[str] = (),
        headers: Mapping[str, object] | None = None,
    ) -> str:
        """Signs a token, by default for an app user. Any part can be replaced, added or dropped.

        `kid` chooses the key. An unknown `kid` goes only into the header, and the newest key signs.
        """
        payload = self._payload(sub, role, aud, iss, expires_in_seconds) | dict(claims or {})
        for name in drop:
            payload.pop(name)
        key = self._known.get(kid or self._newest) or self._known[self._newest]
        header = {"kid": kid or key.kid, **(headers or {})}
        return str(jwt.encode(payload, key.private_pem, algorithm=key.algorithm, headers=header))

    def mint_with_secret(
        self,
        secret: str,
        *,
        role: str = "authenticated",
        sub: str | None = None,
        kid: str | None = None,
    ) -> str:
        """Signs with a shared secret (HS256), as Supabase projects did before they had keys."""
        payload = self._payload(sub, role, "authenticated", None, 3600)
        return str(
            jwt.encode(payload, secret, algorithm="HS256", headers={"kid": kid} if kid else None)
        )

    def user_token(self, sub: str = USER) -> str:
        """Returns an app user's token, valid for an hour."""
        return self.mint(sub=sub)

    def backend_token(self, sub: str = BACKEND) -> str:
        """Returns a backend's token, valid for an hour."""
        return self.mint(sub=sub, role="service_role")

    @property
    def _newest(self) -> str:
        return self._published[-1] if self._published else next(reversed(self._known))

    def _payload(
        self, sub: str | None, role: str, aud: str, iss: str | None, expires_in_seconds: float
    ) -> dict[str, object]:
        now = int(time.time())
        return {
            "iss": iss or self.url,
            "sub": sub or (BACKEND if role == "service_role" else USER),
            "aud": aud,
            "role": role,
            "iat": now,
            "exp": int(now + expires_in_seconds),
        }

    async def _answer(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if self.failing_with is not None:
            return web.json_response({"message": "unavailable"}, status=self.failing_with)
        return web.json_response(self.jwks())


def _new_key(algorithm: Algorithm) -> SigningKey:
    kid = str(uuid.uuid4())
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = jwk.construct(pem, algorithm).public_key().to_dict()
    return SigningKey(kid, algorithm, pem, {"kid": kid, "use": "sig", **public})
