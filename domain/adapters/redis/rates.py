"""The rate of each caller's requests: a token bucket in Redis that all web processes share.

The bucket uses the clock of Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.gcra import CHARGE, REFUND
from domain.adapters.redis.names import PREFIX
from domain.policy import CallerLimits


@dataclass(frozen=True, slots=True)
class _Request:
    script: str
    name: str
    interval_microseconds: float
    burst: int


class CallerRates:
    """The buckets of all callers. Concurrent requests share one round trip."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        # The lane's key is the request and not the caller, because a batch may contain many
        # requests of one caller. Redis runs them in order.
        self._lane: Lane[_Request, float] = Lane(self._run_batch, key=id, abandoned=Abandoned.DROP)

    async def charge(self, caller_key: str, limits: CallerLimits) -> float:
        """Charges one request of this caller. Returns 0, or the seconds to wait if it is too early.

        Raises QueueUnavailable.
        """
        return await self._run(CHARGE, caller_key, limits)

    async def refund(self, caller_key: str, limits: CallerLimits) -> None:
        """Undoes one charge that returned 0. Raises QueueUnavailable."""
        await self._run(REFUND, caller_key, limits)

    async def _run(self, script: str, caller_key: str, limits: CallerLimits) -> float:
        if limits.requests_per_second is None:
            return 0.0
        # The hash gives a name of fixed length that does not show the caller.
        name = f"{PREFIX}rate:" + hashlib.sha256(caller_key.encode()).hexdigest()
        interval = 1_000_000 / limits.requests_per_second
        async with record_use(self._redis, "caller rates", is_write=False):
            return await self._lane.submit(_Request(script, name, interval, limits.burst))

    async def _run_batch(self, requests: Sequence[_Request]) -> list[float]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for request in requests:
                # EVAL sends the whole script. EVALSHA would cost one more round trip whenever Redis
                # does not know the script.
                interval = request.interval_microseconds
                pipeline.eval(
                    request.script,
                    1,
                    request.name,
                    str(interval),
                    str(interval * request.burst),
                    "1",
                    "0",
                    "1",
                )
            results = await pipeline.execute()
        return [int(wait) / 1_000_000 for _, wait in results]
