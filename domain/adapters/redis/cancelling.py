"""Ends tasks that may swallow a cancellation, because redis-py does."""

from __future__ import annotations

import asyncio

_CANCEL_AGAIN_SECONDS = 0.1


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancels `task` again and again until it has ended.

    One cancellation is not always enough. On a connection that is not open yet, redis-py sends with
    `asyncio.wait_for`. In Python 3.11 `wait_for` swallows a cancellation that arrives at the moment
    at which the send completes. If `end_task` itself is cancelled meanwhile, it still waits,
    because a running task would keep the process alive.
    """
    own_cancellation: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
        except asyncio.CancelledError as error:
            own_cancellation = error
    if own_cancellation is not None:
        raise own_cancellation
    if not task.cancelled():
        # Retrieves the exception, which `_run_until` has raised already.
        task.exception()
