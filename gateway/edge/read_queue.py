"""The queue of requests that read the record. A request whose client has disconnected leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from domain.errors import StoreUnavailable
from gateway.edge.problems import Handler

Result = TypeVar("Result")


class ReadQueue:
    """Work in order of arrival, `at_once` together.

    A cancelled request leaves the queue. Work that has begun goes on to its end: PostgreSQL may
    obey a cancellation late, and then it hits the statement of the connection's next user.
    """

    def __init__(self, *, at_once: int, patience_seconds: float) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._patience_seconds = patience_seconds
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs `work` when its turn comes. Raises StoreUnavailable if that takes too long."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable from None
        return await self._finish(work, self._turns.release)

    async def finish(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs `work` at once, and to its end."""
        return await self._finish(work, lambda: None)

    def finishing(self, is_finished: Callable[[web.Request], bool]) -> Middleware:
        """Runs the requests that `is_finished` names at once, and to their ends."""

        @web.middleware
        async def finish(request: web.Request, handler: Handler) -> web.StreamResponse:
            if is_finished(request):
                return await self.finish(lambda: handler(request))
            return await handler(request)

        return finish

    async def drain(self) -> None:
        """Waits for what has begun."""
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
            task.exception()  # a request that is gone does not look at it
