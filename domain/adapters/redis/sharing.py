"""What workers share through Redis: one text that one of them renews at a time, and a rate that all keep together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from arq.connections import ArqRedis

from domain.adapters.redis.connection import available

# A holder that died frees the lock by its expiry; longer than any fetch of a token may take.
_LOCK_SECONDS = 12

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# The generic cell rate algorithm, by Redis's own clock: one key holds when the next request is due. Returns 0 and counts
# the request, or returns how many microseconds too early it is and counts nothing.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = tonumber(ARGV[1])
local burst = tonumber(ARGV[2])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local early = due - now - burst
if early > 0 then return early end
redis.call('SET', KEYS[1], string.format('%d', due + interval), 'PX', 60000)
return 0
"""


class SharedText:
    """One text, its expiry, and a lock for whoever renews it."""

    def __init__(self, redis: ArqRedis, name: str) -> None:
        self._redis = redis
        self._name = f"mkwanja:{name}"
        self._release = redis.register_script(_RELEASE)

    async def read(self) -> str | None:
        """The text, or None. Raises QueueUnavailable."""
        async with available():
            value = await self._redis.get(self._name)
        return value.decode() if isinstance(value, bytes) else value

    async def write(self, text: str, *, kept_seconds: float) -> None:
        """Replaces the text. Raises QueueUnavailable."""
        async with available():
            await self._redis.set(self._name, text, px=max(1, int(kept_seconds * 1000)))

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        """True where the lock is ours for the block, False where another holds it. Raises QueueUnavailable."""
        mine = uuid4().hex
        name = f"{self._name}:lock"
        async with available():
            is_ours = bool(await self._redis.set(name, mine, nx=True, px=_LOCK_SECONDS * 1000))
        try:
            yield is_ours
        finally:
            if is_ours:
                async with available():
                    await self._release(keys=[name], args=[mine])


class SharedRate:
    """So many requests a second for all workers together, with at most a second's worth at once."""

    def __init__(self, redis: ArqRedis, name: str, *, per_second: float) -> None:
        self._take = redis.register_script(_TAKE)
        self._name = f"mkwanja:{name}"
        self._interval_microseconds = 1_000_000 / per_second
        self._burst_microseconds = max(0.0, 1_000_000 - self._interval_microseconds)

    async def take(self) -> float:
        """0 if one more request may go now; else after how many seconds to ask again. Raises QueueUnavailable."""
        async with available():
            early = await self._take(
                keys=[self._name], args=[int(self._interval_microseconds), int(self._burst_microseconds)]
            )
        return int(early) / 1_000_000
