"""A caller with a large burst is let in on credit: Redis counts its requests a moment later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from domain.adapters.redis.rates import Spending
from domain.policy import CallerLimits
from gateway.rate_credit import CreditLedger
from tests.clock import Clock

_LIMITS = CallerLimits(requests_per_second=1000, burst=10_000)
_CREDIT = 100


class Bucket:
    """A bucket in place of Redis. It counts all reports, and answers while `is_open` is set."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.counted: dict[str, int] = {}
        self.reports = 0
        self.room = room
        self.is_away = False
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def report(self, spendings: Sequence[Spending]) -> list[float] | None:
        await self.is_open.wait()
        if self.is_away:
            return None
        self.reports += 1
        for one in spendings:
            self.counted[one.caller_key] = self.counted.get(one.caller_key, 0) + one.count
        return [max(0, self.counted[one.caller_key] - self.room) / 1000 for one in spendings]


async def spend_many(ledger: CreditLedger, times: int, caller: str = "a") -> list[float]:
    return [await ledger.spend(caller, _LIMITS, _CREDIT) for _ in range(times)]


async def test_a_request_on_credit_does_not_wait_for_redis() -> None:
    """A hundred requests of a caller are let in while Redis does not answer, and no more."""
    bucket = Bucket()
    bucket.is_open.clear()
    ledger = CreditLedger(bucket.report)
    assert await spend_many(ledger, _CREDIT) == [0.0] * _CREDIT
    next_one = asyncio.create_task(ledger.spend("a", _LIMITS, _CREDIT))
    assert await spend_many(ledger, 1, "b") == [0.0]
    await asyncio.sleep(0.01)
    assert not next_one.done()
    bucket.is_open.set()
    assert await next_one == 0.0
    await ledger.drain()
    assert bucket.counted == {"a": _CREDIT + 1, "b": 1}


async def test_concurrent_requests_share_a_report() -> None:
    bucket = Bucket()
    ledger = CreditLedger(bucket.report)
    await asyncio.gather(*(ledger.spend(f"caller {n}", _LIMITS, _CREDIT) for n in range(50)))
    await ledger.drain()
    assert bucket.reports == 1
    assert sum(bucket.counted.values()) == 50


async def test_a_caller_above_its_rate_is_refused_without_redis() -> None:
    """Every request that was let in is counted. The process asks again when the wait is over."""
    bucket, clock = Bucket(room=10), Clock()
    ledger = CreditLedger(bucket.report, clock)
    assert await spend_many(ledger, 60) == [0.0] * 60
    await ledger.drain()
    reports = bucket.reports
    assert {round(wait, 3) for wait in await spend_many(ledger, 500)} == {0.05}
    assert await spend_many(ledger, 1, "b") == [0.0]
    clock.now += 0.02
    assert [round(wait, 3) for wait in await spend_many(ledger, 1)] == [0.03]
    await ledger.drain()
    assert bucket.counted["a"] == 60
    assert bucket.reports == reports + 1  # that of the other caller
    clock.now += 0.031
    assert await spend_many(ledger, 1) == [0.0]


async def test_a_replay_gives_its_request_back() -> None:
    """If the charge was not reported yet, nothing is reported."""
    bucket = Bucket()
    ledger = CreditLedger(bucket.report)
    await spend_many(ledger, 5)
    for _ in range(5):
        ledger.give_back("a", _LIMITS)
    await ledger.drain()
    assert bucket.reports == 0
    await spend_many(ledger, 5)
    await ledger.drain()
    ledger.give_back("a", _LIMITS)
    await ledger.drain()
    assert bucket.counted == {"a": 4}


async def test_while_redis_is_away_requests_are_let_in_uncounted() -> None:
    bucket = Bucket()
    bucket.is_away = True
    ledger = CreditLedger(bucket.report)
    assert await spend_many(ledger, 5 * _CREDIT) == [0.0] * 5 * _CREDIT
    await ledger.drain()
    assert bucket.counted == {}


async def test_a_ledger_forgets_callers_that_it_need_not_remember() -> None:
    bucket, clock = Bucket(room=10), Clock()
    ledger = CreditLedger(bucket.report, clock)
    for number in range(100):
        await spend_many(ledger, 1, f"caller {number}")
    await spend_many(ledger, 20)
    await ledger.drain()
    assert len(ledger) == 1  # the caller above its rate
    clock.now += 1
    await asyncio.sleep(0.05)
    assert len(ledger) == 0
