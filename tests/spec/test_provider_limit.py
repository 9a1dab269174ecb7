"""Daraja's limits, shared by all workers: requests per second and inquiries per minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.playing import begin
from tests.spec.system import System

_PER_SECOND = 10
_QUERIES_PER_MINUTE = 30
_LIMITED: dict[str, str | None] = {
    "DARAJA_REQUESTS_PER_SECOND": str(_PER_SECOND),
    "DARAJA_STK_QUERIES_PER_MINUTE": str(_QUERIES_PER_MINUTE),
    "DARAJA_INQUIRIES_PER_MINUTE": None,  # a number here would replace the limit above
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    # On a busy machine a test may take longer than a customer would wait.
    "DEPOSIT_EXPIRES_AFTER_SECONDS": "3600",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "3600",
}
_PAYOUTS, _PUSHES = 40, 30

_B2C, _STK, _QUERY = (
    "/mpesa/b2c/v3/paymentrequest",
    "/mpesa/stkpush/v1/processrequest",
    "/mpesa/stkpushquery/v1/query",
)
_ATTEMPTS = (
    "SELECT count(*) AS all, count(*) FILTER (WHERE outcome = 'not_acted') AS refused"
    " FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[])"
)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(env=_LIMITED, workers=2) as system:
        yield system


@pytest.fixture
async def redis(system: System) -> AsyncIterator[Redis]:
    async with Redis.from_url(system.stack.redis_url) as redis:
        yield redis


async def _arrivals(system: System, path: str = "/mpesa/") -> list[Any]:
    """The requests that reached the simulator at this path; by default all but token requests."""
    return list((await system.control("GET", f"/requests?path={path}"))["items"])


async def _seconds_since(system: System, first: str, last: Any) -> float:
    """The time from the acceptance of payment `first` to the arrival of request `last`.

    This time is at least as long as the time between the turns of the two requests.
    """
    [row] = await system.rows("SELECT created_at FROM mkwanja.payments WHERE id = $1::uuid", first)
    return float((datetime.fromisoformat(last["at"]) - row["created_at"]).total_seconds())


async def test_all_workers_share_one_rate_limit(system: System, redis: Redis) -> None:
    """The requests of one second are sent at once, and all others in turn.

    `test_redis_sharing.py` proves that payouts go first.
    """
    pushes = list(await asyncio.gather(*(system.deposit() for _ in range(_PUSHES))))
    payouts = list(await asyncio.gather(*(system.withdrawal() for _ in range(_PAYOUTS))))

    async def waiting_and_busy() -> tuple[int, int]:
        waiting = (await system.stage_counts([*pushes, *payouts]))["accepted"]
        return waiting, len(await redis.keys("arq:in-progress:*"))

    await system.eventually(waiting_and_busy, lambda seen: seen[0] >= 20 and seen[1] <= 5)
    await system.wait_until_paid([*pushes, *payouts])
    arrived = await _arrivals(system)
    assert len(arrived) <= _PER_SECOND * (1 + await _seconds_since(system, pushes[0], arrived[-1]))
    assert len(await _arrivals(system, _B2C)) == _PAYOUTS
    assert len(await _arrivals(system, _STK)) == _PUSHES
    [attempts] = await system.rows(_ATTEMPTS, [*pushes, *payouts])
    assert attempts["all"] == _PAYOUTS + _PUSHES


@pytest.mark.whole
async def test_a_spike_arrest_slows_all_workers_for_a_while(system: System, redis: Redis) -> None:
    """Each refused request is sent again once. The shared rate falls for a while."""
    await system.scenario("spike_arrest_json", api="b2c", times=4)
    payment_ids = list(await asyncio.gather(*(system.withdrawal() for _ in range(15))))

    async def factor() -> float:
        stored = redis.hget("mkwanja:{arq:abort}:rate:factor", "factor")
        return float(await cast("Awaitable[Any]", stored) or 1)

    await system.eventually(factor, lambda factor: factor < 1)
    await system.wait_until_paid(payment_ids)
    statuses = [item["status"] for item in await _arrivals(system, _B2C)]
    assert sum(status in (429, 500) for status in statuses) == 4
    [attempts] = await system.rows(_ATTEMPTS, payment_ids)
    assert attempts["refused"] == 4


@pytest.mark.whole
async def test_inquiries_stay_within_their_budget_and_stop_without_redis(system: System) -> None:
    """All workers together send thirty inquiries a minute, and none without Redis.

    A flush of Redis loses the count of inquiries, but no payment.
    """
    before = len(await _arrivals(system, _QUERY))
    begun = (begin(system, "stk", "lost_callback") for _ in range(5))
    payment_ids = list(await asyncio.gather(*begun))
    await system.eventually(
        lambda: _arrivals(system, _QUERY), lambda arrived: len(arrived) >= before + 2
    )
    if system.stack.redis.can_be_stopped:
        await system.stack.redis.stop()
        arrived_before = len(await _arrivals(system, _QUERY))
        waiting = await system.withdrawal()
        postponed = _count_postponed(system)
        await system.eventually(
            lambda: _count_postponed(system), lambda count: count >= postponed + 2
        )
        # One inquiry may have been on its way.
        assert len(await _arrivals(system, _QUERY)) <= arrived_before + 1
        await system.stack.redis.start()
        await system.wait_until_paid([waiting])
    await system.stack.redis.flush()
    await system.wait_until_paid(payment_ids)
    inquiries = (await _arrivals(system, _QUERY))[before:]
    seconds = await _seconds_since(system, payment_ids[0], inquiries[-1])
    # The budget allows one inquiry at once, and one more after the flush.
    assert len(inquiries) <= 2 + seconds * _QUERIES_PER_MINUTE / 60, inquiries


def _count_postponed(system: System) -> int:
    """How often a sweep of either worker found that Redis was away."""
    workers = [system.stack.process(name) for name in ("worker.1", "worker.2")]
    return sum(worker.log_text().count("wakeups_postponed") for worker in workers)
