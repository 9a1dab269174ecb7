"""Redis is full and evicts no key. A send still works, and Redis refuses some other uses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.faults import FaultKind
from domain.adapters.redis.wakeups import RedisWakeups
from domain.errors import QueueUnavailable
from tests.integration.conftest import new_id
from tests.integration.redis_uses import USES, client_of
from tests.stack.servers import RedisServer
from workers import wakeups
from workers.wakeups import QueueOrLocal

NEEDED_BY_A_SEND = (
    *("rate", "slow down", "read token", "write token", "lock", "caller rate", "bell", "room"),
)
REFUSED = ("wake", "wake one", "hand over", "write copy")


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer(settings=["maxmemory-policy noeviction"]) as own:
        yield own


@pytest.fixture
async def full(server: RedisServer) -> AsyncIterator[RedisClient]:
    """A client of a Redis that other applications filled."""
    async with client_of(server.url) as client:
        await fill(server)
        yield client


async def fill(server: RedisServer) -> None:
    """Fills the memory with keys of another application."""
    async with Redis.from_url(server.url) as admin:
        used = (await admin.info("memory"))["used_memory"]
        await admin.config_set("maxmemory", used + 1_000_000)
        for number in itertools.count():
            try:
                await admin.set(f"theirs:{number}", "x" * 10_000)
            except ResponseError:
                return


async def test_the_parts_that_a_send_needs_work_on_a_full_redis(full: RedisClient) -> None:
    """Redis refuses other writes, because it is full. A use that works does not end this fault."""
    for _ in range(20):
        for name in NEEDED_BY_A_SEND:
            await USES[name](full)
    assert full.faults.report == "ok"
    for name in REFUSED:
        with pytest.raises(QueueUnavailable):
            await USES[name](full)
    for name in NEEDED_BY_A_SEND:
        await USES[name](full)
    assert full.faults.kinds == [FaultKind.FULL]


async def test_a_worker_runs_the_steps_that_redis_refuses_to_queue(
    full: RedisClient, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker runs a few steps at once, one for each payment. Later it queues steps again."""
    monkeypatch.setattr(wakeups, "_AT_ONCE_MAX", 5)
    running: list[tuple[UUID, bool]] = []
    may_end = asyncio.Event()

    async def run_step(payment_id: UUID, is_charged: bool) -> None:
        running.append((payment_id, is_charged))
        await may_end.wait()

    here = QueueOrLocal(RedisWakeups(full), run_step)
    ids = [new_id() for _ in range(9)]
    await here.wake(ids[:2])
    await here.hand_over(ids)
    await asyncio.sleep(0)
    assert running == [(payment_id, number >= 2) for number, payment_id in enumerate(ids[:5])]
    assert await here.room() == 0
    may_end.set()
    await asyncio.sleep(0.01)
    assert await here.room() == 5
    async with Redis.from_url(server.url) as admin:
        await admin.config_set("maxmemory", 0)
    await here.wake(ids)
    assert len(running) == 5
    assert await here.room() == 200 - len(ids)


async def test_a_worker_runs_no_step_itself_while_redis_is_away(
    full: RedisClient, server: RedisServer
) -> None:
    """A worker cannot send without the rate in Redis. A wrong password has the same effect."""
    run: list[UUID] = []

    async def run_step(payment_id: UUID, is_charged: bool) -> None:
        run.append(payment_id)

    async with client_of(server.url.replace("default:", "default:x")) as wrong:
        for client in (wrong, full):
            if client is full:
                await server.stop()
            with pytest.raises(QueueUnavailable):
                await QueueOrLocal(RedisWakeups(client), run_step).wake([new_id()])
            with pytest.raises(QueueUnavailable):
                await QueueOrLocal(RedisWakeups(client), run_step).room()
    assert run == []
