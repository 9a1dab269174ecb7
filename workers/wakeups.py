"""The sweeper's wake-ups: queued for all workers, or run by this worker if Redis refuses them.

A full Redis (`noeviction`) refuses every new entry. The payment's row is the job, so its step can
run without an entry: the worker whose sweeper found the payment runs the step itself. That is
slower, because each worker then runs only the steps that its own sweeper finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from domain.adapters.redis.faults import EXPLANATIONS, Scope, classify_error
from domain.adapters.redis.wakeups import RedisWakeups
from domain.errors import QueueUnavailable

log = structlog.get_logger()

_AT_ONCE_MAX = 50

# Runs the next step of a payment. The second argument: whether the inquiry budget was charged.
RunStep = Callable[[UUID, bool], Awaitable[None]]


class QueueOrLocal:
    """Satisfies `domain.lifecycle.reconcile.Wakeups`."""

    def __init__(self, queue: RedisWakeups, run_step: RunStep) -> None:
        self._queue = queue
        self._run_step = run_step
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._is_refused = False

    async def room(self) -> int:
        """See `domain.lifecycle.reconcile.Wakeups.room`."""
        if self._is_refused:
            return self._free
        try:
            return await self._queue.room()
        except QueueUnavailable as error:
            if not _is_refusal(error):
                raise
            return self._free

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.wake`."""
        await self._queue_or_run(self._queue.wake, payment_ids, is_charged=False)

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """See `domain.lifecycle.reconcile.Wakeups.hand_over`."""
        await self._queue_or_run(self._queue.hand_over, payment_ids, is_charged=True)

    async def drain(self) -> None:
        """Cancels the steps that run here. The submitter still waits for the claimed sends."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def _free(self) -> int:
        return _AT_ONCE_MAX - len(self._tasks)

    async def _queue_or_run(
        self,
        queue: Callable[[Sequence[UUID]], Awaitable[None]],
        payment_ids: Sequence[UUID],
        *,
        is_charged: bool,
    ) -> None:
        try:
            await queue(payment_ids)
        except QueueUnavailable as error:
            self._is_refused = _is_refusal(error)
            if not self._is_refused:
                raise
        else:
            self._is_refused = False
            return
        # If there are more payments than free slots, the rest are due again in a few seconds.
        new_ids = [payment_id for payment_id in payment_ids if payment_id not in self._tasks]
        for payment_id in new_ids[: self._free]:
            task = asyncio.create_task(self._run(payment_id, is_charged=is_charged))
            self._tasks[payment_id] = task

    async def _run(self, payment_id: UUID, *, is_charged: bool) -> None:
        try:
            await self._run_step(payment_id, is_charged)
        finally:
            del self._tasks[payment_id]


def _is_refusal(error: QueueUnavailable) -> bool:
    """Whether Redis refused only this command. If so, the shared rate for sends can still work."""
    kind = classify_error(error)
    return kind is not None and EXPLANATIONS[kind].scope is not Scope.SERVER
