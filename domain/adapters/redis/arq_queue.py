"""The queue of jobs. Only this module uses arq. A job carries only the id of a payment.

`JobQueue` writes jobs in arq's format, and every process uses it. `run_jobs` runs arq's worker.
Both depend on details of arq that its documentation does not promise, so no process starts with a
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

from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.faults import FaultKind
from domain.adapters.redis.names import PREFIX, TAG
from domain.adapters.settings.errors import SettingsError
from domain.errors import QueueUnavailable

log = structlog.get_logger()

QUEUE = f"{default_queue_name}:{TAG}"
STEP_JOB = "take_next_step"

_TESTED_VERSIONS = "0.28"

# A job that no worker started expires after this time. By then the sweeper has queued other jobs
# for the same payment.
_JOB_LIFETIME_SECONDS = 600

# arq's default of half a second caps a worker at about 20 jobs a second.
_POLL_SECONDS = 0.02

_WAIT_IF_AWAY_SECONDS = 0.5

_WAIT_IF_FULL_SECONDS = 1.0
_PROBE_LIFETIME_MS = 10_000

_USE = "jobs"

_CANCEL_AGAIN_SECONDS = 0.1

# Does the work of a job. The argument is the payment id from the job. It is not validated and may
# be any JSON value.
RunStep = Callable[[str], Awaitable[None]]

# This script writes the same keys as arq's enqueue_job. It needs one round trip for all jobs, not
# three for each job, and writes only as many jobs as fit in the queue. It does not check for a
# duplicate id, as enqueue_job does, because our ids are always new.
# KEYS: the queue, then the key of each job. ARGV: the length limit of the queue, the lifetime of a
# job, its score; then the id and the bytes of each job. Returns the number of queued jobs.
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
    """Raises SettingsError if we did not test this version of arq, or if its key names changed."""
    if not version.startswith(f"{_TESTED_VERSIONS}."):
        raise SettingsError(
            f"cannot start; arq {version} is installed, but only {_TESTED_VERSIONS} is tested "
            "(install the version in requirements.lock)"
        )
    if f"{{{abort_jobs_ss}}}" != TAG:
        raise SettingsError(
            f"cannot start; arq's key {abort_jobs_ss} is not in the slot of our keys, {TAG} "
            "(install the version of arq in requirements.lock)"
        )


def encode_job(value: Any) -> bytes:
    """Encodes a job as JSON, because pickle, arq's default, would run an attacker's code."""
    return json.dumps(value, default=str).encode()


def decode_job(value: bytes) -> Any:
    return json.loads(value)


def _new_job_id() -> str:
    """Returns an id that no job had before.

    If a worker is killed, arq's in-progress key of its job stays for a while, and blocks every
    other job with the same id (rules.md §2).
    """
    return TAG + uuid4().hex


class JobQueue:
    """Writes jobs in arq's format. Its methods raise the exceptions of redis-py."""

    def __init__(self, redis: RedisClient) -> None:
        require_tested_arq()
        self._redis = redis
        self._script = redis.register_script(_ENQUEUE)

    async def length(self) -> int:
        return int(await self._redis.zcard(QUEUE))

    async def enqueue(
        self, payment_ids: Sequence[UUID], *, length_max: int, ahead_ms: int = 0
    ) -> None:
        """Queues a job for each payment, until the queue holds `length_max` jobs.

        The new jobs go before all jobs that were queued in the last `ahead_ms` milliseconds.
        """
        if not payment_ids:
            return
        now_ms = int(time.time() * 1000)
        keys = [QUEUE]
        arguments: list[Any] = [length_max, _JOB_LIFETIME_SECONDS * 1000, now_ms - ahead_ms]
        for payment_id in payment_ids:
            job_id = _new_job_id()
            job = serialize_job(
                STEP_JOB, (str(payment_id),), {}, None, now_ms, serializer=encode_job
            )
            keys.append(job_key_prefix + job_id)
            arguments += [job_id, job]
        await self._script(keys=keys, args=arguments)


class JobLoop(Worker):
    """arq's worker without its INFO command at start, which needs the Redis right `@dangerous`."""

    def __init__(
        self, redis: RedisClient, run_step: RunStep, *, jobs_at_once: int, job_seconds_max: float
    ) -> None:
        async def run(_context: dict[Any, Any], payment_id: str) -> None:
            await run_step(payment_id)

        super().__init__(
            functions=[func(cast("WorkerCoroutine", run), name=STEP_JOB)],
            queue_name=QUEUE,
            # arq uses the additions of ArqRedis only for cron jobs, and we have none.
            redis_pool=cast("ArqRedis", redis),
            handle_signals=False,
            max_jobs=jobs_at_once,
            poll_delay=_POLL_SECONDS,
            job_timeout=job_seconds_max,
            keep_result=0,
            # It is always safe to run an interrupted job again, so the limit of tries is very high.
            max_tries=1_000_000,
            retry_jobs=True,
            log_results=False,
            job_serializer=encode_job,
            job_deserializer=decode_job,
        )
        self._redis = redis

    async def main(self) -> None:
        """Runs jobs until it is cancelled. Raises the errors of redis-py."""
        async for _ in poll(self.poll_delay_s):
            if FaultKind.FULL in self._redis.faults.kinds:
                await self._wait_for_room()
            await self._poll_iteration()
            self._redis.faults.record_success(_USE, is_write=False)

    async def _wait_for_room(self) -> None:
        """Waits a moment if Redis is full, because every job that arq starts would fail."""
        with contextlib.suppress(QueueUnavailable):
            async with record_use(self._redis, "probe"):
                await self._redis.set(f"{PREFIX}probe", 1, px=_PROBE_LIFETIME_MS)
            return
        await asyncio.sleep(_WAIT_IF_FULL_SECONDS)


async def run_jobs(
    redis: RedisClient,
    run_step: RunStep,
    stopping: asyncio.Event,
    *,
    jobs_at_once: int,
    job_seconds_max: float,
) -> None:
    """Runs jobs until `stopping` is set.

    Makes a new loop after each error of Redis, because arq's own loop would end the process.
    """
    while not stopping.is_set():
        worker = JobLoop(
            redis, run_step, jobs_at_once=jobs_at_once, job_seconds_max=job_seconds_max
        )
        try:
            await _run_until(worker, stopping)
        except Exception as error:
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                redis.faults.record_failure(_USE, error)
            else:
                # Start a new loop after any error: a worker that runs no jobs would be worse.
                log.exception("job_loop_failed")
            # The jobs of the old loop continue. They finish the payments that they claimed and
            # record the result in Postgres. Only their last write to Redis is lost.
            await asyncio.sleep(_WAIT_IF_AWAY_SECONDS)


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
            task.add_done_callback(_log_lost_end)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancels `task` again and again until it has ended.

    One cancellation is not always enough. redis-py sends with `asyncio.wait_for`. In Python 3.11
    `wait_for` swallows a cancellation that arrives at the moment at which the send completes. If
    `end_task` itself is cancelled meanwhile, it still waits, because a running task would keep the
    process alive.
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


def _log_lost_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.info("job_end_not_recorded", error=type(error).__name__)
