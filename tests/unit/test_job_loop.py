"""The loop of jobs ends when it is told to, whatever a library makes of a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from workers.job_loop import end_task


class Stubborn:
    """A task that swallows so many cancellations."""

    def __init__(self, swallows: int) -> None:
        self.swallowed = 0
        self._swallows = swallows

    async def work(self) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.swallowed == self._swallows:
                    raise
                self.swallowed += 1


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """redis-py swallows it on Python 3.11 if it comes at the moment at which a command was sent."""
    stubborn = Stubborn(2)
    task = asyncio.create_task(stubborn.work())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert stubborn.swallowed == 2


async def test_it_ends_also_if_the_one_that_ends_it_is_cancelled() -> None:
    """The worker cancels its jobs while they end. A loop that went on keeps the process alive."""
    task = asyncio.create_task(Stubborn(2).work())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end_task(task))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert task.cancelled()


async def test_a_loop_that_failed_is_left_alone() -> None:
    async def work() -> None:
        raise LookupError

    task = asyncio.create_task(work())
    await asyncio.wait({task})
    await end_task(task)
    assert isinstance(task.exception(), LookupError)
