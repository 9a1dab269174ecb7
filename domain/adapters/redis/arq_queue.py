"""arq's queue of jobs: the one module that knows arq. A job says only: look at this payment.

`JobQueue` writes jobs in arq's format, and every process uses it. `run_jobs` drives arq's worker.
Both rest on parts of arq that its documentation does not promise, so no process starts with a
version of arq that we did not test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import structlog
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, default_queue_name, job_key_prefix
from arq.jobs import serialize_job
from arq.typing import WorkerCoroutine
from arq.utils import poll
from arq.version import VERSION
from arq.worker import Worker, func
from redis.exceptions import RedisError

from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.faults import FaultKind
from domain.adapters.redis.names import PREFIX, TAG
from domain.adapters.settings.errors import SettingsError
from domain.errors import QueueUnavailable

log = structlog.get_logger()

QUEUE = f"{default_queue_name}:{TAG}"
STEP_JOB = "take_next_step"

_TESTED_VERSIONS = "0.28"

# Redis drops a job that no worker took for so long. By then the sweeper has queued others for the
# same payment.
_JOB_KEPT_SECONDS = 600

# arq's default of half a second caps a worker at about 20 jobs a second.
_POLL_SECONDS = 0.02

_REDIS_AWAY_SECONDS = 0.5

_REDIS_FULL_SECONDS = 1.0
_PROBE_KEPT_MS = 10_000

_USE = "jobs"

_CANCEL_AGAIN_SECONDS = 0.1

# Does the work of a job. The argument is the payment's id as the job carries it, which may be
# anything that is JSON.
TakeStep = Callable[[str], Awaitable[None]]

# What arq's enqueue_job writes, in one round trip for all instead of three for each, and only as
# many as there is room for. It watches for a duplicate id; ours are new each time. KEYS: the queue,
# then each job's. ARGV: how many the queue may hold, for how long a job is kept, its score; then
# each job's id and bytes. Returns how many were queued.
_ENQUEUE = """
local room = math.max(0, tonumber(ARGV[1]) - redis.call('ZCARD', KEYS[1]))
local last = math.min(#KEYS, room + 1)
for i = 2, last do
  redis.call('PSETEX', KEYS[i], ARGV[2], ARGV[2 * i + 1])
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2 * i])
end
return last - 1
"""


def require_tested_arq(version: str = VERSION) -> None:
    """Raises SettingsError for a version of arq that we did not test, or one that names its keys
    in another way.
    """
    if not version.startswith(f"{_TESTED_VERSIONS}."):
        raise SettingsError(
            f"cannot start; arq {version} is installed, and only {_TESTED_VERSIONS} is tested "
            "(install what requirements.lock names)"
        )
    if f"{{{abort_jobs_ss}}}" != TAG:
        raise SettingsError(f"cannot start; arq's key {abort_jobs_ss} is not in the slot of {TAG}")


def job_bytes(value: Any) -> bytes:
    """arq's jobs as JSON: its default, pickle, would run code that an attacker put into Redis."""
    return json.dumps(value, default=str).encode()


def job_from_bytes(value: bytes) -> Any:
    return json.loads(value)


def _new_job_id() -> str:
    """An id that no job ever had: a killed worker's in-progress key would block its second use
    (design.md, rule 2).
    """
    return TAG + uuid4().hex


class JobQueue:
    """Writes jobs as arq reads them. Its methods raise what redis-py raises."""

    def __init__(self, redis: RedisClient) -> None:
        require_tested_arq()
        self._redis = redis
        self._script = redis.register_script(_ENQUEUE)

    async def length(self) -> int:
        return int(await self._redis.zcard(QUEUE))

    async def enqueue(
        self, payment_ids: Sequence[UUID], *, length_max: int, ahead_ms: int = 0
    ) -> None:
        """Queues a job for each payment, until the queue holds `length_max`.

        They go before jobs of `ahead_ms` ago.
        """
        if not payment_ids:
            return
        now_ms = int(time.time() * 1000)
        keys = [QUEUE]
        arguments: list[Any] = [length_max, _JOB_KEPT_SECONDS * 1000, now_ms - ahead_ms]
        for payment_id in payment_ids:
            job_id = _new_job_id()
            job = serialize_job(
                STEP_JOB, (str(payment_id),), {}, None, now_ms, serializer=job_bytes
            )
            keys.append(job_key_prefix + job_id)
            arguments += [job_id, job]
        await self._script(keys=keys, args=arguments)


class JobLoop(Worker):
    """arq's worker without the question that it begins with: INFO is for users with `@dangerous`
    only.
    """

    def __init__(
        self, redis: RedisClient, take_step: TakeStep, *, jobs_at_once: int, job_seconds_max: float
    ) -> None:
        async def run(_context: dict[Any, Any], payment_id: str) -> None:
            await take_step(payment_id)

        super().__init__(
            functions=[func(cast("WorkerCoroutine", run), name=STEP_JOB)],
            queue_name=QUEUE,
            redis_pool=cast(
                "ArqRedis", redis
            ),  # what ArqRedis adds is used for cron jobs only, and we have none
            handle_signals=False,
            max_jobs=jobs_at_once,
            poll_delay=_POLL_SECONDS,
            job_timeout=job_seconds_max,
            keep_result=0,
            # a job that was cut short runs again, harmlessly; arq need not count
            max_tries=1_000_000,
            retry_jobs=True,
            log_results=False,
            job_serializer=job_bytes,
            job_deserializer=job_from_bytes,
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
        """Waits a little for a full Redis: arq would try each job of the queue again at once,
        and take none.
        """
        with contextlib.suppress(QueueUnavailable):
            async with available(self._redis, "probe"):
                await self._redis.set(f"{PREFIX}probe", 1, px=_PROBE_KEPT_MS)
            return
        await asyncio.sleep(_REDIS_FULL_SECONDS)


async def run_jobs(
    redis: RedisClient,
    take_step: TakeStep,
    stopping: asyncio.Event,
    *,
    jobs_at_once: int,
    job_seconds_max: float,
) -> None:
    """Runs jobs until `stopping`, in a loop made anew when Redis drops: by itself arq's would
    end the process.
    """
    while not stopping.is_set():
        worker = JobLoop(
            redis, take_step, jobs_at_once=jobs_at_once, job_seconds_max=job_seconds_max
        )
        try:
            await _run_until(worker, stopping)
        except Exception as error:
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                redis.faults.failed(_USE, error)
            else:
                log.exception(
                    "job_loop_failed"
                )  # whatever it is, a worker without jobs would be worse
            # Its jobs go on: what they claimed they finish, and the row says so. Only their last
            # word to Redis is lost.
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
    this swallows a cancellation that comes at the moment at which the sending is done. A caller
    that is cancelled meanwhile waits all the same, because a task that goes on keeps the process
    alive.
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
