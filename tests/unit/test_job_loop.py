"""The loop of jobs ends when it is told to, whatever a library makes of a cancellation."""

from __future__ import annotations

import asyncio

from workers.job_loop import end_task


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """As redis-py does on Python 3.11, if the cancellation comes in the moment in which a command has been sent."""
    swallowed = 0

    async def work() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert swallowed == 2


async def test_a_loop_that_failed_is_left_alone() -> None:
    async def work() -> None:
        raise LookupError

    task = asyncio.create_task(work())
    await asyncio.wait({task})
    await end_task(task)
    assert isinstance(task.exception(), LookupError)
