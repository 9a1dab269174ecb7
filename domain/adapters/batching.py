"""Concurrent work of one process shares one commit or one round trip.

Whoever waits goes in the next batch; there is no timer, so a lone caller waits for nobody. A batch
holds at most one item per key (Postgres silently applies only one of two changes to a row), and a
cancelled waiter cancels nobody. Waiters that ask for the same thing can share one item.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class RunAlone(Exception):
    """A batch failed for a reason of one of its rows: each of them is to run by itself."""


class Abandoned(Enum):
    """What becomes of an item when its last waiter is cancelled, for example because the client
    has disconnected.
    """

    RUN = auto()  # it runs all the same: what it writes must not be lost
    DROP = auto()  # it leaves the line if its batch has not started
    # It leaves the line if its batch has not started. After that, `submit` ignores the cancellation
    # and returns the result, so that the caller can do what has to follow the work.
    DROP_OR_FINISH = auto()


@dataclass(slots=True, eq=False)
class _Waiter(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """One place in the line. Its waiters share the run of the first waiter's item."""

    key: Hashable
    shared: Hashable | None
    waiters: list[_Waiter[Item, Result]] = field(default_factory=list)

    @property
    def item(self) -> Item:
        return self.waiters[0].item


class Lane(Generic[Item, Result]):
    """Batches in order of arrival, one at a time unless `batches_at_once` says otherwise.

    More than one lets Postgres work while another batch waits for the disk; no two of them hold
    items with one key. Lanes that share a `gate` take turns: what each would send in many small
    batches then goes in few large ones.

    `shared` names what an item asks for. An item joins the one in line that asks for the same. It
    never joins a batch that has started: every waiter gets a result that is newer than its call.

    `run` gets the items of a batch and returns as many results in the same order, or raises:
    `RunAlone` to have every item run in a batch of its own, beside the lane so that a slow one
    holds up nobody; anything else reaches all waiters.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        key: Callable[[Item], Hashable],
        shared: Callable[[Item], Hashable] | None = None,
        abandoned: Abandoned = Abandoned.RUN,
        batch_size_max: int = 200,
        batches_at_once: int = 1,
        alone_at_once_max: int = 4,
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        self._run = run
        self._key = key
        self._shared = shared
        self._abandoned = abandoned
        self._batch_size_max = batch_size_max
        self._waiting: OrderedDict[int, _Waiting[Item, Result]] = OrderedDict()
        self._joinable: dict[
            Hashable, int
        ] = {}  # what is asked for -> the number of its place in the line
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
        waiter: _Waiter[Item, Result] = _Waiter(item, asyncio.get_running_loop().create_future())
        number = self._enter(waiter)
        self._drive()
        while True:
            try:
                return await asyncio.shield(waiter.result)
            except asyncio.CancelledError:
                is_result = waiter.result.done() and isinstance(
                    waiter.result.exception(), asyncio.CancelledError
                )
                if is_result or not self._is_finished_once_started(number):
                    self._leave(number, waiter)
                    raise

    async def drain(self) -> None:
        """Waits until nothing is waiting or running."""
        while tasks := self._drivers | self._alone_tasks:
            await asyncio.wait(tasks)

    def _enter(self, waiter: _Waiter[Item, Result]) -> int:
        """Puts the waiter in the line, beside those that ask for the same thing; the number of
        its place.
        """
        shared = self._shared(waiter.item) if self._shared is not None else None
        number = self._joinable.get(shared) if shared is not None else None
        if number is None:
            self._arrivals += 1
            number = self._arrivals
            self._waiting[number] = _Waiting(self._key(waiter.item), shared)
            if shared is not None:
                self._joinable[shared] = number
        self._waiting[number].waiters.append(waiter)
        return number

    def _is_finished_once_started(self, number: int) -> bool:
        return self._abandoned is Abandoned.DROP_OR_FINISH and number not in self._waiting

    def _leave(self, number: int, waiter: _Waiter[Item, Result]) -> None:
        """The waiter is gone. Nothing changes for the others, nor for a batch that has started."""
        waiting = self._waiting.get(number)
        if waiting is None or (self._abandoned is Abandoned.RUN and len(waiting.waiters) == 1):
            return
        waiting.waiters.remove(waiter)
        if not waiting.waiters:
            self._take(number)

    def _take(self, number: int) -> _Waiting[Item, Result]:
        waiting = self._waiting.pop(number)
        if waiting.shared is not None:
            del self._joinable[waiting.shared]
        return waiting

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
        keys = {waiting.key for waiting in batch}
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
            if waiting.key in keys:
                continue
            keys.add(waiting.key)
            batch.append(self._take(number))
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
                self._alone_keys.add(waiting.key)
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
            self._alone_keys.discard(waiting.key)
            self._busy_keys.discard(waiting.key)
            self._drive()


def _settle(waiting: _Waiting[Item, Result], result: Result | BaseException) -> None:
    for waiter in waiting.waiters:
        if isinstance(result, BaseException):
            waiter.result.set_exception(result)
            waiter.result.exception()  # a waiter that was cancelled does not look at it
        else:
            waiter.result.set_result(result)
