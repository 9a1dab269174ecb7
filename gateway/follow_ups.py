"""What follows a payment's commit: wake a worker, and copy the answer to Redis for replays.

Concurrent requests share the round trips. Every promise holds without them: the sweeper wakes a
worker, and Postgres has the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from domain.adapters.batching import Lane
from domain.adapters.redis.replays import CopyToWrite, Replays
from gateway.resources import Resources


class NewWakeups(Protocol):
    """Wakes a worker for new payments."""

    async def wake_new(self, payment_ids: Sequence[UUID]) -> None:
        """Queues jobs for the payments. Raises QueueUnavailable."""
        ...


class FollowUps:
    """Does this work in batches, also for a request whose client is gone."""

    def __init__(self, resources: Resources, wakeups: NewWakeups, replays: Replays) -> None:
        self._resources = resources
        self._wakeups = wakeups
        self._replays = replays
        self._lane: Lane[CopyToWrite, None] = Lane(self._run_batch, key=id)

    async def submit(self, copy: CopyToWrite) -> None:
        """Returns after Redis has answered, or after it failed."""
        await self._lane.submit(copy)

    async def drain(self) -> None:
        await self._lane.drain()

    async def _run_batch(self, copies: Sequence[CopyToWrite]) -> list[None]:
        payment_ids = [UUID(one.copy.answer.payment_id) for one in copies]

        async def update_redis() -> None:
            await asyncio.gather(self._wakeups.wake_new(payment_ids), self._replays.write(copies))

        await self._resources.if_redis_answers(update_redis)
        return [None] * len(copies)
