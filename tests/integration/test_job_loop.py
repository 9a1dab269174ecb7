"""The loop of jobs on a real Redis. It takes several jobs at once and waits for news of more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix

from domain.adapters.redis import arq_queue
from domain.adapters.redis.arq_queue import QUEUE, JobLoop
from domain.adapters.redis.cancelling import end_task
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.faults import FaultKind, classify_error
from domain.adapters.redis.wakeups import RedisWakeups
from tests.integration.conftest import PATIENCE_SECONDS, new_id
from tests.integration.redis_uses import client_of
from tests.stack.servers import RedisServer


class Work:
    """Replaces the steps of payments. A step can be held back, or can fail."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.failing: set[str] = set()
        self.at_once = 0
        self.most_at_once = 0
        self._held: dict[str, asyncio.Event] = {}

    def hold(self, payment_ids: Sequence[UUID]) -> None:
        self._held = {str(payment_id): asyncio.Event() for payment_id in payment_ids}

    def release(self, payment_ids: Sequence[UUID]) -> None:
        for payment_id in payment_ids:
            self._held[str(payment_id)].set()

    async def run_step(self, payment_id: str) -> None:
        self.begun.append(payment_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if payment_id in self._held:
                await self._held[payment_id].wait()
            if payment_id in self.failing:
                raise LookupError
            self.ended.append(payment_id)
        except asyncio.CancelledError:
            self.cancelled.append(payment_id)
            raise
        finally:
            self.at_once -= 1


@pytest.fixture
def work() -> Work:
    return Work()


@asynccontextmanager
async def running(
    redis: RedisClient, work: Work, *, payments_at_once: int = 100
) -> AsyncIterator[JobLoop]:
    loop = JobLoop(redis, work.run_step, payments_at_once=payments_at_once, job_seconds_max=30)
    task = asyncio.create_task(loop.main())
    try:
        yield loop
        assert not task.done(), "the loop ended"
    finally:
        await end_task(task)
        jobs: list[asyncio.Task[Any]] = list(loop.tasks.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            met = condition()
            if met is True or (met is not False and await met):
                return
            await asyncio.sleep(0.005)


async def is_empty(redis: RedisClient) -> bool:
    keys = [await redis.keys(f"{prefix}*") for prefix in (job_key_prefix, in_progress_key_prefix)]
    return not any(keys) and not await redis.zcard(QUEUE)


async def queue_raw(
    redis: RedisClient, *arguments: Any, job_id: str = "", function: str = "take_next_step"
) -> str:
    """Puts a job into Redis as another release, or an attacker, may have written it."""
    job_id = job_id or f"{{arq:abort}}{uuid4().hex}"
    job: dict[str, Any] = {"t": None, "f": function, "a": list(arguments), "k": {}, "et": 1}
    await redis.set(job_key_prefix + job_id, json.dumps(job), ex=600)
    await redis.zadd(QUEUE, {job_id: int(time.time() * 1000)})
    return job_id


def ids(count: int) -> list[UUID]:
    return [new_id() for _ in range(count)]


def texts(payment_ids: Sequence[UUID]) -> list[str]:
    return sorted(map(str, payment_ids))


async def test_a_payment_that_fails_or_hangs_does_not_touch_the_others_of_its_job(
    redis: RedisClient, work: Work
) -> None:
    failing, hanging, *others = payment_ids = ids(6)
    work.failing = {str(failing)}
    work.hold([hanging])
    async with running(redis, work) as loop:
        await RedisWakeups(redis).wake_new(payment_ids)
        await until(lambda: sorted(work.ended) == texts(others))
        await asyncio.sleep(0.05)
        assert (len(loop.tasks), await redis.zcard(QUEUE)) == (1, 1)
        work.release([hanging])
        await until(lambda: is_empty(redis))
    assert sorted(work.ended) == texts([hanging, *others])
    assert len(work.begun) == 6


async def test_a_loop_without_room_takes_no_job_and_a_slow_payment_keeps_only_its_own_place(
    redis: RedisClient, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The places of a job's other payments are free as soon as these have ended."""
    monkeypatch.setattr(arq_queue, "PAYMENTS_PER_JOB_MAX", 4)
    payment_ids = ids(60)
    slow = payment_ids[::7]
    work.hold(payment_ids)
    async with running(redis, work, payments_at_once=10):
        await RedisWakeups(redis).wake_new(payment_ids)
        await until(lambda: work.at_once >= 10)
        await RedisWakeups(redis).wake_new([new_id()])  # news, but there is no room
        await asyncio.sleep(0.05)
        assert work.at_once == 12
        work.release(sorted(set(payment_ids) - set(slow)))
        await until(lambda: len(work.ended) == 61 - len(slow))
        assert work.most_at_once <= 10 + 3
        work.release(slow)
        await until(lambda: is_empty(redis))
    assert set(work.ended) >= set(map(str, payment_ids))


async def test_two_loops_run_each_job_once(
    redis: RedisClient, redis_of_run: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that finds that another one has taken a job takes the next one."""
    monkeypatch.setattr(arq_queue, "PAYMENTS_PER_JOB_MAX", 2)
    payment_ids, there = ids(300), Work()
    async with (
        client_of(redis_of_run.url) as other,
        running(redis, work, payments_at_once=5),
        running(other, there, payments_at_once=5),
    ):
        await RedisWakeups(redis).wake_new(payment_ids)
        await until(lambda: is_empty(redis))
    assert sorted(work.begun + there.begun) == texts(payment_ids)
    assert work.begun
    assert there.begun


async def test_news_start_a_job_before_the_next_look(redis_of_run: Any, work: Work) -> None:
    """This loop would look at the queue without news only after the test's patience."""
    seconds = 4 * PATIENCE_SECONDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arq_queue, "_LOOK_SECONDS", seconds)
        url = f"{redis_of_run.url}?socket_timeout={2 * seconds}"
        async with client_of(url) as redis, running(redis, work):
            for number in range(1, 4):
                await asyncio.sleep(0.02)  # the loop waits for news
                await RedisWakeups(redis).wake_new(ids(1))
                await until(lambda number=number: len(work.ended) == number)  # type: ignore[misc]


async def test_a_loop_finds_a_job_without_news(redis: RedisClient, work: Work) -> None:
    """An older release leaves no news, and its job has one payment and no number in its id."""
    payment_id = new_id()
    async with running(redis, work):
        await asyncio.sleep(0.02)  # the loop waits for news
        await queue_raw(redis, str(payment_id))
        await until(lambda: is_empty(redis))
    assert work.ended == [str(payment_id)]


@pytest.mark.parametrize(
    ("job_id", "arguments", "function"),
    [
        ("", (), "take_next_step"),
        ("{arq:abort}x.999", ("17",), "take_next_step"),
        ("{arq:abort}x.-5", ("17",), "take_next_step"),
        ("{arq:abort}x.", ("17", "18"), "take_next_step"),
        ("999", (None, {}), "take_next_step"),
        ("{arq:abort}y.900", ("17",), "pay_again"),
    ],
)
async def test_an_odd_job_does_not_use_up_room(
    redis: RedisClient, work: Work, job_id: str, arguments: tuple[Any, ...], function: str
) -> None:
    """The number in a job's id may be wrong, and arq may refuse to run the job."""
    async with running(redis, work, payments_at_once=3) as loop:
        await queue_raw(redis, *arguments, job_id=job_id, function=function)
        await until(lambda: is_empty(redis))
        await until(lambda: loop._running == 0)
        await RedisWakeups(redis).wake_new(ids(3))
        await until(lambda: is_empty(redis))
    assert len(work.begun) == 3 + (0 if function == "pay_again" else len(arguments))


async def test_a_job_whose_text_has_expired_does_not_use_up_room(
    redis: RedisClient, work: Work
) -> None:
    await RedisWakeups(redis).wake_new(ids(5))
    await redis.delete(*await redis.keys(f"{job_key_prefix}*"))
    async with running(redis, work, payments_at_once=3) as loop:
        await until(lambda: is_empty(redis))
        await until(lambda: loop._running == 0)
    assert work.begun == []


async def test_jobs_that_a_dead_worker_took_run_again_when_their_marks_have_expired(
    redis: RedisClient, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no worker takes them, although they are at the head of the queue.

    The sweeper makes other jobs for their payments meanwhile. The loop has less room than the dead
    worker has jobs, and still gets to the next job.
    """
    monkeypatch.setattr(arq_queue, "PAYMENTS_PER_JOB_MAX", 3)
    payment_ids = ids(12)
    await RedisWakeups(redis).wake_new(payment_ids)
    marks = [
        in_progress_key_prefix + job_id.decode() for job_id in await redis.zrange(QUEUE, 0, -1)
    ]
    await redis.mset(dict.fromkeys(marks, 1))
    async with running(redis, work, payments_at_once=2):
        later = ids(2)
        await RedisWakeups(redis).wake_new(later)
        await until(lambda: sorted(work.ended) == texts(later))
        await redis.delete(*marks)
        await until(lambda: is_empty(redis))
    assert sorted(work.ended) == texts([*later, *payment_ids])


async def test_a_loop_that_stops_leaves_its_unfinished_job_to_another(
    redis: RedisClient, work: Work
) -> None:
    """arq cancels all payments of the job, and another loop then runs all of them."""
    payment_ids = ids(4)
    work.hold(payment_ids[:1])
    async with running(redis, work):
        await RedisWakeups(redis).wake_new(payment_ids)
        await until(lambda: len(work.ended) == 3)
    assert work.cancelled == [str(payment_ids[0])]
    there = Work()
    async with running(redis, there):
        await until(lambda: is_empty(redis))
    assert sorted(there.ended) == texts(payment_ids)


async def test_a_loop_that_waits_on_a_server_that_becomes_a_replica_says_so(work: Work) -> None:
    """Redis ends the waits of its clients when another server becomes the primary."""
    seconds = 4 * PATIENCE_SECONDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arq_queue, "_LOOK_SECONDS", seconds)
        async with (
            RedisServer() as server,
            client_of(f"{server.url}?socket_timeout={2 * seconds}") as redis,
            client_of(server.url) as admin,
        ):
            loop = JobLoop(redis, work.run_step, payments_at_once=9, job_seconds_max=30)
            waiting = asyncio.create_task(loop.main())
            await until(lambda: is_client_blocked(admin))
            await admin.execute_command("REPLICAOF", "127.0.0.1", "9")  # type: ignore[no-untyped-call]
            await asyncio.wait({waiting}, timeout=PATIENCE_SECONDS)
            error = waiting.exception()
            assert error is not None
            assert classify_error(error) is FaultKind.READ_ONLY


async def is_client_blocked(redis: RedisClient) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])
