"""A request waits for no answer of Redis before its payment is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.feed_reader import open_transaction, wait_for_blocked
from tests.spec.requesting import deposit_body
from tests.spec.system import System

# No transaction can store a key, so every request waits in its commit.
_LOCK = "LOCK TABLE mkwanja.idempotency_keys IN ACCESS EXCLUSIVE MODE"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(processes=("web",)) as system:
        yield system


async def _commands(system: System) -> dict[str, int]:
    """How often Redis has run each command, without the commands of this function."""
    async with Redis.from_url(system.stack.redis.url) as redis:
        counts = await redis.info("commandstats")
    ours = ("info", "client", "hello", "command", "auth")
    return {
        name: int(count["calls"])
        for name, count in counts.items()
        if not name.removeprefix("cmdstat_").startswith(ours)
    }


async def test_before_the_commit_a_backends_request_sends_nothing_to_redis(system: System) -> None:
    before = await _commands(system)
    async with open_transaction(system, _LOCK) as holder:
        paying = asyncio.create_task(system.backend.pay("/v1/deposits", deposit_body()))
        await wait_for_blocked(system, holder)
        assert await _commands(system) == before
    (await paying).expect(202)
    assert await _commands(system) != before  # the wake-up and the copy


async def test_a_replay_is_answered_from_memory_while_both_servers_are_away(
    system: System,
) -> None:
    """The process that accepted the payment needs neither PostgreSQL nor Redis to repeat it."""
    postgres, redis = system.stack.postgres, system.stack.redis
    if not (postgres.can_be_stopped and redis.can_be_stopped):
        pytest.skip("a test must not freeze a server that was given to it")
    body, key = deposit_body(), str(uuid4())
    first = (await system.backend.pay("/v1/deposits", body, key=key)).expect(202)
    (await system.backend.pay("/v1/deposits", body, key=key)).expect(202)  # it reads the epoch
    postgres.freeze()
    redis.freeze()
    try:
        again = (await system.backend.pay("/v1/deposits", body, key=key)).expect(202)
    finally:
        redis.thaw()
        postgres.thaw()
    assert (again.body, again.was_replayed) == (first.body, True)
