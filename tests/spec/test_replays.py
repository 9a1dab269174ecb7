"""Replays are free: they do not count against their caller's rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.requesting import caller, deposit_body, expect_problem, new_subject
from tests.spec.system import System
from tests.stack.client import Answer, Client


@pytest.fixture(scope="module")
async def strict_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A user may send three requests at once, and no other for a quarter of an hour."""
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text("[users]\nrequests_per_second = 0.001\nburst = 3")
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        yield system


async def _replay_20_times(
    system: System, user: Client, body: Any, first: Answer, *, key: str, has_copy: bool
) -> None:
    for _ in range(20):
        if not has_copy:
            await _delete_copies(system)
        again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        assert (again.body, again.was_replayed) == (first.body, True)


async def _delete_copies(system: System) -> None:
    """Deletes the copies of answers, but not the rates, which are in the same Redis."""
    async with Redis.from_url(system.stack.redis.url) as redis:
        if names := [name async for name in redis.scan_iter("*replay:*")]:
            await redis.delete(*names)


@pytest.mark.parametrize("has_copy", [True, False], ids=["from Redis", "from Postgres"])
async def test_a_replay_does_not_count_against_the_rate(
    strict_system: System, *, has_copy: bool
) -> None:
    """Twenty replays before each later request change nothing: the fourth request is refused."""
    async with caller(strict_system, sub=new_subject()) as user:
        body, key = deposit_body(), str(uuid4())
        first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        for _ in range(2):
            await _replay_20_times(strict_system, user, body, first, key=key, has_copy=has_copy)
            (await user.pay("/v1/deposits", deposit_body())).expect(202)
        expect_problem(await user.pay("/v1/deposits", deposit_body()), 429, "rate_limited")
        await _replay_20_times(strict_system, user, body, first, key=key, has_copy=has_copy)
        expect_problem(await user.get("/v1/payments"), 429, "rate_limited")


async def test_concurrent_replays_block_no_new_request(strict_system: System) -> None:
    async with caller(strict_system, sub=new_subject()) as user:
        body, key = deposit_body(), str(uuid4())
        first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        replays = [user.pay("/v1/deposits", body, key=key) for _ in range(50)]
        news = [user.pay("/v1/deposits", deposit_body()) for _ in range(2)]
        answers = await asyncio.gather(*replays, *news)
        assert {answer.status for answer in answers} == {202}
        assert {answer.body for answer in answers[:50]} == {first.body}


async def test_another_request_with_the_same_key_counts_against_the_rate(
    strict_system: System,
) -> None:
    """Such a request is refused. It is not a replay."""
    async with caller(strict_system, sub=new_subject()) as user:
        key = str(uuid4())
        answers = [await user.pay("/v1/deposits", deposit_body(), key=key) for _ in range(4)]
    answers[0].expect(202)
    for refused in answers[1:3]:
        expect_problem(refused, 422, "idempotency_key_reused")
    expect_problem(answers[3], 429, "rate_limited")
