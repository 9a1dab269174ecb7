"""Wake-ups: jobs that carry ids of payments and nothing else.

If Redis loses a job, or a worker runs a job twice, no payment is lost or sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.adapters.batching import Lane
from domain.adapters.redis.arq_queue import JobQueue
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.names import PREFIX

# Marks that the inquiry budget was charged for this payment. arq may run a job twice, or late, and
# each run would otherwise send one inquiry without charging the budget.
_HANDED_OVER = f"{PREFIX}handed-over:"
_HANDED_OVER_SECONDS = 30

# If the queue holds this many payments, payments are overdue because the workers are behind, and
# not because jobs were lost. The sweeper then adds only a few, and puts them in front, so that a
# worker still gets to a payment whose wake-up was lost.
_ENOUGH_QUEUED = 200
_ALWAYS_WOKEN = 20
# How far in front the sweeper puts its jobs. This is more than the time for which arq hides a dead
# worker's jobs, so the sweeper's jobs also go before those.
_AHEAD_MS = 900_000

# The queue has a limit, because it would grow for ever while no worker runs. If the queue is full,
# a new payment gets no job, and the sweeper finds the payment later. The sweepers may exceed the
# limit, so a flood of requests cannot block their jobs. The limit counts jobs, because counting
# their payments would cost Redis too much for each wake-up. A job of 25 payments uses 1.3 kB, so
# the queue uses at most 8 MB.
_QUEUE_LENGTH_MAX = 5_000
_PLACES_OF_SWEEPERS = 1_000


class RedisWakeups:
    """Satisfies `domain.lifecycle.reconcile.Wakeups`."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._queue = JobQueue(redis)
        self._lane: Lane[UUID, None] = Lane(self._enqueue_new, key=lambda payment_id: payment_id)

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.wake`."""
        async with record_use(self._redis, "wake-ups"):
            await self._enqueue_overdue(payment_ids)

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.hand_over`."""
        async with record_use(self._redis, "wake-ups"):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for payment_id in payment_ids:
                    pipeline.set(_HANDED_OVER + str(payment_id), 1, ex=_HANDED_OVER_SECONDS)
                await pipeline.execute()
            await self._enqueue_overdue(payment_ids)

    async def consume_hand_over(self, payment_id: UUID) -> bool:
        """Removes the mark of `hand_over` and returns whether there was one.

        Raises QueueUnavailable.
        """
        async with record_use(self._redis, "hand-over", is_write=False):
            return await self._redis.getdel(_HANDED_OVER + str(payment_id)) is not None

    async def room(self) -> int:
        """See `domain.lifecycle.reconcile.Wakeups.room`."""
        async with record_use(self._redis, "reading the queue", is_write=False):
            return max(
                _ALWAYS_WOKEN, _ENOUGH_QUEUED - await self._queue.count_payments(_ENOUGH_QUEUED)
            )

    async def wake_new(self, payment_ids: Sequence[UUID]) -> None:
        """Queues jobs for new payments, if the queue has room. Raises QueueUnavailable."""
        async with record_use(self._redis, "wake-ups"):
            await self._enqueue_new(payment_ids)

    async def wake_one(self, payment_id: UUID) -> None:
        """Queues a job if the queue has room. Concurrent calls share one round trip.

        Raises QueueUnavailable.
        """
        async with record_use(self._redis, "wake-ups"):
            await self._lane.submit(payment_id)

    async def wake_endpoints(self, endpoint_ids: Sequence[UUID]) -> None:
        """Queues jobs for endpoints of webhooks, behind payments. Raises QueueUnavailable."""
        async with record_use(self._redis, "wake-ups"):
            await self._queue.enqueue_endpoints(endpoint_ids, length_max=_QUEUE_LENGTH_MAX)

    async def _enqueue_new(self, payment_ids: Sequence[UUID]) -> list[None]:
        await self._queue.enqueue(payment_ids, length_max=_QUEUE_LENGTH_MAX)
        return [None] * len(payment_ids)

    async def _enqueue_overdue(self, payment_ids: Sequence[UUID]) -> None:
        length_max = _QUEUE_LENGTH_MAX + _PLACES_OF_SWEEPERS
        await self._queue.enqueue(payment_ids, length_max=length_max, ahead_ms=_AHEAD_MS)
