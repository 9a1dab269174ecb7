"""The queue of reads: which requests leave it, and which reads finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from domain.errors import StoreUnavailable
from gateway.edge.read_queue import ReadQueue

_PATIENCE_SECONDS = 5.0


class Reads:
    """A queue whose reads record when they begin, and end after `may_end` is set."""

    def __init__(self, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.queue = ReadQueue(at_once=1, patience_seconds=patience_seconds)
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.may_end = asyncio.Event()

    def read_of(self, name: str) -> Callable[[], Awaitable[str]]:
        async def read() -> str:
            self.begun.append(name)
            await self.may_end.wait()
            self.ended.append(name)
            return name

        return read

    async def start(self, name: str) -> asyncio.Task[str]:
        task = asyncio.create_task(self.queue.run(self.read_of(name)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task


async def test_reads_run_in_order_of_arrival() -> None:
    reads = Reads()
    tasks = [await reads.start(name) for name in "abc"]
    assert reads.begun == ["a"]
    reads.may_end.set()
    assert await asyncio.gather(*tasks) == ["a", "b", "c"]
    assert reads.begun == ["a", "b", "c"]


async def test_a_request_whose_client_disconnects_leaves_the_queue() -> None:
    """Such a request never reads, and does not delay the request behind it."""
    reads = Reads()
    first, gone, last = [await reads.start(name) for name in ("first", "gone", "last")]
    gone.cancel()
    reads.may_end.set()
    assert [await first, await last] == ["first", "last"]
    assert gone.cancelled()
    assert reads.begun == ["first", "last"]


async def test_a_read_that_has_begun_finishes_after_its_client_disconnects() -> None:
    """If we cancelled it, PostgreSQL could be late and cancel the connection's next query."""
    reads = Reads()
    first, last = await reads.start("first"), await reads.start("last")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert reads.begun == ["first"]
    reads.may_end.set()
    assert await last == "last"
    assert reads.ended == ["first", "last"]


async def test_a_request_that_waits_too_long_for_its_turn_is_rejected() -> None:
    reads = Reads(patience_seconds=0.01)
    first = await reads.start("first")
    with pytest.raises(StoreUnavailable):
        await reads.queue.run(reads.read_of("late"))
    reads.may_end.set()
    assert await first == "first"
    assert reads.begun == ["first"]


async def test_an_error_reaches_the_request_and_frees_its_turn() -> None:
    reads = Reads()

    async def fail() -> str:
        raise LookupError

    with pytest.raises(LookupError):
        await reads.queue.run(fail)
    reads.may_end.set()
    assert await reads.queue.run(reads.read_of("next")) == "next"


async def test_a_drain_waits_for_reads_whose_clients_disconnected() -> None:
    reads = Reads()
    task = await reads.start("gone")
    task.cancel()
    await asyncio.sleep(0)
    draining = asyncio.create_task(reads.queue.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    reads.may_end.set()
    await draining
    assert reads.ended == ["gone"]
