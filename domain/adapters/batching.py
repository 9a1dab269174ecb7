"""Concurrent work of one process shares one commit or one round trip.

Whoever waits goes in the next batch; there is no timer, so a lone caller waits for nobody. A batch holds at most one
item per key (Postgres silently applies only one of two changes to a row), and a cancelled waiter cancels nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class RunAlone(Exception):
    """A batch failed for a reason of one of its rows: each of them is to run by itself."""


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]


class Lane(Generic[Item, Result]):
    """Batches in order of arrival, one at a time unless `batches_at_once` says otherwise.

    More than one lets Postgres work while another batch waits for the disk; no two of them hold items with one key.
    Lanes that share a `gate` take turns: what each would send in many small batches then goes in few large ones.

    `run` gets the items of a batch and returns as many results in the same order, or raises: `RunAlone` to have every
    item run in a batch of its own, beside the lane so that a slow one holds up nobody; anything else reaches all waiters.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        key: Callable[[Item], Hashable],
        batch_size_max: int = 200,
        batches_at_once: int = 1,
        alone_at_once_max: int = 4,
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        self._run = run
        self._key = key
        self._batch_size_max = batch_size_max
        self._waiting: OrderedDict[int, _Waiting[Item, Result]] = OrderedDict()
        self._arrivals = 0
        self._busy_keys: set[Hashable] = set()  # in a batch under way, or running alone
        self._alone_keys: set[Hashable] = set()
        self._batches_at_once = batches_at_once
        self._gate = gate or asyncio.Semaphore(batches_at_once)
        self._drivers: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(alone_at_once_max)
        self._alone_tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many items wait for a batch."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """Runs `item` with whatever else is waiting; the result, or what its batch raised."""
        waiting: _Waiting[Item, Result] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._arrivals += 1
        self._waiting[self._arrivals] = waiting
        self._drive()
        return await waiting.result

    async def drain(self) -> None:
        """Waits until nothing is waiting or running."""
        while tasks := self._drivers | self._alone_tasks:
            await asyncio.wait(tasks)

    def _drive(self) -> None:
        """Sees to it that somebody runs what is waiting."""
        if self._waiting and len(self._drivers) < self._batches_at_once:
            self._drivers.add(asyncio.create_task(self._drive_until_idle()))

    async def _drive_until_idle(self) -> None:
        try:
            while self._waiting:
                async with self._gate:
                    batch = self._next_batch()  # only now: whoever came while we waited goes along
                    if not batch:
                        break
                    await self._run_keyed(batch)
        finally:
            # At once, not in a callback of the task: who submits next must see that nobody drives.
            # Items left behind wait for a key that is busy: whoever frees it takes them.
            self._drivers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _run_keyed(self, batch: list[_Waiting[Item, Result]]) -> None:
        keys = {self._key(waiting.item) for waiting in batch}
        self._busy_keys |= keys
        try:
            await self._run_batch(batch)
        finally:
            self._busy_keys -= keys - self._alone_keys

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        keys = set(self._busy_keys)
        for number, waiting in list(self._waiting.items()):
            if len(batch) == self._batch_size_max:
                break
            key = self._key(waiting.item)
            if key in keys:
                continue
            keys.add(key)
            del self._waiting[number]
            batch.append(waiting)
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")  # noqa: TRY301
        except RunAlone:
            if len(batch) == 1:
                _settle(batch[0], RuntimeError("a batch of one asked to run alone"))
                return
            for waiting in batch:
                self._alone_keys.add(self._key(waiting.item))
                task = asyncio.create_task(self._run_alone(waiting))
                self._alone_tasks.add(task)
                task.add_done_callback(self._alone_tasks.discard)
        except BaseException as error:
            for waiting in batch:
                _settle(waiting, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for waiting, result in zip(batch, results, strict=True):
                _settle(waiting, result)

    async def _run_alone(self, waiting: _Waiting[Item, Result]) -> None:
        try:
            async with self._alone:
                await self._run_batch([waiting])
        finally:
            self._alone_keys.discard(self._key(waiting.item))
            self._busy_keys.discard(self._key(waiting.item))
            self._drive()


def _settle(waiting: _Waiting[Item, Result], result: Result | BaseException) -> None:
    if waiting.result.done():  # its waiter was cancelled; the work was done all the same
        return
    if isinstance(result, BaseException):
        waiting.result.set_exception(result)
    else:
        waiting.result.set_result(result)
