"""What workers share through Redis: one text that one of them renews at a time, and a rate that all keep together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.scripts import ALSO_WHEN_FULL
from domain.errors import QueueUnavailable

# A holder that died frees the lock by its expiry; longer than any fetch of a token may take.
_LOCK_SECONDS = 12

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

# The generic cell rate algorithm, by Redis's own clock: one key holds when the next request is due. Three additions:
#
# * Classes. Each may use only so much of the burst, so that under load the first class finds room before the others do;
#   and each has a share of the rate that is its own even then, charged to the common count, so that none starves.
# * Slowing down. A factor, halved when Daraja says that it is too much, that recovers by a tenth of the rate a second.
# * Taking several at once, as many as fit.
#
# KEYS: the due time, the class's own due time, the factor. ARGV: interval and burst in microseconds, the class's part of the
# burst, its share of the rate, how many are wanted. Returns how many were taken, and how many microseconds to wait if none.
_TAKE = f"""{ALSO_WHEN_FULL}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local slowed = redis.call('HMGET', KEYS[3], 'factor', 'at')
local factor = 1
if slowed[1] then factor = math.min(1, tonumber(slowed[1]) + 0.1 * (now - tonumber(slowed[2])) / 1000000) end
local interval = tonumber(ARGV[1]) / factor
local burst = math.max(0, 1000000 - interval) * tonumber(ARGV[2])
local share = tonumber(ARGV[3])
local wanted = tonumber(ARGV[4])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local own = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), now)
local taken = 0
while taken < wanted and (due - now <= burst or (share > 0 and own <= now)) do
  due = due + interval
  if share > 0 then own = math.max(own, now) + interval / share end
  taken = taken + 1
end
if taken > 0 then
  redis.call('SET', KEYS[1], string.format('%d', due), 'PX', 3600000)
  redis.call('SET', KEYS[2], string.format('%d', own), 'PX', 3600000)
  return {{taken, 0}}
end
local wait = due - now - burst
if share > 0 then wait = math.min(wait, own - now) end
return {{0, math.max(1, math.ceil(wait))}}
"""

_SLOW_DOWN = f"""{ALSO_WHEN_FULL}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local slowed = redis.call('HMGET', KEYS[1], 'factor', 'at')
local factor = 1
if slowed[1] then
  if now - tonumber(slowed[2]) < 1000000 then return slowed[1] end
  factor = math.min(1, tonumber(slowed[1]) + 0.1 * (now - tonumber(slowed[2])) / 1000000)
end
factor = math.max(0.05, factor / 2)
redis.call('HSET', KEYS[1], 'factor', string.format('%.6f', factor), 'at', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], 60000)
return tostring(factor)
"""


class SharedText:
    """One text, its expiry, and a lock for whoever renews it."""

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._name = f"{PREFIX}{name}"
        self._write = redis.register_script(_WRITE)
        self._lock = redis.register_script(_LOCK)
        self._release = redis.register_script(_RELEASE)

    async def read(self) -> str | None:
        """The text, or None. Raises QueueUnavailable."""
        async with available(self._redis, "reading shared texts", writes=False):
            value = await self._redis.get(self._name)
        return value.decode() if isinstance(value, bytes) else value

    async def write(self, text: str, *, kept_seconds: float) -> None:
        """Replaces the text. Raises QueueUnavailable."""
        async with available(self._redis, "shared texts", writes=False):
            await self._write(keys=[self._name], args=[text, max(1, int(kept_seconds * 1000))])

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        """True where the lock is ours for the block, False where another holds it. Raises QueueUnavailable."""
        mine = uuid4().hex
        name = f"{self._name}:lock"
        async with available(self._redis, "shared texts", writes=False):
            is_ours = bool(await self._lock(keys=[name], args=[mine, _LOCK_SECONDS * 1000]))
        try:
            yield is_ours
        finally:
            if is_ours:
                # If Redis is gone, the lock ends by itself, and what was done under it is done.
                with suppress(QueueUnavailable):
                    await self._give_up(name, mine)

    async def _give_up(self, name: str, mine: str) -> None:
        async with available(self._redis, "shared texts", writes=False):
            await self._release(keys=[name], args=[mine])


@dataclass(frozen=True, slots=True)
class Turn:
    """A class of requests: how much of the burst it may use, and which share of the rate is its own in any case."""

    name: str
    part_of_burst: float = 1.0
    own_share: float = 0.0


class SharedRate:
    """So many requests a second for all workers together, with at most a second's worth at once."""

    def __init__(self, redis: RedisClient, name: str, *, per_second: float) -> None:
        self._redis = redis
        self._take = redis.register_script(_TAKE)
        self._slow_down = redis.register_script(_SLOW_DOWN)
        self._name = f"{PREFIX}{name}"
        self._interval_microseconds = 1_000_000 / per_second

    async def take(self, turn: Turn = Turn("any")) -> float:
        """0 if one more request may go now; else after how many seconds to ask again. Raises QueueUnavailable."""
        _, wait_microseconds = await self._taken(turn, 1)
        return wait_microseconds / 1_000_000

    async def take_some(self, wanted: int) -> int:
        """How many of `wanted` requests may go now; they are counted. Raises QueueUnavailable."""
        taken, _ = await self._taken(Turn("any"), wanted)
        return taken

    async def slow_down(self) -> None:
        """Halves the rate, at most once a second; it recovers within ten. Raises QueueUnavailable."""
        async with available(self._redis, "shared rate", writes=False):
            await self._slow_down(keys=[f"{self._name}:factor"])

    async def _taken(self, turn: Turn, wanted: int) -> tuple[int, int]:
        keys = [self._name, f"{self._name}:{turn.name}", f"{self._name}:factor"]
        args = [self._interval_microseconds, turn.part_of_burst, turn.own_share, wanted]
        async with available(self._redis, "shared rate", writes=False):
            taken, wait = await self._take(keys=keys, args=args)
        return int(taken), int(wait)


class InquiryBudget:
    """So many inquiries a minute for all workers together. Satisfies `domain.ports.Budget`."""

    def __init__(self, redis: RedisClient, name: str, *, per_minute: float) -> None:
        self._rate = SharedRate(redis, f"budget:{name}", per_second=per_minute / 60)

    async def take(self, wanted: int) -> int:
        """See `domain.ports.Budget.take`."""
        return await self._rate.take_some(wanted)

    async def slow_down(self) -> None:
        """As `SharedRate.slow_down`: Daraja said that it was asked too often."""
        await self._rate.slow_down()
