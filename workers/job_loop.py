"""arq's loop of jobs, with an end and a new beginning of our own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import structlog
from arq.typing import WorkerCoroutine
from arq.utils import poll
from arq.worker import Worker, func
from redis.exceptions import RedisError

from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.faults import FaultKind
from domain.adapters.redis.names import PREFIX, QUEUE
from domain.adapters.redis.wakeups import STEP_JOB, job_bytes, job_from_bytes
from domain.errors import QueueUnavailable
from workers.jobs import take_next_step

log = structlog.get_logger()

# arq's default of half a second caps a worker at about 20 jobs a second.
_POLL_SECONDS = 0.02

_REDIS_AWAY_SECONDS = 0.5

_REDIS_FULL_SECONDS = 1.0
_PROBE_KEPT_MS = 10_000

_USE = "jobs"

_CANCEL_AGAIN_SECONDS = 0.1


class JobLoop(Worker):
    """arq's worker without the question that it begins with: INFO is for users with `@dangerous` only."""

    def __init__(
        self, redis: RedisClient, context: dict[Any, Any], *, jobs_at_once: int, job_seconds_max: float
    ) -> None:
        super().__init__(
            functions=[func(cast("WorkerCoroutine", take_next_step), name=STEP_JOB)],
            queue_name=QUEUE,
            redis_pool=redis,
            handle_signals=False,
            max_jobs=jobs_at_once,
            poll_delay=_POLL_SECONDS,
            job_timeout=job_seconds_max,
            keep_result=0,
            max_tries=1_000_000,  # a job that was cut short runs again, harmlessly; arq need not count
            retry_jobs=True,
            log_results=False,
            job_serializer=job_bytes,
            job_deserializer=job_from_bytes,
            ctx=context,
        )
        self._redis = redis

    async def main(self) -> None:
        """Takes jobs until it is cancelled. Raises what Redis raised."""
        async for _ in poll(self.poll_delay_s):
            if FaultKind.FULL in self._redis.faults.kinds:
                await self._wait_for_room()
            await self._poll_iteration()
            self._redis.faults.answered(_USE, writes=False)

    async def _wait_for_room(self) -> None:
        """Waits a little for a full Redis: arq would try each job of the queue again at once, and take none."""
        with contextlib.suppress(QueueUnavailable):
            async with available(self._redis, "probe"):
                await self._redis.set(f"{PREFIX}probe", 1, px=_PROBE_KEPT_MS)
            return
        await asyncio.sleep(_REDIS_FULL_SECONDS)


async def run_jobs(
    redis: RedisClient,
    context: dict[Any, Any],
    stopping: asyncio.Event,
    *,
    jobs_at_once: int,
    job_seconds_max: float,
) -> None:
    """Runs jobs until `stopping`, in a loop made anew when Redis drops: by itself arq's would end the process."""
    while not stopping.is_set():
        worker = JobLoop(redis, context, jobs_at_once=jobs_at_once, job_seconds_max=job_seconds_max)
        try:
            await _run_until(worker, stopping)
        except Exception as error:
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                redis.faults.failed(_USE, error)
            else:
                log.exception("job_loop_failed")  # whatever it is, a worker without jobs would be worse
            # Its jobs go on: what they claimed they finish, and the row says so. Only their last word to Redis is lost.
            await asyncio.sleep(_REDIS_AWAY_SECONDS)


async def _run_until(worker: Worker, stopping: asyncio.Event) -> None:
    main = asyncio.create_task(worker.main())
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
        worker.allow_pick_jobs = False
        if main.done():
            main.result()
        else:
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    finally:
        stop.cancel()
        await end_task(main)
        for task in worker.tasks.values():
            task.add_done_callback(_hear_out)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancels `task` until it has ended.

    One cancellation is not always enough. redis-py sends with `asyncio.wait_for`. In Python 3.11
    this swallows a cancellation that comes at the moment at which the sending is done. A caller that is
    cancelled meanwhile waits all the same, because a task that goes on keeps the process alive.
    """
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        raise interruption
    if not task.cancelled():
        task.exception()  # `_run_until` has raised it already


def _hear_out(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.info("job_end_not_recorded", error=type(error).__name__)
