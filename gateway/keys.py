"""The public keys that tokens are checked with: the key set (JWKS) at `JWT_JWKS_URL`, cached.

Promises (interface.md, "Keys"): a key never seen is looked up at once; fetches are limited to five at once
and one more each 12 s, whatever callers send, and one fetch serves all who wait; a key gone from the set is
refused within ten minutes; while the endpoint is down the last good set is kept, for a day at most. Refuses
every key that is not a public ES256 or RS256 key made for signatures. Who may call is decided in `auth.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose.backends.base import Key
from jose.backends.cryptography_backend import CryptographyECKey, CryptographyRSAKey

from domain.errors import KeysUnavailable, Unauthenticated

# A real set is a few keys of 200 to 400 bytes; more is not a key set.
BODY_BYTES_MAX = 64 * 1024
FETCH_SECONDS_MAX = 3.0
# What a flood of made-up kids can make us ask of the endpoint. Every fetch counts: any serves all who wait.
FETCHES_AT_ONCE = 5
SECONDS_PER_FETCH = 12.0
# A kid absent after a fetch is refused this long without another. The count bounds the memory for them.
MISSING_FOR_SECONDS = 60.0
MISSING_KIDS_MAX = 1_000
# Ten minutes are allowed for a removed key. A set older than five is refreshed while it still serves; one
# older than nine (the process was frozen) serves nobody before a fetch was tried: 540 s + 3 s < 600 s.
REFRESH_AFTER_SECONDS = 300.0
WAIT_AFTER_SECONDS = 540.0
# After a failed fetch the last good set serves without waiting: an endpoint that hangs must not hold every
# request for 3 s. The failure is believed this long; the background task tries again sooner.
FAILURE_BELIEVED_SECONDS = 60.0
# Slower than the bucket refills, so that there is a fetch left for a new kid when the endpoint is back.
RETRY_AFTER_SECONDS = 15.0
# Sooner before the first set, since nothing works without one; the bucket still holds us back.
FIRST_RETRY_AFTER_SECONDS = 2.0
# Longer than any outage we have to survive; after it we can no longer vouch for the keys.
KEEP_SECONDS = 24 * 3600.0
KID_LENGTH_MAX = 255
# Below 2048 bits RSA is too weak (RFC 7518 §3.3); above 8192 a check takes milliseconds of everybody's time.
RSA_BITS = (2048, 8192)
RSA_EXPONENT_BITS_MAX = 32

_TICK_SECONDS = 1.0  # how often the background task compares the set's age with the above
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class UnknownKey(Unauthenticated):
    """The token names a key (kid) that the issuer does not publish."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of the set and the only algorithm it may check. Equal if kid, algorithm and numbers are."""

    kid: str
    algorithm: Literal["ES256", "RS256"]
    numbers: ec.EllipticCurvePublicNumbers | rsa.RSAPublicNumbers = field(repr=False)
    checker: Key = field(repr=False, compare=False)  # as python-jose takes it


class KeySet:
    """The cached key set. One per process; `start` once, `close` at the end.

    `clock` gives seconds that never go back. A `session` that is passed in stays the caller's to close.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if session is not None and session.trust_env:
            raise ValueError("the key set must be fetched with trust_env=False: no proxy may choose our keys")
        self._url = url
        self._session = session
        self._owns_session = session is None
        self._clock = clock
        self._fetches_left = float(FETCHES_AT_ONCE)
        self._fetches_counted_at = clock()
        self._keys: dict[str, PublicKey] = {}
        self._missing: OrderedDict[str, float] = OrderedDict()  # kid → until when it is refused unasked
        self._loaded_at: float | None = None
        self._failed_at = -math.inf  # when the last fetch ended, if that failed
        self._loads = 0
        self._generation = 0
        self._fetching: asyncio.Task[bool] | None = None
        self._background: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_loaded(self) -> bool:
        """Whether a set was ever loaded (an empty one counts)."""
        return self._loaded_at is not None

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the fetch that brought the present set began; None before the first."""
        return None if self._loaded_at is None else self._clock() - self._loaded_at

    @property
    def generation(self) -> int:
        """A higher number whenever the set has changed: forget what was concluded from the old one."""
        return self._generation

    async def start(self) -> None:
        """Try once to load the set, and keep it fresh from now on. An endpoint that is down is no error."""
        await self._fetched()
        self._background = asyncio.create_task(self._keep_fresh(), name="key set refresh")

    async def close(self) -> None:
        """Stop refreshing and fetch no more."""
        self._is_closed = True
        tasks = [task for task in (self._background, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._owns_session and self._session is not None:
            await self._session.close()

    async def key(self, kid: str) -> PublicKey:
        """The key named `kid`. Raises UnknownKey, or KeysUnavailable while there is no set to look in."""
        loads_before = self._loads
        await self.refresh_if_old()
        if kid in self._keys:
            return self._keys[kid]
        if len(kid) > KID_LENGTH_MAX or self._missing.get(kid, 0.0) > self._clock():
            raise UnknownKey
        if self._loads == loads_before:  # else the set is newer than the question
            if not await self._fetched():  # so nobody knows whether it is missing
                raise UnknownKey("The token's key (kid) could not be looked up just now. Try again shortly.")
            if kid in self._keys:
                return self._keys[kid]
        self._remember_missing(kid)
        raise UnknownKey

    async def refresh_if_old(self) -> None:
        """Have the set refreshed if it is old, and wait for that only if it may no longer be relied on.

        Whoever keeps conclusions from the set calls this before using them, then compares `generation`.
        Raises KeysUnavailable if no set was ever loaded, or the last one is over a day old.
        """
        age = self.age_seconds
        if age is not None and age < REFRESH_AFTER_SECONDS:
            return
        if self._must_wait(age):
            await self._fetched()
        elif self._is_due():
            self._begin_fetch()
        age = self.age_seconds
        if age is None:
            raise KeysUnavailable
        if age > KEEP_SECONDS:
            raise KeysUnavailable("The keys to check tokens with could not be refreshed for a day.")

    def _must_wait(self, age: float | None) -> bool:
        if not self._is_due() and self._fetching is None:
            return False
        if age is None or age > KEEP_SECONDS:
            return True  # there is nothing else to answer with
        has_just_failed = self._clock() - self._failed_at < FAILURE_BELIEVED_SECONDS
        return age >= WAIT_AFTER_SECONDS and not has_just_failed

    def _is_due(self) -> bool:
        """Whether the set should be fetched for its age (not for a new kid)."""
        age = self.age_seconds
        if age is not None and age < REFRESH_AFTER_SECONDS:
            return False
        retry_after = FIRST_RETRY_AFTER_SECONDS if age is None else RETRY_AFTER_SECONDS
        return self._clock() - self._failed_at >= retry_after

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._is_due():
                await self._fetched()

    async def _fetched(self) -> bool:
        """Wait for a fetch, whoever began it. Whether it brought a set; False also if none is allowed now."""
        fetch = self._begin_fetch()
        # Shielded: a caller who hangs up must not take the fetch away from the others.
        return fetch is not None and await asyncio.shield(fetch)

    def _begin_fetch(self) -> asyncio.Task[bool] | None:
        """The fetch under way, or else a new one; None if none is allowed now."""
        if self._fetching is None and not self._is_closed and self._may_fetch():
            self._fetching = asyncio.create_task(self._load(), name="key set fetch")
        return self._fetching

    def _may_fetch(self) -> bool:
        """Take a fetch from the bucket, if there is one."""
        now = self._clock()
        refilled = self._fetches_left + (now - self._fetches_counted_at) / SECONDS_PER_FETCH
        self._fetches_left, self._fetches_counted_at = min(FETCHES_AT_ONCE, refilled), now
        if self._fetches_left < 1:
            return False
        self._fetches_left -= 1
        return True

    async def _load(self) -> bool:
        began_at = self._clock()
        try:
            keys, refused = _read(await self._download())
        except Exception as error:  # noqa: BLE001 whatever is wrong with the answer, the last good set stays
            self._failed_at = self._clock()
            reason = str(error) if isinstance(error, _BadAnswer) else type(error).__name__
            _log.warning("key_set_not_loaded", reason=reason, age_seconds=self.age_seconds)
            return False
        finally:
            self._fetching = None
        is_news = self._loaded_at is None or keys != self._keys
        # From before the request: a key may have been removed while the answer travelled.
        self._keys, self._loaded_at, self._failed_at = keys, began_at, -math.inf
        self._loads += 1
        if is_news:
            self._generation += 1
            _report(keys, refused)
        return True

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        # A redirect could lead anywhere, and no issuer needs one.
        limits = aiohttp.ClientTimeout(total=FETCH_SECONDS_MAX)
        async with self._session.get(self._url, allow_redirects=False, timeout=limits) as response:
            if response.status != 200:
                raise _BadAnswer(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _BadAnswer(f"more than {BODY_BYTES_MAX} bytes")
            return bytes(body)

    def _remember_missing(self, kid: str) -> None:
        self._missing[kid] = self._clock() + MISSING_FOR_SECONDS
        self._missing.move_to_end(kid)
        if len(self._missing) > MISSING_KIDS_MAX:
            self._missing.popitem(last=False)


class _BadAnswer(Exception):
    """The endpoint answered with something that is no key set."""


def base64url(text: object) -> bytes:
    """The bytes behind `text`. Raises ValueError unless it is base64url, unpadded, in its one spelling."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise ValueError("is not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("is not base64url")
    return data


def _read(body: bytes) -> tuple[dict[str, PublicKey], list[str]]:
    """The usable keys by kid, and why others were refused. Raises `_BadAnswer` if it is no key set at all."""
    try:
        document = json.loads(body.decode("utf-8"))
    except ValueError:
        raise _BadAnswer("not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise _BadAnswer("not a key set")
    keys: dict[str, PublicKey] = {}
    refused: list[str] = []
    for position, entry in enumerate(entries):
        try:
            key = _public_key(entry if isinstance(entry, dict) else {})
        except ValueError as error:  # cryptography's errors for impossible numbers are ValueErrors too
            refused.append(f"keys[{position}] {error}")
        else:
            if keys.setdefault(key.kid, key) != key:
                refused.append(f"keys[{position}] has the kid of an earlier key")
    return keys, refused


def _public_key(jwk: dict[str, object]) -> PublicKey:
    """`jwk` as a key to check signatures with. Raises ValueError, whose text completes "keys[n] …"."""
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_LENGTH_MAX or not kid.isprintable():  # it is logged
        raise ValueError(f"has no kid of 1 to {KID_LENGTH_MAX} printable characters")
    if _PRIVATE_PARTS & jwk.keys():  # published, so anybody can sign with it
        raise ValueError("contains a private or secret part: treat that key as stolen")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
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
    modulus, exponent = int.from_bytes(base64url(jwk.get("n"))), int.from_bytes(base64url(jwk.get("e")))
    if not RSA_BITS[0] <= modulus.bit_length() <= RSA_BITS[1] or exponent.bit_length() > RSA_EXPONENT_BITS_MAX:
        raise ValueError(f"is not RSA of {RSA_BITS[0]} to {RSA_BITS[1]} bits with an ordinary exponent")
    numbers = rsa.RSAPublicNumbers(exponent, modulus)
    return PublicKey(kid, "RS256", numbers, CryptographyRSAKey(numbers.public_key(), "RS256"))


def _report(keys: dict[str, PublicKey], refused: list[str]) -> None:
    """Log what a changed set holds. Kids are public; of refused keys only position and reason are named."""
    _log.info("key_set_loaded", kids=sorted(keys)[:20], count=len(keys))
    if refused:
        _log.warning("key_set_has_unusable_keys", reasons=refused[:20], count=len(refused))
    if not keys:
        _log.warning(
            "key_set_empty",
            hint="No token can be checked with it. A Supabase project that signs with HS256 only serves an "
            "empty set: set JWT_SECRET, or give the project an asymmetric signing key.",
        )
