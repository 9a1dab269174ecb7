"""The queue of jobs. Only this module uses arq. A job carries only ids of payments.

One other sort of job carries the id of an endpoint of webhooks.

`JobQueue` writes jobs in arq's format, and every process uses it. `run_jobs` runs arq's worker.
Both depend on details of arq that its documentation does not promise, so no process starts with a
version of arq that we did not test.

A job costs several round trips to Redis, however many payments it carries. So payments that are
woken together share a job. Each payment of a job still runs by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import structlog
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    default_queue_name,
    in_progress_key_prefix,
    job_key_prefix,
)
from arq.jobs import serialize_job
from arq.typing import WorkerCoroutine
from arq.version import VERSION
from arq.worker import Worker, func
from redis.exceptions import RedisError

from domain.adapters.redis.cancelling import end_task
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.faults import FaultKind
from domain.adapters.redis.names import PREFIX, TAG
from domain.adapters.settings.errors import SettingsError
from domain.errors import QueueUnavailable

log = structlog.get_logger()

QUEUE = f"{default_queue_name}:{TAG}"
STEP_JOB = "take_next_step"
SERVE_JOB = "serve_endpoint"

_TESTED_VERSIONS = "0.28"

# A job that no worker started expires after this time. By then the sweeper has queued other jobs
# for the same payment.
_JOB_LIFETIME_SECONDS = 600

# The most payments of one job. If the worker of a job dies, the sweeper has to wake all of them.
PAYMENTS_PER_JOB_MAX = 25

# Each enqueue leaves one entry in this list. A worker that has room waits for this entry, so it
# need not poll the queue often. The list holds at most one entry, because one look at the queue
# finds all jobs.
_NEWS = f"{PREFIX}new-jobs"
_NEWS_LIFETIME_MS = 60_000

# A worker looks at the queue this often even without news: another worker may have taken the news,
# or an older release may have queued the job.
_LOOK_SECONDS = 0.2

# If a worker had no room and one of its payments ends, it waits this long before it looks at the
# queue. More payments end meanwhile, so one look can start several jobs.
_GATHER_SECONDS = 0.005

_WAIT_IF_AWAY_SECONDS = 0.5

_WAIT_IF_FULL_SECONDS = 1.0
_PROBE_LIFETIME_MS = 10_000

_USE = "jobs"

# Does the work of one payment of a job. The argument is the payment id from the job. It is not
# validated and may be any JSON value.
RunStep = Callable[[str], Awaitable[None]]

# Starts to serve an endpoint of webhooks, and returns at once. The argument is the endpoint's id.
ServeEndpoint = Callable[[str], None]

# This script writes the same keys as arq's enqueue_job. It needs one round trip for all jobs, not
# three for each job, and writes only as many jobs as fit in the queue. It does not check for a
# duplicate id, as enqueue_job does, because our ids are always new. It also leaves the news.
# KEYS: the queue, the news, then the key of each job. ARGV: the length limit of the queue, the
# lifetime of a job, its score, the lifetime of the news; then the id and the bytes of each job.
# Returns the number of queued jobs.
_ENQUEUE = """
local room = math.max(0, tonumber(ARGV[1]) - redis.call('ZCARD', KEYS[1]))
local last = math.min(#KEYS, room + 2)
for i = 3, last do
  redis.call('PSETEX', KEYS[i], ARGV[2], ARGV[2 * i])
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2 * i - 1])
end
if last > 2 then
  redis.call('LPUSH', KEYS[2], '1')
  redis.call('LTRIM', KEYS[2], 0, 0)
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return last - 2
"""

# This script marks jobs as in progress, unless they have ended or another worker has marked them.
# arq's start_jobs needs four round trips for each job, this script one for several jobs.
# KEYS: the queue, then the in-progress key of each job. ARGV: the time now, the lifetime of a mark;
# then the id of each job. Returns for each job its score if it is ours now, else false.
_TAKE = """
local scores = {}
for i = 2, #KEYS do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i + 1])
  scores[i - 1] = score and tonumber(score) <= tonumber(ARGV[1])
    and redis.call('SET', KEYS[i], '1', 'NX', 'PX', ARGV[2]) and score
end
return scores
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


def _new_job_id(payments: int) -> str:
    """Returns an id that no job had before, which ends in the number of the job's payments.

    If a worker is killed, arq's in-progress key of its job stays for a while, and blocks every
    other job with the same id (rules.md §2).
    """
    return f"{TAG}{uuid4().hex}.{payments}"


def _count_payments(job_id: str) -> int:
    """Returns the number of payments of a job. An older release's id has no number: one payment."""
    _, _, number = job_id.rpartition(".")
    return int(number) if number.isdecimal() and len(number) <= 3 else 1


def _split_into_jobs(payment_ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(payment_ids), PAYMENTS_PER_JOB_MAX):
        yield payment_ids[start : start + PAYMENTS_PER_JOB_MAX]


class JobQueue:
    """Writes jobs in arq's format. Its methods raise the exceptions of redis-py."""

    def __init__(self, redis: RedisClient) -> None:
        require_tested_arq()
        self._redis = redis
        self._script = redis.register_script(_ENQUEUE)

    async def count_payments(self, enough: int) -> int:
        """Returns the number of payments in the queue. May stop counting at `enough`."""
        job_ids = await self._redis.zrange(QUEUE, 0, enough - 1)
        return sum(_count_payments(job_id.decode()) for job_id in job_ids)

    async def enqueue(
        self, payment_ids: Sequence[UUID], *, length_max: int, ahead_ms: int = 0
    ) -> None:
        """Queues jobs for the payments, until the queue holds `length_max` jobs.

        The new jobs go before all jobs that were queued in the last `ahead_ms` milliseconds.
        """
        jobs = list(_split_into_jobs(payment_ids))
        await self._enqueue(STEP_JOB, jobs, length_max=length_max, ahead_ms=ahead_ms)

    async def enqueue_endpoints(self, endpoint_ids: Sequence[UUID], *, length_max: int) -> None:
        """Queues a job for each endpoint of webhooks, until the queue holds `length_max` jobs."""
        jobs = [[endpoint_id] for endpoint_id in endpoint_ids]
        await self._enqueue(SERVE_JOB, jobs, length_max=length_max, ahead_ms=0)

    async def _enqueue(
        self, function: str, jobs: Sequence[Sequence[UUID]], *, length_max: int, ahead_ms: int
    ) -> None:
        if not jobs:
            return
        now_ms = int(time.time() * 1000)
        keys = [QUEUE, _NEWS]
        arguments: list[Any] = [length_max, _JOB_LIFETIME_SECONDS * 1000, now_ms - ahead_ms]
        arguments.append(_NEWS_LIFETIME_MS)
        for ids in jobs:
            job_id = _new_job_id(len(ids))
            job = serialize_job(
                function, tuple(map(str, ids)), {}, None, now_ms, serializer=encode_job
            )
            keys.append(job_key_prefix + job_id)
            arguments += [job_id, job]
        await self._script(keys=keys, args=arguments)


class JobLoop(Worker):
    """arq's worker, which takes many jobs in one round trip, and waits for news instead of polling.

    It takes a job only while fewer than `payments_at_once` payments run. It does not split a job,
    so the last job may exceed this number. Unlike arq's worker, it does not send INFO at its start,
    because Redis permits INFO only with the right `@dangerous`.
    """

    def __init__(
        self,
        redis: RedisClient,
        run_step: RunStep,
        serve_endpoint: ServeEndpoint | None = None,
        *,
        payments_at_once: int,
        job_seconds_max: float,
    ) -> None:
        super().__init__(
            functions=[
                func(cast("WorkerCoroutine", self._run_payments), name=STEP_JOB),
                func(cast("WorkerCoroutine", self._serve), name=SERVE_JOB),
            ],
            queue_name=QUEUE,
            # arq uses the additions of ArqRedis only for cron jobs, and we have none.
            redis_pool=cast("ArqRedis", redis),
            handle_signals=False,
            max_jobs=payments_at_once,
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
        self._run_step = run_step
        self._serve_endpoint = serve_endpoint
        self._take_script = redis.register_script(_TAKE)
        self._wait_for_news: Any = redis.blpop
        # `_running` counts the payments that run and the payments of jobs that are taken but not
        # yet read. `_unread` has only the latter, for each job.
        self._running = 0
        self._unread: dict[str, int] = {}
        self._payments_at_once = payments_at_once
        self._has_room = asyncio.Event()
        self._has_room.set()
        # The wait for news must end before redis-py's own time limit, or redis-py raises an error.
        limit_seconds = redis.connection_pool.connection_kwargs.get("socket_timeout")
        self._wait_seconds = min(_LOOK_SECONDS, (limit_seconds or _LOOK_SECONDS) / 2)

    async def main(self) -> None:
        """Runs jobs until it is cancelled. Raises the errors of redis-py."""
        while True:
            if FaultKind.FULL in self._redis.faults.kinds:
                await self._wait_for_memory()
            await self._poll_iteration()
            self._redis.faults.record_success(_USE, is_write=False)
            if not self._has_room.is_set():
                await self._has_room.wait()
                await asyncio.sleep(_GATHER_SECONDS)
            else:
                await self._wait_for_news([_NEWS], timeout=self._wait_seconds)

    async def _wait_for_memory(self) -> None:
        """Waits a moment if Redis is full, because every job that arq starts would fail."""
        with contextlib.suppress(QueueUnavailable):
            async with record_use(self._redis, "probe"):
                await self._redis.set(f"{PREFIX}probe", 1, px=_PROBE_LIFETIME_MS)
            return
        await asyncio.sleep(_WAIT_IF_FULL_SECONDS)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Takes and starts jobs, the first ones first, while there is room. arq calls it."""
        waiting = [job_id for job_id in map(bytes.decode, job_ids) if job_id not in self.tasks]
        while waiting and self._has_room.is_set():
            wanted, waiting = self._split_by_room(waiting)
            # If another worker took some of these jobs first, there is still room, and the loop
            # tries the next jobs.
            for job_id, score in zip(wanted, await self._take(wanted), strict=True):
                if score is not None:
                    self._start(job_id, int(score))

    def _split_by_room(self, job_ids: list[str]) -> tuple[list[str], list[str]]:
        """Splits the ids: as many as fill the room, and the rest."""
        room, count = self._payments_at_once - self._running, 0
        while count < len(job_ids) and room > 0:
            room -= _count_payments(job_ids[count])
            count += 1
        return job_ids[:count], job_ids[count:]

    async def _take(self, job_ids: list[str]) -> list[bytes | None]:
        """Marks the jobs as in progress. Returns the score of each job that is ours now."""
        return await self._take_script(  # type: ignore[no-any-return]
            keys=[QUEUE, *(in_progress_key_prefix + job_id for job_id in job_ids)],
            args=[int(time.time() * 1000), int(self.in_progress_timeout_s * 1000), *job_ids],
        )

    def _start(self, job_id: str, score: int) -> None:
        self._unread[job_id] = _count_payments(job_id)
        self._add_running(self._unread[job_id])
        task = self.loop.create_task(self.run_job(job_id, score))
        # A job that has expired, or that cannot be read, never runs its payments.
        task.add_done_callback(lambda _: self._add_running(-self._unread.pop(job_id, 0)))
        self.tasks[job_id] = task

    def _add_running(self, payments: int) -> None:
        self._running += payments
        if self._running < self._payments_at_once:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def _run_payments(self, context: dict[Any, Any], *payment_ids: str) -> None:
        """Runs a job. A payment that fails does not touch the other payments of the job."""
        self._add_running(len(payment_ids) - self._unread.pop(context["job_id"], 0))
        results = await asyncio.gather(*map(self._run_payment, payment_ids), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _serve(self, context: dict[Any, Any], endpoint_id: str) -> None:
        """Hands an endpoint over. Its webhooks occupy no place of a payment while they are sent."""
        self._add_running(-self._unread.pop(context["job_id"], 0))
        if self._serve_endpoint is not None:
            self._serve_endpoint(endpoint_id)

    async def _run_payment(self, payment_id: str) -> None:
        try:
            await self._run_step(payment_id)
        finally:
            self._add_running(-1)


async def run_jobs(
    redis: RedisClient,
    run_step: RunStep,
    stopping: asyncio.Event,
    *,
    serve_endpoint: ServeEndpoint | None = None,
    payments_at_once: int,
    job_seconds_max: float,
) -> None:
    """Runs jobs until `stopping` is set.

    Makes a new loop after each error of Redis, because arq's own loop would end the process.
    """
    while not stopping.is_set():
        worker = JobLoop(
            redis,
            run_step,
            serve_endpoint,
            payments_at_once=payments_at_once,
            job_seconds_max=job_seconds_max,
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


def _log_lost_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.info("job_end_not_recorded", error=type(error).__name__)
