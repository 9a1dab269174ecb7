"""The queue of requests that read from Postgres. A cancelled request leaves the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from domain.errors import StoreUnavailable

Result = TypeVar("Result")


class ReadQueue:
    """Runs work in order of arrival, at most `at_once` at the same time.

    A request whose client has disconnected leaves the queue. Work that has begun is not cancelled,
    because PostgreSQL can act on a cancellation late. It would then cancel the next statement on
    the same connection.
    """

    def __init__(self, *, at_once: int, patience_seconds: float) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._patience_seconds = patience_seconds
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs `work` in its turn. Raises StoreUnavailable if it waits too long."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable from None
        return await self._finish(work, self._turns.release)

    async def finish(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs `work` at once and to its end, without waiting in the queue."""
        return await self._finish(work, lambda: None)

    async def drain(self) -> None:
        """Waits until all work that has begun has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(
        self, work: Callable[[], Awaitable[Result]], then: Callable[[], None]
    ) -> Result:
        async def finish() -> Result:
            try:
                return await work()
            finally:
                then()

        task = asyncio.create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Mark the exception as retrieved, because a cancelled request does not read it.
            task.exception()
