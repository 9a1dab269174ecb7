"""Concurrent items share a batch, in order, one item for each key. Each item fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from domain.adapters.batching import Abandoned, Lane, RunAlone

Item = tuple[str, int]  # key, value


class Recorder:
    """Runs batches while `open` is set, and records them."""

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.raises: BaseException | None = None
        self.raises_for: set[Item] | None = None

    async def run(self, items: Sequence[Item]) -> list[int | BaseException]:
        self.batches.append(list(items))
        async with asyncio.timeout(5):  # so that a failing test ends
            await self.open.wait()
        if self.raises is not None and (self.raises_for is None or self.raises_for & set(items)):
            raise self.raises
        return [value * 10 for _, value in items]


def key_of(item: Item) -> str:
    return item[0]


def a_lane(*, is_open: bool = True, **options: Any) -> tuple[Recorder, Lane[Item, int]]:
    """A lane, and the recorder of its batches, which wait until the recorder is open."""
    recorder = Recorder()
    if not is_open:
        recorder.open.clear()
    return recorder, Lane(recorder.run, key=key_of, **options)


async def submit_all(lane: Lane[Item, int], *items: Item) -> list[asyncio.Task[int]]:
    """Submits each item in a task of its own, the item's waiter."""
    tasks = [asyncio.create_task(lane.submit(item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def results_of(lane: Lane[Item, int], *items: Item) -> list[int | BaseException]:
    return await asyncio.gather(*await submit_all(lane, *items), return_exceptions=True)


async def test_a_lone_item_runs_at_once_and_later_ones_share_the_next_batch_in_order() -> None:
    recorder, lane = a_lane(is_open=False)
    first = await submit_all(lane, ("a", 1))
    assert recorder.batches == [[("a", 1)]]
    rest = await submit_all(lane, ("b", 2), ("c", 3), ("d", 4))
    assert lane.waiting == 3
    recorder.open.set()
    assert await asyncio.gather(*first, *rest) == [10, 20, 30, 40]
    assert recorder.batches == [[("a", 1)], [("b", 2), ("c", 3), ("d", 4)]]
    assert lane.waiting == 0


async def test_a_batch_holds_one_item_of_a_key_and_the_next_item_waits() -> None:
    recorder, lane = a_lane()
    items = [("a", 1), ("a", 2), ("b", 3), ("a", 4)]
    assert await results_of(lane, *items) == [10, 20, 30, 40]
    assert recorder.batches == [[("a", 1), ("b", 3)], [("a", 2)], [("a", 4)]]


async def test_a_batch_is_never_larger_than_its_limit() -> None:
    recorder, lane = a_lane(batch_size_max=3)
    await results_of(lane, *((str(n), n) for n in range(8)))
    assert [len(batch) for batch in recorder.batches] == [3, 3, 2]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TimeoutError(), KeyError("x")])
@pytest.mark.parametrize(
    ("options", "keys"),
    [({}, "abc"), ({"shared": key_of}, "aab"), ({"abandoned": Abandoned.DROP_OR_FINISH}, "abc")],
    ids=[
        "each waiter has its own item",
        "waiters share an item",
        "waiters survive their cancellation",
    ],
)
async def test_the_error_that_ends_a_batch_reaches_every_waiter_and_the_lane_goes_on(
    options: dict[str, Any], keys: str, error: BaseException
) -> None:
    recorder, lane = a_lane(**options)
    recorder.raises = error
    results = await results_of(lane, *((key, 1) for key in keys))
    assert [type(result) for result in results] == [type(error)] * 3
    recorder.raises = None
    assert await lane.submit(("a", 3)) == 30


async def test_an_error_as_a_result_reaches_only_its_own_waiter() -> None:
    refusal = ValueError("no")

    async def run(items: Sequence[Item]) -> list[int | BaseException]:
        return [refusal if value == 2 else value for _, value in items]

    lane: Lane[Item, int] = Lane(run, key=key_of)
    assert await results_of(lane, ("a", 1), ("b", 2), ("c", 3)) == [1, refusal, 3]


async def test_a_batch_with_a_bad_row_runs_again_one_by_one() -> None:
    recorder, lane = a_lane()
    recorder.raises, recorder.raises_for = RunAlone(), {("b", 2)}
    results = await results_of(lane, ("a", 1), ("b", 2), ("c", 3))
    assert results[::2] == [10, 30]
    assert isinstance(results[1], RuntimeError)  # the item fails alone too
    assert [len(batch) for batch in recorder.batches] == [3, 1, 1, 1]


async def test_while_an_item_runs_alone_others_of_its_key_wait_and_other_keys_do_not() -> None:
    recorder, lane = a_lane()
    recorder.raises = RunAlone()
    both = await submit_all(lane, ("a", 1), ("b", 2))
    recorder.raises = None
    recorder.open.clear()
    await asyncio.sleep(0)
    later = await submit_all(lane, ("a", 3), ("c", 4))
    assert recorder.batches[1:] == [[("a", 1)], [("b", 2)], [("c", 4)]]
    recorder.open.set()
    assert await asyncio.gather(*both, *later) == [10, 20, 30, 40]
    assert recorder.batches[-1] == [("a", 3)]


async def test_the_number_of_items_that_run_alone_at_once_is_limited() -> None:
    recorder, lane = a_lane(alone_at_once_max=2)
    recorder.raises = RunAlone()
    tasks = await submit_all(lane, *((str(n), n) for n in range(6)))
    recorder.raises = None
    recorder.open.clear()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(recorder.batches) == 1 + 2
    recorder.open.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40, 50]


async def test_a_cancelled_waiter_cancels_neither_its_work_nor_other_waiters() -> None:
    recorder, lane = a_lane(is_open=False)
    running = await submit_all(lane, ("a", 1), ("b", 2))
    waiting = await submit_all(lane, ("c", 3), ("d", 4))
    running[0].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0)
    recorder.open.set()
    assert [await running[1], await waiting[1]] == [20, 40]
    assert all(task.cancelled() for task in (running[0], waiting[0]))
    assert recorder.batches == [[("a", 1), ("b", 2)], [("c", 3), ("d", 4)]]


async def test_draining_waits_for_all_submitted_items() -> None:
    recorder, lane = a_lane()
    tasks = await submit_all(lane, ("a", 1), ("a", 2), ("b", 3))
    await lane.drain()
    assert all(task.done() for task in tasks) or await asyncio.gather(*tasks)
    assert sum(len(batch) for batch in recorder.batches) == 3
    await lane.drain()


async def test_a_batch_with_too_few_results_leaves_no_waiter_without_an_answer() -> None:
    """The lane compares the number of results with the number of items."""

    async def run(items: Sequence[Item]) -> list[int | BaseException]:
        return [value for _, value in items[:1]]

    lane: Lane[Item, int] = Lane(run, key=key_of)
    async with asyncio.timeout(5):  # so that a failing test ends
        results = await results_of(lane, ("a", 1), ("b", 2))
    assert any(isinstance(result, Exception) for result in results)


async def test_concurrent_batches_never_hold_two_items_of_a_key() -> None:
    recorder, lane = a_lane(is_open=False, batches_at_once=2)
    first = await submit_all(lane, ("a", 1))
    second = await submit_all(lane, ("a", 2), ("b", 3))
    third = await submit_all(lane, ("a", 4), ("c", 5))
    assert recorder.batches == [[("a", 1)], [("b", 3)]]
    recorder.open.set()
    assert await asyncio.gather(*first, *second, *third) == [10, 20, 30, 40, 50]
    assert [item for batch in recorder.batches for item in batch if item[0] == "a"] == [
        ("a", 1),
        ("a", 2),
        ("a", 4),
    ]


async def test_a_batch_runs_beside_one_item_but_not_beside_a_batch() -> None:
    """So an item waits for no lone item, and the items that wait for a batch share the next one."""
    recorder, lane = a_lane(is_open=False, runs_beside_one=True)
    items = [(str(number), number) for number in range(8)]
    waiters = await submit_all(lane, items[0])
    waiters += await submit_all(lane, *items[1:3])
    assert recorder.batches == [items[:1], items[1:3]]
    waiters += await submit_all(lane, *items[3:5])
    assert lane.waiting == 2, "two batches are running"
    recorder.open.set()
    await asyncio.gather(*waiters)
    recorder.open.clear()
    waiters = await submit_all(lane, *items[5:7])
    waiters += await submit_all(lane, items[7])
    assert lane.waiting == 1, "a batch of two items is running"
    recorder.open.set()
    await asyncio.gather(*waiters)
    assert recorder.batches[2:] == [items[3:5], items[5:7], items[7:]]


async def test_the_batch_after_a_lone_item_waits_for_the_batch_beside_it() -> None:
    """At the end of the lone item, the batch beside it has several items."""
    recorder, lone = Recorder(), asyncio.Event()
    recorder.open.clear()

    async def run(items: Sequence[Item]) -> list[int | BaseException]:
        if items != [("a", 1)]:
            return await recorder.run(items)
        await lone.wait()
        return [10]

    lane = Lane(run, key=key_of, runs_beside_one=True)
    first = await submit_all(lane, ("a", 1))
    rest = await submit_all(lane, ("b", 2), ("c", 3))
    rest += await submit_all(lane, ("d", 4))
    lone.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert lane.waiting == 1
    recorder.open.set()
    await asyncio.gather(*first, *rest)
    assert recorder.batches[-1] == [("d", 4)]


async def test_waiters_of_the_same_item_share_one_run() -> None:
    recorder, lane = a_lane(is_open=False, shared=key_of)
    running = await submit_all(lane, ("z", 0))
    tasks = await submit_all(lane, *[("a", 1)] * 400, ("b", 2))
    assert lane.waiting == 2
    recorder.open.set()
    assert await asyncio.gather(*running, *tasks) == [0, *[10] * 400, 20]
    assert recorder.batches == [[("z", 0)], [("a", 1), ("b", 2)]]


async def test_a_waiter_does_not_join_a_run_that_has_started() -> None:
    recorder, lane = a_lane(is_open=False, shared=key_of)
    first = await submit_all(lane, ("a", 1))
    later = await submit_all(lane, ("a", 2), ("a", 3))
    recorder.open.set()
    assert await asyncio.gather(*first, *later) == [10, 20, 20]
    assert recorder.batches == [[("a", 1)], [("a", 2)]]


async def test_a_shared_item_that_runs_alone_is_still_shared() -> None:
    recorder, lane = a_lane(shared=key_of)
    recorder.raises = RunAlone()
    tasks = await submit_all(lane, ("a", 1), ("a", 2), ("b", 3))
    recorder.raises = None
    assert await asyncio.gather(*tasks) == [10, 10, 30]
    assert recorder.batches[1:] == [[("a", 1)], [("b", 3)]]


@pytest.mark.parametrize("abandoned", [Abandoned.DROP, Abandoned.DROP_OR_FINISH])
async def test_an_abandoned_item_leaves_the_queue(abandoned: Abandoned) -> None:
    recorder, lane = a_lane(is_open=False, abandoned=abandoned)
    running = await submit_all(lane, ("z", 0))
    waiting = await submit_all(lane, *((str(n), n) for n in range(50)), ("a", 1))
    for task in waiting[:-1]:
        task.cancel()
    await asyncio.sleep(0)
    assert lane.waiting == 1
    recorder.open.set()
    assert [await running[0], await waiting[-1]] == [0, 10]
    assert all(task.cancelled() for task in waiting[:-1])
    assert recorder.batches == [[("z", 0)], [("a", 1)]]


async def test_a_shared_item_runs_with_the_value_of_its_first_remaining_waiter() -> None:
    recorder, lane = a_lane(is_open=False, shared=key_of, abandoned=Abandoned.DROP_OR_FINISH)
    running = await submit_all(lane, ("z", 0))
    first, second, third = await submit_all(lane, ("a", 1), ("a", 2), ("a", 3))
    first.cancel()
    await asyncio.sleep(0)
    fourth, *_ = await submit_all(lane, ("a", 4))
    third.cancel()
    recorder.open.set()
    assert [await running[0], await second, await fourth] == [0, 20, 20]
    assert first.cancelled()
    assert third.cancelled()
    assert recorder.batches == [[("z", 0)], [("a", 2)]]


async def test_a_shared_item_without_waiters_is_dropped_and_the_next_one_is_new() -> None:
    recorder, lane = a_lane(is_open=False, shared=key_of, abandoned=Abandoned.DROP)
    running = await submit_all(lane, ("z", 0))
    cancelled = await submit_all(lane, ("a", 1), ("a", 2))
    for task in cancelled:
        task.cancel()
    await asyncio.sleep(0)
    assert lane.waiting == 0
    [later] = await submit_all(lane, ("a", 3))
    recorder.open.set()
    assert [await running[0], await later] == [0, 30]


async def test_started_work_finishes_although_its_waiter_is_cancelled() -> None:
    """A waiter gets the result even if it is cancelled during the work, or when the work ends."""
    recorder, lane = a_lane(is_open=False, abandoned=Abandoned.DROP_OR_FINISH)
    [early, late] = await submit_all(lane, ("a", 1), ("b", 2))
    early.cancel()
    await asyncio.sleep(0)
    early.cancel()  # a second time
    recorder.open.set()
    done, _ = await asyncio.wait([early], timeout=5)
    late.cancel()
    assert {task.result() for task in done} == {10}
    assert await late == 20


async def test_a_result_that_comes_right_after_a_cancellation_is_not_lost() -> None:
    """The work ends before the cancelled waiter has run again."""
    recorder, lane = a_lane(is_open=False, abandoned=Abandoned.DROP_OR_FINISH)
    [waiting] = await submit_all(lane, ("a", 1))
    recorder.open.set()
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=5)
    assert {task.result() for task in done} == {10}


async def test_a_started_read_continues_for_its_other_waiters() -> None:
    recorder, lane = a_lane(is_open=False, shared=key_of, abandoned=Abandoned.DROP)
    cancelled, remaining = await submit_all(lane, ("a", 1), ("a", 2))
    cancelled.cancel()
    await asyncio.sleep(0)
    assert cancelled.cancelled()
    recorder.open.set()
    assert await remaining == 10
    assert recorder.batches == [[("a", 1)]]
