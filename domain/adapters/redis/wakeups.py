"""Wake-ups: jobs that carry a payment id and nothing else.

Losing one, or running it twice, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.adapters.batching import Lane
from domain.adapters.redis.arq_queue import JobQueue
from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.names import PREFIX

# That a question was paid for. Jobs run twice and late: without this mark they would ask more than
# the budget allows.
_HANDED_OVER = f"{PREFIX}handed-over:"
_HANDED_OVER_SECONDS = 30

# While the queue holds this many jobs the workers are behind, not forgetful: then the sweeper adds
# only a few, and those in front, so that payments whose wake-up was lost still get their turn.
_QUEUE_LENGTH_ENOUGH = 200
_ALWAYS_WOKEN = 20
# also ahead of a dead worker's jobs, for as long as arq hides those (lease 600 s and some)
_AHEAD_MS = 900_000


# Without any worker the queue must not grow for ever. What finds it full is not queued: the sweeper
# knows those payments. It has places of its own, so a flood of requests takes none of them.
_QUEUE_LENGTH_MAX = 10_000
_PLACES_OF_SWEEPERS = 2_000


class RedisWakeups:
    """Satisfies `domain.lifecycle.reconcile.Wakeups`."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._queue = JobQueue(redis)
        self._lane: Lane[UUID, None] = Lane(self._enqueue_new, key=lambda payment_id: payment_id)

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.wake`."""
        async with available(self._redis, "wake-ups"):
            await self._enqueue_overdue(payment_ids)

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.hand_over`."""
        async with available(self._redis, "wake-ups"):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for payment_id in payment_ids:
                    pipeline.set(_HANDED_OVER + str(payment_id), 1, ex=_HANDED_OVER_SECONDS)
                await pipeline.execute()
            await self._enqueue_overdue(payment_ids)

    async def take_hand_over(self, payment_id: UUID) -> bool:
        """Whether the payment was handed over, and by this not any more.

        Raises QueueUnavailable.
        """
        async with available(self._redis, "hand-over", writes=False):
            return await self._redis.getdel(_HANDED_OVER + str(payment_id)) is not None

    async def room(self) -> int:
        """See `domain.lifecycle.reconcile.Wakeups.room`."""
        async with available(self._redis, "reading the queue", writes=False):
            return max(_ALWAYS_WOKEN, _QUEUE_LENGTH_ENOUGH - await self._queue.length())

    async def wake_one(self, payment_id: UUID) -> None:
        """Queues a job for one payment if the queue has room, in one round trip with others.

        Raises QueueUnavailable.
        """
        async with available(self._redis, "wake-ups"):
            await self._lane.submit(payment_id)

    async def _enqueue_new(self, payment_ids: Sequence[UUID]) -> list[None]:
        await self._queue.enqueue(payment_ids, length_max=_QUEUE_LENGTH_MAX)
        return [None] * len(payment_ids)

    async def _enqueue_overdue(self, payment_ids: Sequence[UUID]) -> None:
        length_max = _QUEUE_LENGTH_MAX + _PLACES_OF_SWEEPERS
        await self._queue.enqueue(payment_ids, length_max=length_max, ahead_ms=_AHEAD_MS)
