"""The limit that all workers keep together: exact counts, by a real Redis whose clock a test
turns.
"""

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
_TURNS = {"payouts": PAYOUTS, "inquiries": INQUIRIES, "pushes": PUSHES}
_CLOCK = "test:clock"


class Clock:
    """Redis's clock, as the scripts read it: it stands still unless a test turns it."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._microseconds = 1_800_000_000_000_000

    async def turn(self, seconds: float = 0) -> None:
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
        turned = script.replace(
            "redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 'seconds', 'microseconds')"
        )
        monkeypatch.setattr(gcra, name, turned)
    clock = Clock(redis)
    await clock.turn()
    return clock


@pytest.fixture
async def workers(redis_of_run: Any) -> AsyncIterator[Sequence[RedisClient]]:
    """Three workers' connections."""
    clients = [connect(redis_of_run.url, client_name="mkwanja-test") for _ in range(3)]
    yield clients
    for client in clients:
        await client.aclose(close_connection_pool=True)


@pytest.fixture
def rates(clock: Clock, workers: Sequence[RedisClient]) -> list[SharedRate]:
    return [SharedRate(client, "rate", per_second=_PER_SECOND) for client in workers]


async def taken(rates: list[SharedRate], turn: RequestClass) -> int:
    """How many requests of this class may go now, asked for by all workers in turn until one is
    refused.
    """
    for count, rate in enumerate(itertools.cycle(rates)):
        if await rate.charge(turn) > 0:
            return count
    raise AssertionError


async def over(
    seconds: int, clock: Clock, rates: list[SharedRate], demand: Mapping[str, RequestClass]
) -> Counter[str]:
    """Who gets how many while every class of `demand` asks each twentieth of a second, in turn
    first and last.
    """
    counts: Counter[str] = Counter()
    for step in range(seconds * 20):
        await clock.turn(0.05)
        for name, turn in list(demand.items())[:: 1 if step % 2 else -1]:
            counts[name] += await taken(rates, turn)
    return counts


class TestRate:
    """So many a second, however many workers ask."""

    async def test_at_once_a_seconds_worth_passes_and_no_more(
        self, rates: list[SharedRate]
    ) -> None:
        """Three workers and sixty requests: twenty.

        Who is refused is told when there is room again.
        """
        waits = await asyncio.gather(*(rates[n % 3].charge(PAYOUTS) for n in range(60)))
        assert waits.count(0) == _PER_SECOND
        assert len(set(waits)) == 2
        assert max(waits) <= 0.05

    async def test_in_the_long_run_it_is_the_rate(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """Ten seconds of demand without end: ten seconds' worth, after the first burst."""
        assert await taken(rates, PAYOUTS) == _PER_SECOND
        assert await over(10, clock, rates, {"payouts": PAYOUTS}) == {"payouts": 10 * _PER_SECOND}

    async def test_after_the_wait_that_it_names_there_is_room(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """And not before; for each class its own wait."""
        for turn in _TURNS.values():
            await taken(rates, turn)
            wait = await rates[0].charge(turn)
            assert wait > 0
            await clock.turn(wait - 0.000_002)
            assert await rates[1].charge(turn) > 0
            await clock.turn(0.000_002)
            assert await rates[2].charge(turn) == 0
            await clock.turn(10)

    @pytest.mark.parametrize("per_second", [0.5, 1, 3, 7, 150])
    async def test_any_rate_is_kept(
        self, clock: Clock, workers: Sequence[RedisClient], per_second: float
    ) -> None:
        """Also one that does not divide a second, and one below one."""
        rates = [SharedRate(client, "other", per_second=per_second) for client in workers]
        assert await taken(rates, PAYOUTS) == max(1, per_second)
        counts = await over(4, clock, rates, {"payouts": PAYOUTS})
        assert abs(counts["payouts"] - 4 * per_second) <= 1


class TestTurns:
    """Payouts before inquiries before pushes, and none starves."""

    async def test_each_class_leaves_room_for_the_one_before_it(
        self, rates: list[SharedRate]
    ) -> None:
        """Of a burst of twenty: pushes may take seven, inquiries go on to thirteen, payouts to
        the end.
        """
        assert [await taken(rates, turn) for turn in (PUSHES, INQUIRIES, PAYOUTS)] == [7, 6, 7]

    async def test_payouts_that_took_all_leave_the_others_their_own_share_only(
        self, rates: list[SharedRate]
    ) -> None:
        """One each, at once; it is charged to the common count."""
        assert await taken(rates, PAYOUTS) == _PER_SECOND
        assert [await taken(rates, turn) for turn in (PUSHES, INQUIRIES, PAYOUTS)] == [1, 1, 0]

    async def test_under_endless_demand_of_all_each_has_its_share(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """A fifth for pushes, a tenth for inquiries, the rest for payouts; together the rate."""
        await taken(rates, PAYOUTS)
        counts = await over(10, clock, rates, _TURNS)
        assert abs(counts["pushes"] - 10 * _PER_SECOND * 0.2) <= 1
        assert abs(counts["inquiries"] - 10 * _PER_SECOND * 0.1) <= 1
        assert abs(counts.total() - 10 * _PER_SECOND) <= 2

    @pytest.mark.parametrize("alone", list(_TURNS))
    async def test_a_class_alone_has_the_whole_rate(
        self, clock: Clock, rates: list[SharedRate], alone: str
    ) -> None:
        """What nobody else wants is not kept back."""
        await taken(rates, _TURNS[alone])
        counts = await over(4, clock, rates, {alone: _TURNS[alone]})
        assert abs(counts[alone] - 4 * _PER_SECOND) <= 1


class TestSlowingDown:
    """Daraja says that it is too much: less, and then more again."""

    async def test_the_rate_is_halved_and_recovers_by_a_tenth_a_second(
        self, clock: Clock, rates: list[SharedRate]
    ) -> None:
        """From ten a second back to twenty in five."""
        await taken(rates, PAYOUTS)
        await rates[0].slow_down()
        counts = [(await over(1, clock, rates, {"payouts": PAYOUTS}))["payouts"] for _ in range(8)]
        assert counts[0] < 0.6 * _PER_SECOND
        assert counts == sorted(counts)
        assert counts[-2:] == [_PER_SECOND, _PER_SECOND]

    async def test_many_workers_that_are_told_so_at_once_slow_down_once(
        self, clock: Clock, rates: list[SharedRate], redis: RedisClient
    ) -> None:
        """A second later it counts again; never below a twentieth."""

        async def factor() -> float:
            return float(
                await cast("Awaitable[Any]", redis.hget(f"{PREFIX}rate:factor", "factor")) or 1
            )

        await asyncio.gather(*(rate.slow_down() for rate in rates * 5))
        assert await factor() == 0.5
        await clock.turn(1)
        await asyncio.gather(*(rate.slow_down() for rate in rates * 5))
        assert await factor() == 0.3
        for _ in range(20):
            await clock.turn(1)
            await rates[0].slow_down()
        assert 0.05 <= await factor() <= 0.11
        await clock.turn(20)
        await taken(rates, PAYOUTS)
        assert (await over(5, clock, rates, {"payouts": PAYOUTS}))["payouts"] == 5 * _PER_SECOND

    @pytest.mark.usefixtures("clock")
    async def test_one_limit_slowed_down_leaves_another_alone(
        self, workers: Sequence[RedisClient]
    ) -> None:
        """Budgets of inquiries are not the rate of requests."""
        rate = SharedRate(workers[0], "rate", per_second=_PER_SECOND)
        budget = InquiryBudget(workers[1], "query", per_minute=600)
        await budget.slow_down()
        assert await taken([rate], PAYOUTS) == _PER_SECOND
        assert await budget.charge(100) == 5


class TestBudgets:
    """So many questions a minute, however many workers ask."""

    async def test_five_a_minute_is_one_each_twelve_seconds(
        self, clock: Clock, workers: Sequence[RedisClient]
    ) -> None:
        """As Daraja counts them: no burst (daraja.md §3)."""
        budgets = [InquiryBudget(client, "query", per_minute=5) for client in workers]
        granted = []
        for _second in range(120):
            granted.append(sum([await budget.charge(200) for budget in budgets]))
            await clock.turn(1)
        assert [second for second, count in enumerate(granted) if count] == list(range(0, 120, 12))
        assert sum(granted) == 10

    async def test_what_is_wanted_is_granted_as_far_as_it_goes(
        self, clock: Clock, workers: Sequence[RedisClient]
    ) -> None:
        """Several at once, never more than wanted, and what was not wanted stays for others."""
        first, second = (InquiryBudget(client, "status", per_minute=600) for client in workers[:2])
        assert [
            await first.charge(0),
            await first.charge(3),
            await second.charge(200),
            await first.charge(1),
        ] == [0, 3, 7, 0]
        await clock.turn(0.5)
        assert [await second.charge(200), await first.charge(200)] == [5, 0]

    @pytest.mark.usefixtures("clock")
    async def test_budgets_of_different_names_are_two(self, workers: Sequence[RedisClient]) -> None:
        """Queries of deposits do not use up what Transaction Status may."""
        query, status = (
            InquiryBudget(workers[0], name, per_minute=60) for name in ("query", "status")
        )
        assert [await query.charge(5), await status.charge(5), await query.charge(5)] == [1, 1, 0]


async def test_a_flush_forgets_the_count_and_nothing_else(
    clock: Clock, rates: list[SharedRate], redis: RedisClient
) -> None:
    """One more burst, and the rate holds as before, the scripts' own loss included."""
    assert await taken(rates, PAYOUTS) == _PER_SECOND
    await redis.flushdb()
    await redis.script_flush()
    await clock.turn()
    assert await taken(rates, PAYOUTS) == _PER_SECOND
    assert await over(5, clock, rates, {"payouts": PAYOUTS}) == {"payouts": 5 * _PER_SECOND}
