"""The rate of each caller's requests: a token bucket in Redis that all web processes share.

The bucket uses the clock of Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.gcra import CHARGE, CHARGE_AFTERWARDS, REFUND
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.scripts import Script, ScriptCall, run_scripts
from domain.policy import CallerLimits

_CHARGE, _REFUND = Script(CHARGE), Script(REFUND)
_CHARGE_AFTERWARDS = Script(CHARGE_AFTERWARDS)

# The most callers of one call. Redis runs nothing else while a script runs, so scripts must be
# short.
_CALLERS_PER_CALL = 200


@dataclass(frozen=True, slots=True)
class Spending:
    """How many requests of a caller were let in. A negative number undoes earlier charges."""

    caller_key: str
    limits: CallerLimits
    count: int


class CallerRates:
    """The buckets of all callers. Concurrent requests share one round trip."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        # The lane's key is the request and not the caller, because a batch may contain many
        # requests of one caller. Redis runs them in order.
        self._lane: Lane[ScriptCall, float] = Lane(
            self._run_batch, key=id, abandoned=Abandoned.DROP
        )

    async def charge(self, caller_key: str, limits: CallerLimits) -> float:
        """Charges one request of this caller. Returns 0, or the seconds to wait if it is too early.

        Raises QueueUnavailable.
        """
        return await self._run(_CHARGE, caller_key, limits)

    async def refund(self, caller_key: str, limits: CallerLimits) -> None:
        """Undoes one charge that returned 0. Raises QueueUnavailable."""
        await self._run(_REFUND, caller_key, limits)

    async def charge_afterwards(self, spendings: Sequence[Spending]) -> list[float]:
        """Charges requests that were let in already, in one round trip.

        Returns for each caller 0, or the seconds until its next request is allowed. Raises
        QueueUnavailable.
        """
        calls = [
            _call_afterwards(spendings[start : start + _CALLERS_PER_CALL])
            for start in range(0, len(spendings), _CALLERS_PER_CALL)
        ]
        async with record_use(self._redis, "caller rates", is_write=False):
            results = await run_scripts(self._redis, calls)
        return [int(wait) / 1_000_000 for waits in results for wait in waits]

    async def _run(self, script: Script, caller_key: str, limits: CallerLimits) -> float:
        if limits.requests_per_second is None:
            return 0.0
        interval, burst = _intervals(limits)
        call = ScriptCall(script, [_bucket_name(caller_key)], [interval, burst, "1", "0", "1"])
        async with record_use(self._redis, "caller rates", is_write=False):
            return await self._lane.submit(call)

    async def _run_batch(self, calls: Sequence[ScriptCall]) -> list[float]:
        return [int(wait) / 1_000_000 for _, wait in await run_scripts(self._redis, calls)]


def _call_afterwards(spendings: Sequence[Spending]) -> ScriptCall:
    arguments = [
        argument
        for spending in spendings
        for argument in (*_intervals(spending.limits), spending.count)
    ]
    names = [_bucket_name(spending.caller_key) for spending in spendings]
    return ScriptCall(_CHARGE_AFTERWARDS, names, arguments)


def _intervals(limits: CallerLimits) -> tuple[str, str]:
    """The microseconds between two requests, and those of a whole burst, as the scripts need."""
    assert limits.requests_per_second is not None  # noqa: S101 - without a rate nothing is charged
    interval = 1_000_000 / limits.requests_per_second
    return str(interval), str(interval * limits.burst)


def _bucket_name(caller_key: str) -> str:
    """Returns a name of fixed length that does not show the caller."""
    return f"{PREFIX}rate:" + hashlib.sha256(caller_key.encode()).hexdigest()
