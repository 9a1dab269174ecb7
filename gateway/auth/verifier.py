"""Authenticates callers by their bearer tokens.

Most checks run before python-jose's own checks, because the library checks too little. It accepts a
token without `aud` or `exp`. It trusts the header's algorithm, unless the code passes one. It reads
`"exp": true` as a number. If a claim occurs twice, it uses the last one.

`Unauthenticated` (401) rejects an invalid token. `NotPermitted` (403) rejects a valid token whose
caller may not use the service. No log line or message contains a token, a secret or the value of a
claim. The issuer and the audience that we expect are not secret, so messages name them.

`keys.py` has the keys, `token_parts.py` reads the parts of a token.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import jose.backends
from jose import jwt
from jose.backends.base import Key
from jose.backends.cryptography_backend import (
    CryptographyECKey,
    CryptographyHMACKey,
    CryptographyRSAKey,
)
from jose.exceptions import ExpiredSignatureError, JWKError

from domain.adapters.jwks import decode_base64url
from domain.errors import ExpiredToken, NotPermitted, Unauthenticated
from domain.values import Caller, Role
from gateway.auth.keys import KeySet
from gateway.auth.token_parts import (
    Algorithm,
    bearer_token,
    parse_json_object,
    read_audiences,
    read_header,
    read_time,
    reject_api_key,
)

# The tolerance for a difference between the clocks of two machines.
LEEWAY_SECONDS = 30
SUBJECT_LENGTH_MAX = 255
# A shorter HS256 secret can be guessed from any token that it signed (RFC 7518 §3.2).
SECRET_BYTES_MIN = 32
# A check costs about 100 µs, and callers send the same token many times, so results are cached. A
# cached result is not used after the token's `exp`.
VERIFIED_FOR_SECONDS = 300.0
VERIFIED_TOKENS_MAX = 10_000

# The role of a token that opens the console only. `Role` does not have it, so it has no right here.
OPERATOR_ROLE = "operator"

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_OPTIONS = {
    **{f"verify_{name}": True for name in ("signature", "aud", "iss", "exp", "nbf", "iat", "sub")},
    **{f"require_{name}": True for name in ("aud", "iss", "exp", "sub")},
    # `at_hash` belongs to ID tokens, which we do not accept. To check it, jose would also need the
    # access token.
    "verify_at_hash": False,
    "verify_jti": False,  # this service does not read `jti`
    "leeway": LEEWAY_SECONDS,
}


@dataclass(frozen=True, slots=True)
class _CachedCaller:
    """The caller of a verified token. The entry is valid before `until` (Unix seconds)."""

    caller: Caller
    until: float
    is_by_key_set: bool


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """The claims of a valid token, and its `exp` (Unix seconds)."""

    claims: dict[str, object]
    expires_at: float
    is_by_key_set: bool


class TokenVerifier:
    """Authenticates a request by its Authorization header.

    * `keys` checks ES256 and RS256 tokens. If it is None, these tokens are rejected.
    * `secret` checks HS256 tokens. If it is None, these tokens are rejected.
    * `issuer`: only tokens of this issuer are accepted. `former_issuers` are its earlier names,
      oldest first. A `Caller` always has the oldest name, because idempotency keys and limits
      belong to that name.
    * `clock` returns Unix seconds.

    Raises ValueError for settings that cannot work. Raises RuntimeError if python-jose does not use
    `cryptography`, because its other backends have known flaws.
    """

    def __init__(
        self,
        keys: KeySet | None,
        secret: str | None,
        issuer: str,
        audience: str,
        *,
        former_issuers: Sequence[str] = (),
        allow_anonymous: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _require_cryptography_backend()
        if not issuer or not audience:
            raise ValueError("JWT_ISSUER and JWT_AUDIENCE must be set")
        if keys is None and secret is None:
            raise ValueError("JWT_JWKS_URL or JWT_SECRET must be set")
        self._keys = keys
        self._secret: Key | None = None if secret is None else _secret_key(secret)
        self._issuer = issuer
        self._caller_issuer = [*former_issuers, issuer][0]
        self._audience = audience
        self._allow_anonymous = allow_anonymous
        self._clock = clock
        # The cache's keys are digests of tokens, so that a memory dump of it contains no token.
        self._cache: OrderedDict[bytes, _CachedCaller] = OrderedDict()
        self._generation = 0 if keys is None else keys.generation

    async def authenticate(self, authorization: list[str]) -> Caller:
        """The caller of a request. `authorization`: all values of its Authorization header.

        Raises Unauthenticated, NotPermitted, or KeysUnavailable while no keys are loaded.
        """
        token = bearer_token(authorization)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        entry = self._cache.get(digest)
        if entry is not None:
            if entry.is_by_key_set and self._keys is not None:
                # Without this refresh, a token in constant use would stay valid after the issuer
                # removed its key.
                if not self._keys.is_fresh:
                    await self._keys.refresh_if_old()
                self._clear_if_keys_changed()
            if (caller := self._cached_caller(digest)) is not None:
                return caller
        return await self._verify(token, digest)

    async def read_claims(self, token: str) -> VerifiedClaims:
        """The claims of a valid token, whatever its role. The console signs operators in by it.

        Raises Unauthenticated, or KeysUnavailable while no keys are loaded.
        """
        return await self._verify_claims(bearer_token([f"Bearer {token}"]))

    async def _verify(self, token: str, digest: bytes) -> Caller:
        verified = await self._verify_claims(token)
        caller = self._check_role(verified.claims)
        # There was no await since the key was found, so the key is of the present generation.
        self._store(digest, caller, verified.expires_at, is_by_key_set=verified.is_by_key_set)
        return caller

    async def _verify_claims(self, token: str) -> VerifiedClaims:
        segments = _TOKEN.fullmatch(token)
        if segments is None:
            raise Unauthenticated("The token is not a signed JWT.")
        header_fields, claims = (
            parse_json_object(segments[1], "header"),
            parse_json_object(segments[2], "payload"),
        )
        reject_api_key(header_fields, claims)
        algorithm, kid = read_header(header_fields)
        # The claims are checked first, because that is cheap, and an expired token then needs no
        # look-up of keys. A forger learns only documented facts from the rejection. The role is
        # checked after the signature, because only a valid token may get a 403.
        expires_at = self._check_claims(claims)
        key = await self._find_key(algorithm, kid)
        self._check_signature(token, algorithm, key)
        return VerifiedClaims(claims, expires_at, is_by_key_set=algorithm != "HS256")

    async def _find_key(self, algorithm: Algorithm, kid: str | None) -> Key:
        """The key that checks the token. The algorithm alone selects the secret or the key set."""
        match algorithm:
            case "HS256":
                if self._secret is None:
                    raise Unauthenticated(
                        "The token is signed with HS256, which is not accepted here."
                    )
                return self._secret
            case "ES256" | "RS256":
                if self._keys is None:
                    raise Unauthenticated(
                        f"The token is signed with {algorithm}, which is not accepted here."
                    )
                if kid is None:
                    raise Unauthenticated("The token's header does not name its key (kid).")
                key = await self._keys.find_key(kid)
                if key.algorithm != algorithm:
                    raise Unauthenticated("The token's algorithm is not that of its key.")
                return key.checker
            case _:
                assert_never(algorithm)

    def _check_signature(self, token: str, algorithm: Algorithm, key: Key) -> None:
        try:
            # jose accepts several spellings of one signature, so check the spelling first.
            decode_base64url(token.rpartition(".")[2])
            jwt.decode(
                token,
                key,
                algorithms=[algorithm],  # a list, because jose searches a string for substrings
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
        except ExpiredSignatureError:  # the token has expired since `_check_claims`
            raise ExpiredToken from None
        except Exception:  # noqa: BLE001 - hostile input makes jose raise undocumented exceptions
            raise Unauthenticated("The token's signature is not valid.") from None

    def _check_claims(self, claims: dict[str, object]) -> float:
        """Rejects claims that are absent, malformed or not for us. Returns `exp` (Unix seconds)."""
        for name in ("iss", "aud", "exp", "sub", "role"):
            if name not in claims:
                expected = f" It must be {self._issuer}." if name == "iss" else ""
                raise Unauthenticated(f"The token has no {name} claim.{expected}")
        if claims["iss"] != self._issuer:
            raise Unauthenticated(
                f"The token's issuer (iss) is not {self._issuer}, which is expected here."
            )
        if self._audience not in read_audiences(claims["aud"]):
            raise Unauthenticated(f"The token's audience (aud) is not {self._audience}.")
        now = self._clock()
        expires_at = read_time(claims, "exp")
        if now >= expires_at + LEEWAY_SECONDS:
            raise ExpiredToken
        if "nbf" in claims and read_time(claims, "nbf") > now + LEEWAY_SECONDS:
            raise Unauthenticated("The token is not valid yet (nbf).")
        if "iat" in claims:
            read_time(claims, "iat")
        subject, role = claims["sub"], claims["role"]
        # The subject becomes an owner and part of a key in Postgres, which cannot store NUL.
        if (
            not isinstance(subject, str)
            or not 1 <= len(subject) <= SUBJECT_LENGTH_MAX
            or not subject.isprintable()
        ):
            raise Unauthenticated(
                f"The token's sub claim is not 1 to {SUBJECT_LENGTH_MAX} printable characters."
            )
        if not isinstance(role, str) or not role:
            raise Unauthenticated("The token's role claim is not a name.")
        return expires_at

    def _check_role(self, claims: dict[str, object]) -> Caller:
        """The caller that valid claims name. Raises NotPermitted if its role may not call."""
        try:
            role = Role(str(claims["role"]))
        except ValueError:
            raise NotPermitted(_describe_wrong_role(claims["role"])) from None
        # A user has signed in if `is_anonymous` is `false` or absent.
        if (
            role is Role.USER
            and not self._allow_anonymous
            and claims.get("is_anonymous", False) is not False
        ):
            raise NotPermitted("Anonymous users may not use this service. Sign in first.")
        return Caller(self._caller_issuer, str(claims["sub"]), role)

    def _cached_caller(self, digest: bytes) -> Caller | None:
        """The caller of a token that was verified recently, if its key is still in the set."""
        entry = self._cache.get(digest)
        if entry is None:
            return None
        if self._clock() >= entry.until:
            del self._cache[digest]
            return None
        self._cache.move_to_end(digest)
        return entry.caller

    def _store(
        self, digest: bytes, caller: Caller, expires_at: float, *, is_by_key_set: bool
    ) -> None:
        self._clear_if_keys_changed()
        until = min(expires_at, self._clock() + VERIFIED_FOR_SECONDS)
        self._cache[digest] = _CachedCaller(caller, until, is_by_key_set)
        if len(self._cache) > VERIFIED_TOKENS_MAX:
            self._cache.popitem(last=False)

    def _clear_if_keys_changed(self) -> None:
        if self._keys is not None and self._keys.generation != self._generation:
            self._cache.clear()
            self._generation = self._keys.generation


def _describe_wrong_role(role: object) -> str:
    send = f"Send a token of the role {Role.USER} (an app's user) or {Role.BACKEND} (a backend)."
    if role == OPERATOR_ROLE:
        return f"The role {role} signs in at /console and may not call the API under /v1. {send}"
    return f"The token's role may not use this service. {send}"


def _require_cryptography_backend() -> None:
    backends = jose.backends.ECKey, jose.backends.RSAKey, jose.backends.HMACKey
    if backends != (CryptographyECKey, CryptographyRSAKey, CryptographyHMACKey):
        raise RuntimeError(
            "python-jose must use its cryptography backend: install python-jose[cryptography]"
        )


def _secret_key(secret: str) -> Key:
    if len(secret.encode()) < SECRET_BYTES_MIN:
        raise ValueError(f"JWT_SECRET must be at least {SECRET_BYTES_MIN} bytes")
    try:
        return CryptographyHMACKey(secret, "HS256")
    except JWKError:
        raise ValueError("JWT_SECRET must be a shared secret, not a key or certificate") from None
