"""Batches concurrent work of one process: many items share one commit or one round trip.

All items that wait go into the next batch. There is no timer, so a single item does not wait for
others. A batch holds at most one item per key. Otherwise one statement might change a row twice,
and Postgres would apply only one of the changes and report no error. If one waiter is cancelled,
the other waiters still get their results. Waiters that request the same thing can share one item.
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
    """One item may have caused the failure of the batch, so each item must run by itself."""


class Abandoned(Enum):
    """What happens to an item if its last waiter is cancelled (the client may disconnect)."""

    # The item still runs, because what it writes must not be lost.
    RUN = auto()
    # The item leaves the queue, unless its batch has started.
    DROP = auto()
    # The item leaves the queue, unless its batch has started. After the start, `submit` ignores the
    # cancellation and returns the result, so that the caller can do the work that must follow.
    DROP_OR_FINISH = auto()


@dataclass(slots=True, eq=False)
class _Waiter(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]


@dataclass(slots=True, eq=False)
class _Place(Generic[Item, Result]):
    """One place in the queue. Its waiters share the run of the first waiter's item."""

    key: Hashable
    shared: Hashable | None
    waiters: list[_Waiter[Item, Result]] = field(default_factory=list)

    @property
    def item(self) -> Item:
        return self.waiters[0].item


class Lane(Generic[Item, Result]):
    """Runs items in batches, in order of arrival, at most `batches_at_once` at the same time.

    With more than one batch at once, Postgres can work on a batch while another batch waits for the
    disk. Two batches never hold items with the same key. If `runs_beside_one`, one more batch may
    run beside a batch of one item. Under light load an item then does not wait for the item before
    it. Under heavy load, many items still share each batch, which costs less.

    If `shared` returns the same value for a new item and for a queued item, the two share one run.
    An item never joins a batch that has started, so every waiter gets a result that is newer than
    its call.

    `run` gets the items of a batch and returns one result for each, in the same order. If it raises
    `RunAlone`, every item runs in a batch of its own, outside the lane, so that a slow item does
    not delay others. Any other exception is raised to all waiters.
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
        runs_beside_one: bool = False,
        alone_at_once_max: int = 4,
    ) -> None:
        self._run = run
        self._key = key
        self._shared = shared
        self._abandoned = abandoned
        self._batch_size_max = batch_size_max
        self._queue: OrderedDict[int, _Place[Item, Result]] = OrderedDict()
        # The numbers of the places in the queue, by the `shared` value of their items.
        self._joinable: dict[Hashable, int] = {}
        self._arrivals = 0
        # The keys of items in a running batch, or running alone.
        self._busy_keys: set[Hashable] = set()
        self._alone_keys: set[Hashable] = set()
        self._batches_at_once = batches_at_once
        self._runs_beside_one = runs_beside_one
        self._drivers: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(alone_at_once_max)
        self._alone_tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """The number of items that wait for a batch."""
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """Runs `item` in a batch. Returns its result, or raises the error of the batch."""
        loop = asyncio.get_running_loop()
        waiter: _Waiter[Item, Result] = _Waiter(item, loop.create_future())
        number = self._join_queue(waiter)
        self._ensure_driver()
        while True:
            # Each waiter has a future of its own, so a cancellation of the waiter cancels only this
            # future. `asyncio.shield` would do the same at the cost of another future and callback.
            try:
                return await waiter.result
            except asyncio.CancelledError:
                is_result = waiter.result.done() and not waiter.result.cancelled()
                if is_result and isinstance(waiter.result.exception(), asyncio.CancelledError):
                    raise
                if not self._must_finish(number):
                    self._leave_queue(number, waiter)
                    raise
                if not is_result:
                    waiter.result = loop.create_future()

    async def drain(self) -> None:
        """Waits until nothing is waiting or running."""
        while tasks := self._drivers | self._alone_tasks:
            await asyncio.wait(tasks)

    def _join_queue(self, waiter: _Waiter[Item, Result]) -> int:
        """Adds the waiter to the queue, and returns the number of its place.

        If a queued item has the same `shared` value, the waiter shares that item's place.
        """
        shared = self._shared(waiter.item) if self._shared is not None else None
        number = self._joinable.get(shared) if shared is not None else None
        if number is None:
            self._arrivals += 1
            number = self._arrivals
            self._queue[number] = _Place(self._key(waiter.item), shared)
            if shared is not None:
                self._joinable[shared] = number
        self._queue[number].waiters.append(waiter)
        return number

    def _must_finish(self, number: int) -> bool:
        return self._abandoned is Abandoned.DROP_OR_FINISH and number not in self._queue

    def _leave_queue(self, number: int, waiter: _Waiter[Item, Result]) -> None:
        """Removes the waiter.

        Nothing changes for other waiters, or for a batch that has started.
        """
        place = self._queue.get(number)
        if place is None or (self._abandoned is Abandoned.RUN and len(place.waiters) == 1):
            return
        place.waiters.remove(waiter)
        if not place.waiters:
            self._remove_place(number)

    def _remove_place(self, number: int) -> _Place[Item, Result]:
        place = self._queue.pop(number)
        if place.shared is not None:
            del self._joinable[place.shared]
        return place

    def _ensure_driver(self) -> None:
        """Ensures that a task runs the items that wait."""
        if self._queue and self._may_run_beside(len(self._drivers)):
            self._drivers.add(asyncio.create_task(self._run_until_idle()))

    def _may_run_beside(self, batches: int) -> bool:
        """Whether one more batch may run if `batches` run already."""
        if batches < self._batches_at_once:
            return True
        return self._runs_beside_one and batches == 1 and len(self._busy_keys) <= 1

    async def _run_until_idle(self) -> None:
        try:
            while self._queue and self._may_run_beside(len(self._drivers) - 1):
                batch = self._next_batch()
                if not batch:
                    break
                await self._run_with_busy_keys(batch)
        finally:
            # The task is removed here and not in a callback of the task, because the next `submit`
            # must see at once that the task ended. If items remain in the queue, they wait for a
            # busy key. The task that frees the key runs them.
            self._drivers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _run_with_busy_keys(self, batch: list[_Place[Item, Result]]) -> None:
        keys = {place.key for place in batch}
        self._busy_keys |= keys
        try:
            await self._run_batch(batch)
        finally:
            self._busy_keys -= keys - self._alone_keys

    def _next_batch(self) -> list[_Place[Item, Result]]:
        numbers: list[int] = []
        keys = set(self._busy_keys)
        # The queue may hold thousands of items, so it is not copied.
        for number, place in self._queue.items():
            if len(numbers) == self._batch_size_max:
                break
            if place.key in keys:
                continue
            keys.add(place.key)
            numbers.append(number)
        return [self._remove_place(number) for number in numbers]

    async def _run_batch(self, batch: list[_Place[Item, Result]]) -> None:
        try:
            results = await self._run([place.item for place in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")  # noqa: TRY301
        except RunAlone:
            if len(batch) == 1:
                _set_result(batch[0], RuntimeError("a batch of one asked to run alone"))
                return
            for place in batch:
                self._alone_keys.add(place.key)
                task = asyncio.create_task(self._run_alone(place))
                self._alone_tasks.add(task)
                task.add_done_callback(self._alone_tasks.discard)
        except BaseException as error:
            for place in batch:
                _set_result(place, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for place, result in zip(batch, results, strict=True):
                _set_result(place, result)

    async def _run_alone(self, place: _Place[Item, Result]) -> None:
        try:
            async with self._alone:
                await self._run_batch([place])
        finally:
            self._alone_keys.discard(place.key)
            self._busy_keys.discard(place.key)
            self._ensure_driver()


def _set_result(place: _Place[Item, Result], result: Result | BaseException) -> None:
    for waiter in place.waiters:
        if waiter.result.cancelled():
            # The waiter may not have run since its cancellation, and may still want the result.
            waiter.result = waiter.result.get_loop().create_future()
        if isinstance(result, BaseException):
            waiter.result.set_exception(result)
            # A cancelled waiter does not read the exception. Reading it here prevents a warning.
            waiter.result.exception()
        else:
            waiter.result.set_result(result)
