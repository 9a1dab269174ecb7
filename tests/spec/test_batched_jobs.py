"""A worker that is killed in the middle of a job of many payments: each payment is paid once."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.proof.failpoints.starting import reached, start_armed
from tests.spec.conftest import a_system
from tests.spec.system import System

# Leases are short, and the service inquires soon.
_INQUIRE_SOON: dict[str, str | None] = {
    "SUBMITTING_LEASE_SECONDS": "3",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "2",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
}

_QUEUE = "arq:queue:{arq:abort}"
_PAYMENTS = 6


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(processes=("web", "callbacks"), env=_INQUIRE_SOON) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system without workers: each test starts its own, and the fixture kills them."""
    yield running_system
    await running_system.stack.kill_workers()


async def _queue_one_job(system: System, payment_ids: list[str]) -> None:
    """Replaces all jobs by one job for these payments."""
    await system.stack.redis.flush()
    now_ms, job_id = int(time.time() * 1000), f"{{arq:abort}}{uuid4().hex}.{len(payment_ids)}"
    job: dict[str, Any] = {
        "t": None,
        "f": "take_next_step",
        "a": payment_ids,
        "k": {},
        "et": now_ms,
    }
    async with Redis.from_url(system.stack.redis_url) as redis:
        await redis.set(f"arq:job:{job_id}", json.dumps(job), ex=600)
        await redis.zadd(_QUEUE, {job_id: now_ms})


@pytest.mark.parametrize(
    "place",
    [
        f"{point}:kill:{payments}:together"
        for point in ("taken_before_claim", "claimed_before_call", "answered_before_commit")
        for payments in (1, _PAYMENTS)
    ],
)
@pytest.mark.sampled(2)
async def test_a_worker_that_is_killed_within_a_job_of_many_pays_each_payment_once(
    system: System, place: str
) -> None:
    """The payments of a job run at the same time, so all of them can be at one place.

    The killed worker sweeps only once, so the job is its only wake-up.
    """
    payment_ids = [await system.withdrawal() for _ in range(_PAYMENTS)]
    await _queue_one_job(system, payment_ids)
    rarely = {"SWEEP_INTERVAL_SECONDS": "60"}
    worker = await start_armed(system.stack, "worker.1", place, env=rarely)
    await reached(worker, place)
    await system.stack.start_process("worker.2")
    await system.wait_until_paid(payment_ids)
    await system.assert_money_agrees(payment_ids)
    moved = {each: len(await system.movements(each)) for each in payment_ids}
    assert moved == dict.fromkeys(payment_ids, 1)
