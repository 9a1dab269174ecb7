"""Who is calling: a bearer token in, a `Caller` out.

Checks more than python-jose does, and before it: the library takes a token without `aud` or `exp`,
trusts the header's algorithm unless one is passed, reads `"exp": true` as a number, and of two
equal claims the last. Refuses with `Unauthenticated` (401) what is no valid token, with
`NotPermitted` (403) a valid one of a wrong kind. No token, secret or claim's value is logged or
repeated in a message. The issuer and the audience that we expect are no secrets, and a refusal
names them. The keys are in `keys.py`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import jose.backends
from jose import jwt
from jose.backends.base import Key
from jose.backends.cryptography_backend import (
    CryptographyECKey,
    CryptographyHMACKey,
    CryptographyRSAKey,
)
from jose.exceptions import ExpiredSignatureError, JWKError

from domain.adapters.strict_json import parse
from domain.errors import NotPermitted, Unauthenticated
from domain.values import Caller, Role
from gateway.auth.jwks import KID_LENGTH_MAX, base64url
from gateway.auth.keys import KeySet

# Supabase's tokens are about 1 KiB; the rest is room for custom claims. Less than the 8,190 bytes
# that aiohttp takes for a header, so that a token which is somewhat too long is told so.
TOKEN_BYTES_MAX = 7 * 1024
# Clocks of different machines. RFC 8725 and our contract allow up to a minute.
LEEWAY_SECONDS = 30
SUBJECT_LENGTH_MAX = 255
# RFC 7518 §3.2: an HS256 secret shorter than its hash can be guessed from any token signed with it.
SECRET_BYTES_MIN = 32
# A check costs about 100 µs, and callers send one token many times. None is believed past its own
# `exp`.
VERIFIED_FOR_SECONDS = 300.0
VERIFIED_TOKENS_MAX = 10_000

# They bring or point to a key of the sender's choice (RFC 8725 §3.10), or change what the signature
# covers.
_FORBIDDEN_HEADERS = frozenset({"jku", "x5u", "jwk", "x5c", "crit", "b64"})
_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_LATEST_TIME = 2**53  # beyond it a JSON number is no longer exact; also keeps out 1e999
_OPTIONS = {
    **{f"verify_{what}": True for what in ("signature", "aud", "iss", "exp", "nbf", "iat", "sub")},
    **{f"require_{what}": True for what in ("aud", "iss", "exp", "sub")},
    # Of ID tokens that accompany an access token: not our kind, and jose would ask for that token.
    "verify_at_hash": False,
    "verify_jti": False,  # nobody here reads it
    "leeway": LEEWAY_SECONDS,
}

_SEND_A_TOKEN = "Send a token as Authorization: Bearer <JWT>."  # noqa: S105 a sentence
_API_KEY = (
    "This is a Supabase API key, which names no caller. Mint a token with the project's signing key and send "
    "that; the README shows how."
)

_Algorithm = Literal["ES256", "RS256", "HS256"]
_ALGORITHMS: tuple[_Algorithm, ...] = ("ES256", "RS256", "HS256")


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a valid token said, which may be believed before `until` (Unix seconds)."""

    caller: Caller
    until: float
    is_by_key_set: bool


class TokenVerifier:
    """Authenticates a request by its Authorization header.

    `keys` checks ES256 and RS256 tokens, `secret` HS256 ones; without one of them its tokens are
    refused. Only tokens of `issuer` are accepted. Callers are named by the first of
    `former_issuers`, what `issuer` was called at first: idempotency keys and limits belong to that
    name. `clock` gives Unix seconds. Raises ValueError for settings that could never work, and
    RuntimeError if python-jose would not check with `cryptography` (its other backends have known
    flaws).
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
        self._verified: OrderedDict[bytes, _Verified] = (
            OrderedDict()
        )  # by SHA-256: a dump of it holds no token
        self._generation = 0 if keys is None else keys.generation

    async def caller(self, authorization: list[str]) -> Caller:
        """Who sent the request, given all values of its Authorization header.

        Raises Unauthenticated, NotPermitted, or KeysUnavailable while there are no keys to tell.
        """
        token = _bearer_token(authorization)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        return await self._remembered(digest) or await self._checked(token, digest)

    async def _checked(self, token: str, digest: bytes) -> Caller:
        segments = _TOKEN.fullmatch(token)
        if segments is None:
            raise Unauthenticated("The token is not a signed JWT.")
        header_fields, claims = (
            _json_object(segments[1], "header"),
            _json_object(segments[2], "payload"),
        )
        _refuse_api_key(header_fields, claims)
        algorithm, kid = _header(header_fields)
        # Claims first: they cost nothing, and a stale token need not look up keys. They tell a
        # forger nothing that is not documented; what only a valid signature may learn (403) comes
        # after it.
        expires_at = self._check_claims(claims)
        key = await self._key(algorithm, kid)
        self._check_signature(token, algorithm, key)
        caller = self._authorized(claims)
        # No await since the key was found, so this is the generation that it is of.
        self._remember(digest, caller, expires_at, is_by_key_set=algorithm != "HS256")
        return caller

    async def _key(self, algorithm: _Algorithm, kid: str | None) -> Key:
        """The one key to check with.

        The algorithm alone says whether it is the secret or one of the set.
        """
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
                key = await self._keys.key(kid)
                if key.algorithm != algorithm:
                    raise Unauthenticated("The token's algorithm is not that of its key.")
                return key.checker
            case _:
                assert_never(algorithm)

    def _check_signature(self, token: str, algorithm: _Algorithm, key: Key) -> None:
        try:
            base64url(
                token.rpartition(".")[2]
            )  # jose would take several spellings of one signature
            jwt.decode(
                token,
                key,
                algorithms=[algorithm],  # a list: in a string jose would look for a part of it
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
        except ExpiredSignatureError:  # in the instant since we looked
            raise Unauthenticated("The token has expired.") from None
        except Exception:  # noqa: BLE001 hostile input makes jose raise more kinds than it names
            raise Unauthenticated("The token's signature is not valid.") from None

    def _check_claims(self, claims: dict[str, object]) -> float:
        """Refuse claims that are absent, malformed or not for us.

        Returns `exp`, in Unix seconds.
        """
        for name in ("iss", "aud", "exp", "sub", "role"):
            if name not in claims:
                expected = f" It must be {self._issuer}." if name == "iss" else ""
                raise Unauthenticated(f"The token has no {name} claim.{expected}")
        if claims["iss"] != self._issuer:
            raise Unauthenticated(
                f"The token has another issuer (iss) than {self._issuer}, which is expected here."
            )
        if self._audience not in _audiences(claims["aud"]):
            raise Unauthenticated(f"The token is for another audience (aud) than {self._audience}.")
        now = self._clock()
        expires_at = _time(claims, "exp")
        if now >= expires_at + LEEWAY_SECONDS:
            raise Unauthenticated("The token has expired.")
        if "nbf" in claims and _time(claims, "nbf") > now + LEEWAY_SECONDS:
            raise Unauthenticated("The token is not valid yet (nbf).")
        if "iat" in claims:
            _time(claims, "iat")
        subject, role = claims["sub"], claims["role"]
        # The subject becomes an owner and part of a key in Postgres, which holds no NUL.
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

    def _authorized(self, claims: dict[str, object]) -> Caller:
        """The caller that valid claims name, if one of that kind may call at all."""
        try:
            role = Role(str(claims["role"]))
        except ValueError:
            raise NotPermitted("The token's role may not use this service.") from None
        # Anything but a plain `false` is not proof that somebody signed in.
        if (
            role is Role.USER
            and not self._allow_anonymous
            and claims.get("is_anonymous", False) is not False
        ):
            raise NotPermitted("Anonymous users may not use this service. Sign in first.")
        return Caller(self._caller_issuer, str(claims["sub"]), role)

    async def _remembered(self, digest: bytes) -> Caller | None:
        """The caller of a token that was checked a short while ago, by keys that are still the
        set's.
        """
        entry = self._verified.get(digest)
        if entry is None:
            return None
        if entry.is_by_key_set and self._keys is not None:
            # Without this a busy token would never let us hear that its key is gone.
            await self._keys.refresh_if_old()
            self._forget_if_keys_changed()
        if self._clock() >= entry.until:
            self._verified.pop(digest, None)
        if digest not in self._verified:
            return None
        self._verified.move_to_end(digest)
        return self._verified[digest].caller

    def _remember(
        self, digest: bytes, caller: Caller, expires_at: float, *, is_by_key_set: bool
    ) -> None:
        self._forget_if_keys_changed()
        until = min(expires_at, self._clock() + VERIFIED_FOR_SECONDS)
        self._verified[digest] = _Verified(caller, until, is_by_key_set)
        if len(self._verified) > VERIFIED_TOKENS_MAX:
            self._verified.popitem(last=False)

    def _forget_if_keys_changed(self) -> None:
        if self._keys is not None and self._keys.generation != self._generation:
            self._verified.clear()
            self._generation = self._keys.generation


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


def _bearer_token(authorization: list[str]) -> str:
    """The token in the header's only value, as ASCII of a permitted length."""
    if not authorization:
        raise Unauthenticated(_SEND_A_TOKEN)
    if len(authorization) > 1:
        raise Unauthenticated("Send one Authorization header, not several.")
    scheme, _, token = authorization[0].strip(" \t").partition(" ")
    token = token.lstrip(" ")
    if (token or scheme).startswith(("sb_secret_", "sb_publishable_")):
        raise Unauthenticated(_API_KEY)
    if scheme.lower() != "bearer":
        raise Unauthenticated(
            f"The Authorization header has another scheme than Bearer. {_SEND_A_TOKEN}"
        )
    if not token:
        raise Unauthenticated(f"The Authorization header holds no token. {_SEND_A_TOKEN}")
    if len(token) > TOKEN_BYTES_MAX:
        raise Unauthenticated(f"The token is longer than {TOKEN_BYTES_MAX} bytes.")
    if not token.isascii():
        raise Unauthenticated("The token is not a signed JWT.")
    return token


def _json_object(segment: str, part: str) -> dict[str, object]:
    """The JSON object in a segment of the token: no name twice, no NaN, no depth that exhausts
    us.
    """
    try:
        value = parse(
            base64url(segment), depth_max=None, has_exact_numbers=False, may_begin_with_bom=False
        )
    except ValueError:  # Unreadable is one, and `base64url` raises one
        raise Unauthenticated(f"The token's {part} cannot be read.") from None
    if not isinstance(value, dict):
        raise Unauthenticated(f"The token's {part} is not a JSON object.")
    return value


def _refuse_api_key(header: dict[str, object], claims: dict[str, object]) -> None:
    """Name the commonest mistake: Supabase's legacy API keys are JWTs, but of a project, not of
    a caller.
    """
    is_of_project = claims.get("iss") == "supabase" and "ref" in claims
    # The key of a local stack has no `ref`.
    is_of_local_stack = claims.get("iss") == "supabase-demo"
    if (
        header.get("alg") == "HS256"
        and "sub" not in claims
        and (is_of_project or is_of_local_stack)
    ):
        raise Unauthenticated(_API_KEY)


def _header(fields: dict[str, object]) -> tuple[_Algorithm, str | None]:
    if _FORBIDDEN_HEADERS & fields.keys():
        raise Unauthenticated("The token's header has a field that is not accepted here.")
    kind = fields.get("typ", "JWT")
    if not isinstance(kind, str) or kind.upper() != "JWT":
        raise Unauthenticated("The token's header says that it is not a JWT (typ).")
    algorithm = next((name for name in _ALGORITHMS if name == fields.get("alg")), None)
    if algorithm is None:
        raise Unauthenticated("The token is not signed with an algorithm that is accepted here.")
    if "kid" not in fields:
        return algorithm, None
    kid = fields["kid"]
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_LENGTH_MAX:
        raise Unauthenticated(
            f"The token's key (kid) is not named by 1 to {KID_LENGTH_MAX} characters."
        )
    return algorithm, kid


def _audiences(claim: object) -> list[str]:
    names = [claim] if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Unauthenticated("The token's aud claim is not a name or a list of names.")
    return names


def _time(claims: dict[str, object], name: str) -> float:
    value = claims[name]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -_LATEST_TIME <= value <= _LATEST_TIME
    ):
        raise Unauthenticated(f"The token's {name} claim is not a time.")
    return value
