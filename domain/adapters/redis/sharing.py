"""State that all workers share through Redis: texts with a lock, and rate limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis import gcra
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.scripts import ALSO_WHEN_FULL
from domain.errors import QueueUnavailable

# The lock of a worker that died expires after this time. This time is longer than any fetch of a
# token.
_LOCK_SECONDS = 12

_BURST_MICROSECONDS = 1_000_000

# The name of the limit of all requests to Daraja.
REQUEST_RATE = "rate"

_WRITE = f"""{ALSO_WHEN_FULL}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_LOCK = f"""{ALSO_WHEN_FULL}
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class SharedText:
    """One text with an expiry, and a lock for the worker that renews it."""

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._name = f"{PREFIX}{name}"
        self._write = redis.register_script(_WRITE)
        self._lock = redis.register_script(_LOCK)
        self._release = redis.register_script(_RELEASE)

    async def read(self) -> str | None:
        """Returns the text, or None. Raises QueueUnavailable."""
        async with record_use(self._redis, "reading shared texts", is_write=False):
            value = await self._redis.get(self._name)
        return value.decode() if isinstance(value, bytes) else value

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        """Replaces the text. Raises QueueUnavailable."""
        async with record_use(self._redis, "shared texts", is_write=False):
            await self._write(keys=[self._name], args=[text, max(1, int(ttl_seconds * 1000))])

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        """Yields True if we hold the lock for the block, False if another worker holds it.

        Raises QueueUnavailable.
        """
        holder_id = uuid4().hex
        name = f"{self._name}:lock"
        async with record_use(self._redis, "shared texts", is_write=False):
            is_ours = bool(await self._lock(keys=[name], args=[holder_id, _LOCK_SECONDS * 1000]))
        try:
            yield is_ours
        finally:
            if is_ours:
                # If Redis is away, ignore the error: the work under the lock is done already, and
                # the lock expires by itself.
                with suppress(QueueUnavailable):
                    await self._release_lock(name, holder_id)

    async def _release_lock(self, name: str, holder_id: str) -> None:
        async with record_use(self._redis, "shared texts", is_write=False):
            await self._release(keys=[name], args=[holder_id])


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A class of requests: the part of the burst that it may use, and its own share of the rate."""

    name: str
    part_of_burst: float = 1.0
    own_share: float = 0.0


ANY = RequestClass("any")


class SharedRate:
    """A limit of requests per second for all workers together, with a burst of one second.

    Concurrent charges of one class share a round trip.
    """

    def __init__(self, redis: RedisClient, name: str, *, per_second: float) -> None:
        self._redis = redis
        self._charge_script = redis.register_script(gcra.CHARGE)
        self._slow_down_script = redis.register_script(gcra.SLOW_DOWN)
        self._name = f"{PREFIX}{name}"
        self._interval_microseconds = 1_000_000 / per_second
        self._lanes: dict[RequestClass, Lane[object, float]] = {}

    async def charge(self, request_class: RequestClass = ANY) -> float:
        """Charges one request. Returns 0, or the seconds after which to try again.

        Raises QueueUnavailable.
        """
        lane = self._lanes.get(request_class)
        if lane is None:
            run = partial(self._charge_batch, request_class)
            # A charge cannot be undone, so a request that is cancelled while it waits is not
            # charged.
            lane = self._lanes[request_class] = Lane(run, key=id, abandoned=Abandoned.DROP)
        return await lane.submit(object())

    async def charge_up_to(self, wanted: int) -> int:
        """Charges up to `wanted` requests and returns how many fit. Raises QueueUnavailable."""
        granted, _ = await self._charge(ANY, wanted)
        return granted

    async def slow_down(self) -> None:
        """Halves the rate, at most once a second. The rate recovers within ten seconds.

        Raises QueueUnavailable.
        """
        async with record_use(self._redis, "shared rate", is_write=False):
            await self._slow_down_script(keys=[f"{self._name}:factor"])

    async def _charge_batch(
        self, request_class: RequestClass, requests: Sequence[object]
    ) -> list[float]:
        """Charges the requests that fit, the first ones first. The others get the time to wait."""
        granted, wait_microseconds = await self._charge(request_class, len(requests))
        return [0.0] * granted + [wait_microseconds / 1_000_000] * (len(requests) - granted)

    async def _charge(self, request_class: RequestClass, wanted: int) -> tuple[int, int]:
        keys = [self._name, f"{self._name}:{request_class.name}", f"{self._name}:factor"]
        args = [
            self._interval_microseconds,
            _BURST_MICROSECONDS,
            request_class.part_of_burst,
            request_class.own_share,
            wanted,
        ]
        async with record_use(self._redis, "shared rate", is_write=False):
            granted, wait_microseconds = await self._charge_script(keys=keys, args=args)
        return int(granted), int(wait_microseconds)


class InquiryBudget:
    """A limit of inquiries per minute for all workers together.

    Satisfies `domain.lifecycle.reconcile.Budget`.
    """

    def __init__(self, redis: RedisClient, name: str, *, per_minute: float) -> None:
        self._rate = SharedRate(redis, f"budget:{name}", per_second=per_minute / 60)

    async def charge(self, wanted: int) -> int:
        """See `domain.lifecycle.reconcile.Budget.charge`."""
        return await self._rate.charge_up_to(wanted)

    async def slow_down(self) -> None:
        """Slows the rate down, because Daraja answered that we inquire too often."""
        await self._rate.slow_down()
