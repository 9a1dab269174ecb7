"""Wake-ups: arq jobs that carry a payment id and nothing else. Losing one, or running it twice, changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from domain.adapters.batching import Lane
from domain.adapters.redis.connection import available
from domain.adapters.redis.names import PREFIX, QUEUE, new_job_id

STEP_JOB = "take_next_step"

# That a question was paid for. Jobs run twice and late: without this mark they would ask more than the budget allows.
_HANDED_OVER = f"{PREFIX}handed-over:"
_HANDED_OVER_SECONDS = 30

# A job that nobody took is forgotten after this: by then the sweeper has queued others for the same payment.
_JOB_KEPT_SECONDS = 600

# While the queue holds this many jobs the workers are behind, not forgetful: then the sweeper adds only a few, and those
# in front, so that payments whose wake-up was lost still get their turn.
_QUEUE_LENGTH_ENOUGH = 200
_ALWAYS_WOKEN = 20
_AHEAD_MS = 900_000  # also ahead of a dead worker's jobs, for as long as arq hides those (lease 600 s and some)


# Without any worker the queue must not grow for ever. What finds it full is not queued: the sweeper knows those payments. It
# has places of its own, so a flood of requests takes none of them.
_QUEUE_LENGTH_MAX = 10_000
_PLACES_OF_SWEEPERS = 2_000

# What arq's enqueue_job writes, in one round trip for all instead of three for each, and only as many as there is room for. It
# watches for a duplicate id; ours are new each time. KEYS: the queue, then each job's. ARGV: how many the queue may hold, for
# how long a job is kept, its score; then each job's id and bytes. Returns how many were queued.
_ENQUEUE = """
local room = math.max(0, tonumber(ARGV[1]) - redis.call('ZCARD', KEYS[1]))
local last = math.min(#KEYS, room + 1)
for i = 2, last do
  redis.call('PSETEX', KEYS[i], ARGV[2], ARGV[2 * i + 1])
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2 * i])
end
return last - 1
"""


def job_bytes(value: Any) -> bytes:
    """arq's jobs as JSON: its default, pickle, would run whatever somebody put into Redis."""
    return json.dumps(value, default=str).encode()


def job_from_bytes(value: bytes) -> Any:
    return json.loads(value)


class RedisWakeups:
    """Satisfies `domain.ports.Wakeups`."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._script = redis.register_script(_ENQUEUE)
        self._lane: Lane[UUID, None] = Lane(self._enqueue_new, key=lambda payment_id: payment_id)

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.ports.Wakeups.wake`."""
        async with available(self._redis, "wake-ups"):
            await self._enqueue_overdue(payment_ids)

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.ports.Wakeups.hand_over`."""
        async with available(self._redis, "wake-ups"):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for payment_id in payment_ids:
                    pipeline.set(_HANDED_OVER + str(payment_id), 1, ex=_HANDED_OVER_SECONDS)
                await pipeline.execute()
            await self._enqueue_overdue(payment_ids)

    async def take_hand_over(self, payment_id: UUID) -> bool:
        """Whether the payment was handed over, and by this not any more. Raises QueueUnavailable."""
        async with available(self._redis, "hand-over", writes=False):
            return await self._redis.getdel(_HANDED_OVER + str(payment_id)) is not None

    async def room(self) -> int:
        """See `domain.ports.Wakeups.room`."""
        async with available(self._redis, "reading the queue", writes=False):
            return max(_ALWAYS_WOKEN, _QUEUE_LENGTH_ENOUGH - int(await self._redis.zcard(QUEUE)))

    async def wake_one(self, payment_id: UUID) -> None:
        """Queues a job for one payment if the queue has room, in one round trip with others. Raises QueueUnavailable."""
        async with available(self._redis, "wake-ups"):
            await self._lane.submit(payment_id)

    async def _enqueue_new(self, payment_ids: Sequence[UUID]) -> list[None]:
        await self._enqueue(payment_ids, length_max=_QUEUE_LENGTH_MAX)
        return [None] * len(payment_ids)

    async def _enqueue_overdue(self, payment_ids: Sequence[UUID]) -> None:
        length_max = _QUEUE_LENGTH_MAX + _PLACES_OF_SWEEPERS
        await self._enqueue(payment_ids, length_max=length_max, ahead_ms=_AHEAD_MS)

    async def _enqueue(self, payment_ids: Sequence[UUID], *, length_max: int, ahead_ms: int = 0) -> None:
        if not payment_ids:
            return
        now_ms = int(time.time() * 1000)
        keys = [QUEUE]
        arguments: list[Any] = [length_max, _JOB_KEPT_SECONDS * 1000, now_ms - ahead_ms]
        for payment_id in payment_ids:
            job_id = new_job_id()
            job = serialize_job(STEP_JOB, (str(payment_id),), {}, None, now_ms, serializer=job_bytes)
            keys.append(job_key_prefix + job_id)
            arguments += [job_id, job]
        await self._script(keys=keys, args=arguments)
