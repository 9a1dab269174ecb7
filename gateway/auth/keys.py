"""The public keys that check tokens: a cache of the key set (JWKS) at `JWT_JWKS_URL`.

The cache promises:

* An unknown key is looked up at once.
* Callers can cause at most five fetches in a burst, and one more every 12 s. One fetch serves all
  requests that wait for it.
* If the issuer removes a key, tokens with this key are rejected within ten minutes.
* Exception: while the endpoint is down, the last good set is used, for at most one day.

The age of the set and the fetches are metrics. `domain/adapters/jwks.py` selects the usable keys of
a set.
`verifier.py` decides which tokens are valid.
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
from domain.adapters.jwks import KID_LENGTH_MAX, NoKeySet, PublicKey, read_key_set
from domain.errors import KeysUnavailable, UnknownKey

# A real set has a few keys of 200 to 400 bytes each.
BODY_BYTES_MAX = 64 * 1024
FETCH_SECONDS_MAX = 3.0
# The limit of all fetches. Otherwise a flood of invented kids would cause a flood of fetches. The
# limit is enough for real kids, because one fetch serves all requests that wait.
FETCHES_AT_ONCE = 5
SECONDS_PER_FETCH = 12.0
# A kid that is missing after a fetch is rejected for this long without another fetch. The maximum
# count limits the memory for missing kids.
MISSING_FOR_SECONDS = 60.0
MISSING_KIDS_MAX = 1_000
# A removed key is accepted for at most ten minutes. A set older than five minutes is refreshed in
# the background. If the process was frozen, the set may be older than nine minutes. Requests then
# wait for a fetch first: 540 s + 3 s < 600 s.
REFRESH_AFTER_SECONDS = 300.0
WAIT_AFTER_SECONDS = 540.0
# For this long after a failed fetch, requests use the last good set without waiting, because an
# endpoint that hangs must not delay every request by 3 s. The background task retries sooner.
FAILURE_BELIEVED_SECONDS = 60.0
# More than SECONDS_PER_FETCH, so the retries never use up the limit of fetches. When the endpoint
# is back, a fetch for a new kid is therefore allowed.
RETRY_AFTER_SECONDS = 15.0
# Before the first set is loaded, retries are faster, because no signature can be checked without
# a set. The limit of fetches also holds for these retries.
FIRST_RETRY_AFTER_SECONDS = 2.0
# A day is longer than any outage of the endpoint that we must survive. If no fetch has succeeded
# for a day, we no longer trust the keys.
KEEP_SECONDS = 24 * 3600.0

_NEVER = 0.0  # for the metric: no set was loaded
_TICK_SECONDS = 1.0  # the interval at which the background task checks the set's age

_EMPTY_HINT = (
    "A Supabase project that signs only with HS256 publishes no key. Set JWT_SECRET, or give the "
    "project an asymmetric signing key, which is found within five minutes."
)

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class KeySet:
    """The cached key set of a process. Call `start` once, and `close` at the end.

    `clock` returns seconds that never go back. `has_secret`: JWT_SECRET can check tokens too, so an
    empty set is no reason for a warning.
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
        # The time until which each missing kid is rejected without a fetch.
        self._missing: OrderedDict[str, float] = OrderedDict()
        self._loaded_at: float | None = None
        self._failed_at = -math.inf  # when the last fetch ended, if it failed
        self._fetches_begun = 0
        self._loaded_by = 0  # the number of the fetch that loaded the present set
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
        """Seconds since the fetch of the present set began. None before the first set."""
        return None if self._loaded_at is None else self._clock() - self._loaded_at

    @property
    def is_fresh(self) -> bool:
        """Whether the set is so new that `refresh_if_old` has nothing to do."""
        age = self.age_seconds
        return age is not None and age < REFRESH_AFTER_SECONDS

    @property
    def generation(self) -> int:
        """A number that grows with each change of the set. Results of an older set are invalid."""
        return self._generation

    async def start(self) -> None:
        """Tries once to load the set, and refreshes it from now on.

        If the endpoint is down, this method does not raise.
        """
        # The metric is computed at each scrape, so that it also grows while no fetch happens.
        observability.key_set_loaded_at.choose_by(observability.key_set_age(self._clock))
        await self._wait_for_fetch()
        self._background = asyncio.create_task(self._keep_fresh(), name="key set refresh")

    async def close(self) -> None:
        """Stops all fetches."""
        self._is_closed = True
        observability.key_set_loaded_at.set(_NEVER)
        tasks = [task for task in (self._background, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def find_key(self, kid: str) -> PublicKey:
        """The key with this `kid`.

        Raises UnknownKey, or KeysUnavailable while there is no usable set.
        """
        begun_before = self._fetches_begun
        await self.refresh_if_old()
        if kid in self._keys:
            return self._keys[kid]
        if len(kid) > KID_LENGTH_MAX or self._missing.get(kid, 0.0) > self._clock():
            raise UnknownKey
        if self._loaded_by <= begun_before:  # else the set was fetched after this request came
            await self._wait_for_fetch()
            if kid in self._keys:
                return self._keys[kid]
            # No fetch was allowed, or the fetch failed, or it had begun before this request. The
            # key may have been published since then, so the kid is not remembered as missing.
            if self._loaded_by <= begun_before:
                raise UnknownKey(
                    "The token's key (kid) could not be looked up just now. Try again shortly."
                )
        self._remember_missing(kid)
        raise UnknownKey

    async def refresh_if_old(self) -> None:
        """Starts a refresh of an old set. Waits for it only if the set is too old to be used.

        Code that caches results of the set must call this method before it uses a result, and then
        compare `generation`. Raises KeysUnavailable if no set was ever loaded, or if the last set
        is over a day old.
        """
        if self.is_fresh:
            return
        age = self.age_seconds
        if self._must_wait(age):
            await self._wait_for_fetch()
        elif self._is_due():
            self._begin_fetch()
        age = self.age_seconds
        if age is None:
            raise KeysUnavailable
        if age > KEEP_SECONDS:
            raise KeysUnavailable("The keys that check tokens could not be refreshed for a day.")

    def _must_wait(self, age: float | None) -> bool:
        if not self._is_due() and self._fetching is None:
            return False
        if age is None or age > KEEP_SECONDS:
            return True  # without a fetch there are no usable keys
        has_just_failed = self._clock() - self._failed_at < FAILURE_BELIEVED_SECONDS
        return age >= WAIT_AFTER_SECONDS and not has_just_failed

    def _is_due(self) -> bool:
        """Whether the set must be fetched because of its age, and not for a new kid."""
        age = self.age_seconds
        if age is not None and age < REFRESH_AFTER_SECONDS:
            return False
        retry_after = FIRST_RETRY_AFTER_SECONDS if age is None else RETRY_AFTER_SECONDS
        return self._clock() - self._failed_at >= retry_after

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._is_due():
                await self._wait_for_fetch()

    async def _wait_for_fetch(self) -> None:
        """Waits for the fetch under way, or for a new fetch if one is allowed.

        If the fetch fails, this method does not raise.
        """
        fetch = self._begin_fetch()
        if fetch is not None:
            # A request that is cancelled must not cancel the fetch that others wait for.
            await asyncio.shield(fetch)

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new fetch. None if no fetch is allowed now."""
        if self._fetching is None and not self._is_closed and self._spend_fetch():
            self._fetches_begun += 1
            self._fetching = asyncio.create_task(
                self._load(self._fetches_begun), name="key set fetch"
            )
        return self._fetching

    def _spend_fetch(self) -> bool:
        """Counts a fetch against the limit of fetches. Returns False if no fetch is allowed."""
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
        except Exception as error:  # noqa: BLE001
            # Whatever is wrong with the answer, the last good set stays in use.
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
        is_changed = self._loaded_at is None or keys != self._keys
        # The age counts from before the request, because the issuer may have removed a key while
        # the answer was on its way.
        self._keys, self._loaded_at, self._failed_at = keys, began_at, -math.inf
        self._loaded_by = number
        observability.key_set_loaded_at.set(began_at)
        observability.key_set_fetches.labels(result="loaded").inc()
        if is_changed:
            self._generation += 1
            self._log_keys(refused)

    async def _download(self) -> bytes:
        if self._session is None:
            # Ignore a proxy that the environment names, because it could replace our keys. Close
            # the connection after each fetch, because the next fetch is minutes later.
            self._session = aiohttp.ClientSession(
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(force_close=True),
                middlewares=[_send_once],
            )
        # A redirect could lead to any address, and no issuer needs one.
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

    def _log_keys(self, refused: list[str]) -> None:
        """Logs the keys of a changed set.

        Kids are public. Of an unusable key the log shows only its position and its fault.
        """
        if refused:
            _log.warning("key_set_has_unusable_keys", reasons=refused[:20], count=len(refused))
        if self._keys:
            _log.info("key_set_loaded", kids=sorted(self._keys)[:20], count=len(self._keys))
        elif self._has_secret:
            _log.info(
                "key_set_empty",
                effect="Only HS256 tokens by JWT_SECRET are accepted. Any other token gets a 401.",
            )
        else:
            _log.warning("key_set_empty", effect="Every token gets a 401.", hint=_EMPTY_HINT)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Prevents the second request that aiohttp sends by itself after a lost connection.

    With these second requests, the endpoint could get twice as many as the limit allows.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost from error


class _ConnectionLost(Exception):
    """The endpoint could not be reached, or closed the connection without an answer."""
