"""The limits that all workers share are exact. Redis is real, and the test sets its clock."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, cast

import pytest

from domain.adapters.redis import gcra
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.sharing import InquiryBudget, RequestClass, SharedRate
from workers.daraja_access import INQUIRIES, PAYOUTS, PUSHES

_PER_SECOND = 20
_CLASSES = {"payouts": PAYOUTS, "inquiries": INQUIRIES, "pushes": PUSHES}
_CLOCK = "test:clock"

_RUN_SCRIPT = ("eval", "evalsha")


class Clock:
    """The clock that the scripts read. It stands still until a test advances it."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._microseconds = 1_800_000_000_000_000

    async def advance(self, seconds: float = 0) -> None:
        self._microseconds += round(seconds * 1_000_000)
        whole, rest = divmod(self._microseconds, 1_000_000)
        await cast(
            "Awaitable[int]",
            self._redis.hset(_CLOCK, mapping={"seconds": whole, "microseconds": rest}),
        )


@pytest.fixture
async def clock(redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> Clock:
    for name in ("CHARGE", "SLOW_DOWN"):
        script = getattr(gcra, name)
        assert script.count("redis.call('TIME')") == 1
        with_test_clock = script.replace(
            "redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 'seconds', 'microseconds')"
        )
        monkeypatch.setattr(gcra, name, with_test_clock)
    clock = Clock(redis)
    await clock.advance()
    return clock


@pytest.fixture
async def workers(redis_of_run: Any) -> AsyncIterator[Sequence[RedisClient]]:
    """The connections of three workers."""
    clients = [connect(redis_of_run.url, client_name="mkwanja-test") for _ in range(3)]
    yield clients
    for client in clients:
        await client.aclose(close_connection_pool=True)


@pytest.fixture
def rates(clock: Clock, workers: Sequence[RedisClient]) -> list[SharedRate]:
    return [SharedRate(client, "rate", per_second=_PER_SECOND) for client in workers]


async def charge_all(rates: list[SharedRate], request_class: RequestClass) -> int:
    """Charge requests by all workers in turn until one must wait. Returns how many passed."""
    for count, rate in enumerate(itertools.cycle(rates)):
        if await rate.charge(request_class) > 0:
            return count
    raise AssertionError


async def count_passed(
    seconds: int, clock: Clock, rates: list[SharedRate], demand: Mapping[str, RequestClass]
) -> Counter[str]:
    """Counts the requests that pass while every class of `demand` sends without end.

    The classes send every twentieth of a second, in alternating order.
    """
    counts: Counter[str] = Counter()
    for step in range(seconds * 20):
        await clock.advance(0.05)
        for name, request_class in list(demand.items())[:: 1 if step % 2 else -1]:
            counts[name] += await charge_all(rates, request_class)
    return counts


class TestRate:
    """The rate holds for any number of workers."""

    async def test_only_the_requests_of_one_second_pass_at_once(
        self, rates: list[SharedRate]
    ) -> None:
        """Three workers send sixty requests, and twenty pass. The others get the time to wait."""
        waits = await asyncio.gather(*(rates[n % 3].charge(PAYOUTS) for n in range(60)))
        assert waits.count(0) == _PER_SECOND
        assert len(set(waits)) == 2
        assert max(waits) <= 0.05

    async def test_concurrent_requests_of_a_class_share_round_trips(
        self, clock: Clock, rates: list[SharedRate], redis: RedisClient
    ) -> None:
        """The first requests pass. The others get the wait of the next request that can pass."""

        async def count_commands() -> int:
            stats = await redis.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _RUN_SCRIPT)

        await rates[0].charge(PAYOUTS)
        before = await count_commands()
        waits = await asyncio.gather(*(rates[0].charge(PAYOUTS) for _ in range(60)))
        assert await count_commands() - before == 1
        assert waits == [0.0] * (_PER_SECOND - 1) + [waits[-1]] * (61 - _PER_SECOND)
        await clock.advance(waits[-1] - 0.000_002)
        assert await rates[1].charge(PAYOUTS) > 0
        await clock.advance(0.000_002)
        assert await rates[2].charge(PAYOUTS) == 0

    async def test_a_request_that_is_cancelled_while_it_waits_charges_nothing(
        self, rates: list[SharedRate]
    ) -> None:
        first = [asyncio.create_task(rates[0].charge(PAYOUTS)) for _ in range(5)]
        for _ in range(5):
            await asyncio.sleep(0)  # the first requests are on their way to Redis
        later = [asyncio.create_task(rates[0].charge(PAYOUTS)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in later:
            task.cancel()
        assert await asyncio.gather(*first) == [0.0] * 5
        await asyncio.gather(*later, return_exceptions=True)
        assert all(task.cancelled() for task in later)
        assert await charge_all(rates, PAYOUTS) == _PER_SECOND - 5

    async def test_a_request_passes_after_the_returned_wait(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """No request passes before the end of the wait. Each class has its own wait."""
        for request_class in _CLASSES.values():
            await charge_all(rates, request_class)
            wait = await rates[0].charge(request_class)
            assert wait > 0
            await clock.advance(wait - 0.000_002)
            assert await rates[1].charge(request_class) > 0
            await clock.advance(0.000_002)
            assert await rates[2].charge(request_class) == 0
            await clock.advance(10)

    @pytest.mark.parametrize("per_second", [0.5, 1, 3, 7, 20, 150])
    async def test_any_rate_is_kept(
        self, clock: Clock, workers: Sequence[RedisClient], per_second: float
    ) -> None:
        """Some of the rates do not divide a second, and some are below one a second."""
        rates = [SharedRate(client, "other", per_second=per_second) for client in workers]
        assert await charge_all(rates, PAYOUTS) == max(1, per_second)
        counts = await count_passed(4, clock, rates, {"payouts": PAYOUTS})
        assert abs(counts["payouts"] - 4 * per_second) <= 1

    async def test_the_rate_follows_the_clock_of_redis(self, redis: RedisClient) -> None:
        """This test sets no clock. A refused request is not charged."""
        rate = SharedRate(redis, "rate", per_second=10)
        while not await rate.charge():
            pass
        waits = [await rate.charge() for _ in range(20)]
        await asyncio.sleep(waits[-1] + 0.01)
        assert await rate.charge() == 0


class TestClasses:
    """Payouts go before inquiries, and inquiries before pushes. No class starves."""

    async def test_each_class_leaves_room_for_the_one_before_it(
        self, rates: list[SharedRate]
    ) -> None:
        """Of a burst of 20, pushes may use 7, pushes and inquiries 13, and all classes 20."""
        assert [
            await charge_all(rates, request_class) for request_class in (PUSHES, INQUIRIES, PAYOUTS)
        ] == [7, 6, 7]

    async def test_after_payouts_used_the_burst_each_other_class_has_only_its_share(
        self, rates: list[SharedRate]
    ) -> None:
        """Each other class gets one request at once, which the common count includes."""
        assert await charge_all(rates, PAYOUTS) == _PER_SECOND
        assert [
            await charge_all(rates, request_class) for request_class in (PUSHES, INQUIRIES, PAYOUTS)
        ] == [1, 1, 0]

    async def test_under_endless_demand_of_all_each_has_its_share(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """Pushes get a fifth, inquiries a tenth, and payouts the rest of the rate."""
        await charge_all(rates, PAYOUTS)
        counts = await count_passed(10, clock, rates, _CLASSES)
        assert abs(counts["pushes"] - 10 * _PER_SECOND * 0.2) <= 1
        assert abs(counts["inquiries"] - 10 * _PER_SECOND * 0.1) <= 1
        assert abs(counts.total() - 10 * _PER_SECOND) <= 2

    @pytest.mark.parametrize("alone", list(_CLASSES))
    async def test_a_class_alone_has_the_whole_rate(
        self, clock: Clock, rates: list[SharedRate], alone: str
    ) -> None:
        """The shares of idle classes are not reserved."""
        await charge_all(rates, _CLASSES[alone])
        counts = await count_passed(4, clock, rates, {alone: _CLASSES[alone]})
        assert abs(counts[alone] - 4 * _PER_SECOND) <= 1


class TestSlowingDown:
    """If Daraja throttles us, the rate falls, and then recovers."""

    async def test_the_rate_is_halved_and_recovers_by_a_tenth_a_second(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """The rate grows from ten a second back to twenty in five seconds."""
        await charge_all(rates, PAYOUTS)
        await rates[0].slow_down()
        counts = [
            (await count_passed(1, clock, rates, {"payouts": PAYOUTS}))["payouts"] for _ in range(8)
        ]
        assert counts[0] < 0.6 * _PER_SECOND
        assert counts == sorted(counts)
        assert counts[-2:] == [_PER_SECOND, _PER_SECOND]

    async def test_many_workers_that_are_throttled_at_once_slow_down_once(
        self, clock: Clock, rates: list[SharedRate], redis: RedisClient
    ) -> None:
        """A second later, the rate may fall again, but never below a twentieth."""

        async def factor() -> float:
            return float(
                await cast("Awaitable[Any]", redis.hget(f"{PREFIX}rate:factor", "factor")) or 1
            )

        await asyncio.gather(*(rate.slow_down() for rate in rates * 5))
        assert await factor() == 0.5
        await clock.advance(1)
        await asyncio.gather(*(rate.slow_down() for rate in rates * 5))
        assert await factor() == 0.3
        for _ in range(20):
            await clock.advance(1)
            await rates[0].slow_down()
        assert 0.05 <= await factor() <= 0.11
        await clock.advance(20)
        await charge_all(rates, PAYOUTS)
        assert (await count_passed(5, clock, rates, {"payouts": PAYOUTS}))[
            "payouts"
        ] == 5 * _PER_SECOND

    @pytest.mark.usefixtures("clock")
    async def test_slowing_down_one_limit_changes_no_other_limit(
        self, workers: Sequence[RedisClient]
    ) -> None:
        """The inquiry budgets are independent of the rate of requests."""
        rate = SharedRate(workers[0], "rate", per_second=_PER_SECOND)
        budget = InquiryBudget(workers[1], "query", per_minute=600)
        await budget.slow_down()
        assert await charge_all([rate], PAYOUTS) == _PER_SECOND
        assert await budget.charge(100) == 5


class TestBudgets:
    """An inquiry budget holds for any number of workers."""

    async def test_five_a_minute_is_one_each_twelve_seconds(
        self, clock: Clock, workers: Sequence[RedisClient]
    ) -> None:
        """There is no burst: at least 12 s pass between two inquiries (daraja.md §3)."""
        budgets = [InquiryBudget(client, "query", per_minute=5) for client in workers]
        granted = []
        for _second in range(120):
            granted.append(sum([await budget.charge(200) for budget in budgets]))
            await clock.advance(1)
        assert [second for second, count in enumerate(granted) if count] == list(range(0, 120, 12))
        assert sum(granted) == 10

    async def test_a_call_gets_the_inquiries_that_it_wants_as_far_as_the_budget_allows(
        self, clock: Clock, workers: Sequence[RedisClient]
    ) -> None:
        """A call may get several, but never more than it wants. The rest stays for other calls."""
        first, second = (InquiryBudget(client, "status", per_minute=600) for client in workers[:2])
        assert [
            await first.charge(0),
            await first.charge(3),
            await second.charge(200),
            await first.charge(1),
        ] == [0, 3, 7, 0]
        await clock.advance(0.5)
        assert [await second.charge(200), await first.charge(200)] == [5, 0]

    @pytest.mark.usefixtures("clock")
    async def test_budgets_of_different_names_are_independent(
        self, workers: Sequence[RedisClient]
    ) -> None:
        """Inquiries about deposits do not use up the budget of Transaction Status."""
        query, status = (
            InquiryBudget(workers[0], name, per_minute=60) for name in ("query", "status")
        )
        assert [await query.charge(5), await status.charge(5), await query.charge(5)] == [1, 1, 0]


async def test_a_flush_forgets_the_count_and_nothing_else(
    clock: Clock, rates: list[SharedRate], redis: RedisClient
) -> None:
    """After one more burst, the rate is kept as before, even if Redis lost the scripts."""
    assert await charge_all(rates, PAYOUTS) == _PER_SECOND
    await redis.flushdb()
    await redis.script_flush()
    await clock.advance()
    assert await charge_all(rates, PAYOUTS) == _PER_SECOND
    assert await count_passed(5, clock, rates, {"payouts": PAYOUTS}) == {"payouts": 5 * _PER_SECOND}
