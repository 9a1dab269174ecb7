"""What workers share through Redis: one text that one of them renews at a time, and a rate that
all keep together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from domain.adapters.redis import gcra
from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.scripts import ALSO_WHEN_FULL
from domain.errors import QueueUnavailable

# A holder that died frees the lock by its expiry; longer than any fetch of a token may take.
_LOCK_SECONDS = 12

_BURST_MICROSECONDS = 1_000_000

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
        """True where the lock is ours for the block, False where another holds it.

        Raises QueueUnavailable.
        """
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
    """A class of requests: how much of the burst it may use, and which share of the rate is its
    own in any case.
    """

    name: str
    part_of_burst: float = 1.0
    own_share: float = 0.0


class SharedRate:
    """So many requests a second for all workers together, with at most a second's worth at once."""

    def __init__(self, redis: RedisClient, name: str, *, per_second: float) -> None:
        self._redis = redis
        self._take = redis.register_script(gcra.TAKE)
        self._slow_down = redis.register_script(gcra.SLOW_DOWN)
        self._name = f"{PREFIX}{name}"
        self._interval_microseconds = 1_000_000 / per_second

    async def take(self, turn: Turn = Turn("any")) -> float:
        """0 if one more request may go now; else after how many seconds to ask again.

        Raises QueueUnavailable.
        """
        _, wait_microseconds = await self._taken(turn, 1)
        return wait_microseconds / 1_000_000

    async def take_some(self, wanted: int) -> int:
        """How many of `wanted` requests may go now; they are counted. Raises QueueUnavailable."""
        taken, _ = await self._taken(Turn("any"), wanted)
        return taken

    async def slow_down(self) -> None:
        """Halves the rate, at most once a second; it recovers within ten.

        Raises QueueUnavailable.
        """
        async with available(self._redis, "shared rate", writes=False):
            await self._slow_down(keys=[f"{self._name}:factor"])

    async def _taken(self, turn: Turn, wanted: int) -> tuple[int, int]:
        keys = [self._name, f"{self._name}:{turn.name}", f"{self._name}:factor"]
        args = [
            self._interval_microseconds,
            _BURST_MICROSECONDS,
            turn.part_of_burst,
            turn.own_share,
            wanted,
        ]
        async with available(self._redis, "shared rate", writes=False):
            taken, wait = await self._take(keys=keys, args=args)
        return int(taken), int(wait)


class InquiryBudget:
    """So many inquiries a minute for all workers together.

    Satisfies `domain.lifecycle.reconcile.Budget`.
    """

    def __init__(self, redis: RedisClient, name: str, *, per_minute: float) -> None:
        self._rate = SharedRate(redis, f"budget:{name}", per_second=per_minute / 60)

    async def take(self, wanted: int) -> int:
        """See `domain.lifecycle.reconcile.Budget.take`."""
        return await self._rate.take_some(wanted)

    async def slow_down(self) -> None:
        """As `SharedRate.slow_down`: Daraja said that it was asked too often."""
        await self._rate.slow_down()
