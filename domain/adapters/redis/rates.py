"""How often each caller may ask, kept by all web processes together: a token bucket in Redis, by
Redis's own clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.gcra import GIVE_BACK, TAKE
from domain.adapters.redis.names import PREFIX
from domain.policy import CallerLimits


@dataclass(frozen=True, slots=True)
class _Request:
    script: str
    name: str
    interval_microseconds: float
    burst: int


class CallerRates:
    """The buckets. Callers that ask at once share one round trip."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        # Not one a key: a batch may hold many requests of one caller, and Redis takes them in
        # order.
        self._lane: Lane[_Request, float] = Lane(self._run_batch, key=id, abandoned=Abandoned.DROP)

    async def take(self, caller_key: str, limits: CallerLimits) -> float:
        """0 if one more request of this caller may be served now; else after how many seconds.

        Raises QueueUnavailable.
        """
        return await self._run(TAKE, caller_key, limits)

    async def give_back(self, caller_key: str, limits: CallerLimits) -> None:
        """Undoes one `take` that was answered 0. Raises QueueUnavailable."""
        await self._run(GIVE_BACK, caller_key, limits)

    async def _run(self, script: str, caller_key: str, limits: CallerLimits) -> float:
        if limits.requests_per_second is None:
            return 0.0
        # A name of fixed length that does not show the caller.
        name = f"{PREFIX}rate:" + hashlib.sha256(caller_key.encode()).hexdigest()
        interval = 1_000_000 / limits.requests_per_second
        async with available(self._redis, "caller rates", writes=False):
            return await self._lane.submit(_Request(script, name, interval, limits.burst))

    async def _run_batch(self, requests: Sequence[_Request]) -> list[float]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for request in requests:
                # The text each time: asking first whether Redis knows the script would be one more
                # round trip.
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
