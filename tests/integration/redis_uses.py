"""Every use of Redis by the product, each as one call. Each must work on every hosted Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from domain.adapters.redis.arq_queue import JobLoop
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.cancelling import end_task
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.inspecting import inspect_redis
from domain.adapters.redis.listening import listen
from domain.adapters.redis.rates import CallerRates, Spending
from domain.adapters.redis.replays import Copy, CopyToWrite, Replays
from domain.adapters.redis.sharing import SharedRate, SharedText
from domain.adapters.redis.wakeups import RedisWakeups
from domain.idempotency import FirstAnswer
from domain.lifecycle.announce import OutboxEvent
from domain.policy import CallerLimits
from tests.integration.conftest import PATIENCE_SECONDS, new_id

_COPY = Copy(FirstAnswer(b"\x01", 202, b"{}", "0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b"), "one life")

Use = Callable[[RedisClient], Awaitable[Any]]
USES: dict[str, Use] = {
    "wake": lambda redis: RedisWakeups(redis).wake([new_id(), new_id()]),
    "wake one": lambda redis: RedisWakeups(redis).wake_one(new_id()),
    "hand over": lambda redis: RedisWakeups(redis).hand_over([new_id(), new_id()]),
    "consume hand-over": lambda redis: RedisWakeups(redis).consume_hand_over(new_id()),
    "room": lambda redis: RedisWakeups(redis).room(),
    "bell": lambda redis: RedisBell(redis).ring([OutboxEvent(1, new_id(), "{}")]),
    "listen": lambda redis: _listen_once(redis),  # noqa: PLW0108 - defined below
    "read copy": lambda redis: Replays(redis).read("caller", "key", now=datetime.now(UTC)),
    "write copy": lambda redis: Replays(redis).write(
        [CopyToWrite("caller", "key", _COPY, datetime.now(UTC) + timedelta(hours=1))]
    ),
    "wake new": lambda redis: RedisWakeups(redis).wake_new([new_id(), new_id()]),
    "caller rate afterwards": lambda redis: CallerRates(redis).charge_afterwards(
        [Spending("caller", CallerLimits(requests_per_second=1000, burst=1000), 2)]
    ),
    "caller rate": lambda redis: CallerRates(redis).charge(
        "caller", CallerLimits(requests_per_second=1000, burst=1000)
    ),
    "rate": lambda redis: SharedRate(redis, "rate", per_second=1000).charge(),
    "slow down": lambda redis: SharedRate(redis, "rate", per_second=1000).slow_down(),
    "read token": lambda redis: SharedText(redis, "token:1").read(),
    "write token": lambda redis: SharedText(redis, "token:1").write("text", ttl_seconds=60),
    "inspect": inspect_redis,
    "lock": lambda redis: _locked(redis),  # noqa: PLW0108 - defined below
    "jobs": lambda redis: _one_round_of_jobs(redis),  # noqa: PLW0108
}


async def _listen_once(redis: RedisClient) -> None:
    """Listen for events until the subscription has begun."""
    rung = asyncio.Event()
    listening = asyncio.create_task(listen(redis, rung.set))
    waiting = asyncio.create_task(rung.wait())
    try:
        await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            listening.result()
    finally:
        await end_task(listening)
        waiting.cancel()


async def _locked(redis: RedisClient) -> None:
    async with SharedText(redis, "token:1").lock() as is_ours:
        assert is_ours


async def _one_round_of_jobs(redis: RedisClient) -> None:
    """Let arq start a wake-up, run it, and record its end."""
    woken: list[str] = []

    async def run_step(payment_id: str) -> None:
        woken.append(payment_id)

    payment_id = new_id()
    await RedisWakeups(redis).wake([payment_id])
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            jobs = JobLoop(redis, run_step, payments_at_once=10, job_seconds_max=2)
            running = asyncio.create_task(jobs.main())
            try:
                while str(payment_id) not in woken or jobs.tasks or not await _is_empty(jobs):
                    await asyncio.sleep(0.01)
                    if running.done():
                        running.result()
            except RedisConnectionError:
                # One of its connections still led to the old primary. `run_jobs` also makes a new
                # loop then.
                continue
            else:
                return
            finally:
                await end_task(running)
                # A job's last write fails if Redis is away. `run_jobs` only logs that.
                await asyncio.gather(*jobs.tasks.values(), return_exceptions=True)


async def _is_empty(jobs: JobLoop) -> bool:
    return int(await jobs.pool.zcard(jobs.queue_name)) == 0


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[RedisClient]:
    client = connect(url, client_name="mkwanja-test", **options)
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)


async def assert_every_use_works(client: RedisClient) -> None:
    with capture_logs() as logs:
        for name, use in USES.items():
            try:
                await use(client)
            except Exception as error:
                error.add_note(f"use: {name}")
                raise
    assert [line for line in logs if line["event"].startswith("redis")] == []
    assert client.faults.report == "ok"
