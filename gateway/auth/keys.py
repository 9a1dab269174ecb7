"""The public keys that tokens are checked with: the key set (JWKS) at `JWT_JWKS_URL`, cached.

Promises: a key never seen is looked up at once; fetches are limited to five
at once and one more each 12 s, whatever callers send, and one fetch serves all who wait; a key gone
from the set is refused within ten minutes; while the endpoint is down the last good set is kept,
for a day at most. Its age and the fetches are metrics. What of a set is used: `jwks.py`. Who may
call is decided in `auth.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

import aiohttp
import structlog

from domain.adapters import observability
from domain.errors import KeysUnavailable, UnknownKey
from gateway.auth.jwks import KID_LENGTH_MAX, NoKeySet, PublicKey, read_key_set

# A real set is a few keys of 200 to 400 bytes; more is not a key set.
BODY_BYTES_MAX = 64 * 1024
FETCH_SECONDS_MAX = 3.0
# What a flood of made-up kids can make us ask of the endpoint. Every fetch counts: any serves all
# who wait.
FETCHES_AT_ONCE = 5
SECONDS_PER_FETCH = 12.0
# A kid absent after a fetch is refused this long without another. The count bounds the memory for
# them.
MISSING_FOR_SECONDS = 60.0
MISSING_KIDS_MAX = 1_000
# Ten minutes are allowed for a removed key. A set older than five is refreshed while it still
# serves; one older than nine (the process was frozen) serves nobody before a fetch was tried: 540 s
# + 3 s < 600 s.
REFRESH_AFTER_SECONDS = 300.0
WAIT_AFTER_SECONDS = 540.0
# After a failed fetch the last good set serves without waiting: an endpoint that hangs must not
# hold every request for 3 s. The failure is believed this long; the background task tries again
# sooner.
FAILURE_BELIEVED_SECONDS = 60.0
# Slower than the bucket refills, so that there is a fetch left for a new kid when the endpoint is
# back.
RETRY_AFTER_SECONDS = 15.0
# Sooner before the first set, since nothing works without one; the bucket still holds us back.
FIRST_RETRY_AFTER_SECONDS = 2.0
# Longer than any outage we have to survive; after it we can no longer vouch for the keys.
KEEP_SECONDS = 24 * 3600.0

_NO_AGE = -1.0  # what the metric says while there is no set
_TICK_SECONDS = 1.0  # how often the background task compares the set's age with the above

_EMPTY_HINT = (
    "A Supabase project that signs with HS256 only publishes no key: set JWT_SECRET, or give the project an asymmetric "
    "signing key, which is noticed within five minutes."
)

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class KeySet:
    """The cached key set. One per process; `start` once, `close` at the end.

    `clock` gives seconds that never go back. `has_secret`: tokens can also be checked with
    JWT_SECRET, so that an empty set is nothing to warn of.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        has_secret: bool = False,
    ) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._clock = clock
        self._has_secret = has_secret
        self._fetches_left = float(FETCHES_AT_ONCE)
        self._fetches_counted_at = clock()
        self._keys: dict[str, PublicKey] = {}
        self._missing: OrderedDict[str, float] = (
            OrderedDict()
        )  # kid → until when it is refused unasked
        self._loaded_at: float | None = None
        self._failed_at = -math.inf  # when the last fetch ended, if that failed
        self._fetches_begun = 0
        self._loaded_by = 0  # the number of the fetch that brought the present set
        self._generation = 0
        self._fetching: asyncio.Task[None] | None = None
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
        """A higher number whenever the set has changed: forget what was concluded from the old
        one.
        """
        return self._generation

    async def start(self) -> None:
        """Try once to load the set, and keep it fresh from now on.

        An endpoint that is down is no error.
        """
        # Asked for at each look, so that it also grows while nothing happens here.
        observability.key_set_age_seconds.set_function(
            lambda: _NO_AGE if self.age_seconds is None else self.age_seconds
        )
        await self._fetched()
        self._background = asyncio.create_task(self._keep_fresh(), name="key set refresh")

    async def close(self) -> None:
        """Stop refreshing and fetch no more."""
        self._is_closed = True
        observability.key_set_age_seconds.set_function(lambda: _NO_AGE)
        tasks = [task for task in (self._background, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def key(self, kid: str) -> PublicKey:
        """The key named `kid`.

        Raises UnknownKey, or KeysUnavailable while there is no set to look in.
        """
        begun_before = self._fetches_begun
        await self.refresh_if_old()
        if kid in self._keys:
            return self._keys[kid]
        if len(kid) > KID_LENGTH_MAX or self._missing.get(kid, 0.0) > self._clock():
            raise UnknownKey
        if self._loaded_by <= begun_before:  # else the set is newer than the question
            await self._fetched()
            if kid in self._keys:
                return self._keys[kid]
            # No fetch was allowed, or it failed, or it was under way when we asked and the key was
            # published since: nobody knows whether the key is missing, so it is not refused for a
            # minute.
            if self._loaded_by <= begun_before:
                raise UnknownKey(
                    "The token's key (kid) could not be looked up just now. Try again shortly."
                )
        self._remember_missing(kid)
        raise UnknownKey

    async def refresh_if_old(self) -> None:
        """Have the set refreshed if it is old, and wait for that only if it may no longer be relied
        on.

        Whoever keeps conclusions from the set calls this before using them, then compares
        `generation`. Raises KeysUnavailable if no set was ever loaded, or the last one is over a
        day old.
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

    async def _fetched(self) -> None:
        """Wait for a fetch, whoever began it, if one is allowed now. It may have failed."""
        fetch = self._begin_fetch()
        if fetch is not None:
            await asyncio.shield(
                fetch
            )  # a caller who hangs up must not take the fetch away from the others

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or else a new one; None if none is allowed now."""
        if self._fetching is None and not self._is_closed and self._may_fetch():
            self._fetches_begun += 1
            self._fetching = asyncio.create_task(
                self._load(self._fetches_begun), name="key set fetch"
            )
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

    async def _load(self, number: int) -> None:
        began_at = self._clock()
        try:
            keys, refused = read_key_set(await self._download())
        except Exception as error:  # noqa: BLE001 whatever is wrong with the answer, the last good set stays
            self._failed_at = self._clock()
            is_answer = isinstance(error, NoKeySet)
            reason = str(error) if is_answer else type(error.__cause__ or error).__name__
            observability.key_set_fetches.labels(
                result="bad_answer" if is_answer else "no_answer"
            ).inc()
            _log.warning("key_set_not_loaded", reason=reason, age_seconds=self.age_seconds)
            return
        finally:
            self._fetching = None
        is_news = self._loaded_at is None or keys != self._keys
        # From before the request: a key may have been removed while the answer travelled.
        self._keys, self._loaded_at, self._failed_at = keys, began_at, -math.inf
        self._loaded_by = number
        observability.key_set_fetches.labels(result="loaded").inc()
        if is_news:
            self._generation += 1
            self._report(refused)

    async def _download(self) -> bytes:
        if self._session is None:
            # No proxy of the environment may choose our keys. Fetches are minutes apart: a kept
            # connection would be closed at the other end by then.
            self._session = aiohttp.ClientSession(
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(force_close=True),
                middlewares=[_only_once],
            )
        # A redirect could lead anywhere, and no issuer needs one.
        limits = aiohttp.ClientTimeout(total=FETCH_SECONDS_MAX)
        async with self._session.get(self._url, allow_redirects=False, timeout=limits) as response:
            if response.status != 200:
                raise NoKeySet(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise NoKeySet(f"more than {BODY_BYTES_MAX} bytes")
            return bytes(body)

    def _remember_missing(self, kid: str) -> None:
        self._missing[kid] = self._clock() + MISSING_FOR_SECONDS
        self._missing.move_to_end(kid)
        if len(self._missing) > MISSING_KIDS_MAX:
            self._missing.popitem(last=False)

    def _report(self, refused: list[str]) -> None:
        """Log what a changed set holds.

        Kids are public; of refused keys only position and reason are named.
        """
        if refused:
            _log.warning("key_set_has_unusable_keys", reasons=refused[:20], count=len(refused))
        if self._keys:
            _log.info("key_set_loaded", kids=sorted(self._keys)[:20], count=len(self._keys))
        elif self._has_secret:
            _log.info(
                "key_set_empty",
                effect="Only HS256 tokens by JWT_SECRET are accepted, any other is answered 401.",
            )
        else:
            _log.warning("key_set_empty", effect="Every token is answered 401.", hint=_EMPTY_HINT)


async def _only_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from asking again when a connection is lost, or the endpoint would see twice
    what the bucket allows.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost from error


class _ConnectionLost(Exception):
    """The endpoint could not be reached, or said nothing to the end of the connection."""
