"""Each caller has a rate limit: one bucket in Redis, which all web processes share."""

from __future__ import annotations

import asyncio

import pytest

from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.rates import CallerRates, Spending
from domain.errors import QueueUnavailable
from domain.policy import CallerLimits
from tests.stack.servers import RedisServer

# So slow that the bucket does not refill while a test runs.
SLOW = CallerLimits(requests_per_second=0.001, burst=5)


async def charge_many(
    rates: CallerRates, times: int, caller: str = "a caller", limits: CallerLimits = SLOW
) -> list[float]:
    return await asyncio.gather(*(rates.charge(caller, limits) for _ in range(times)))


async def test_a_caller_may_send_one_burst_at_once_in_the_order_of_its_requests(
    redis: RedisClient,
) -> None:
    waits = await charge_many(CallerRates(redis), 50)
    assert [wait == 0 for wait in waits] == [True] * 5 + [False] * 45
    assert all(0 < wait <= 1000 for wait in waits[5:])


async def test_two_processes_share_a_callers_bucket(redis: RedisClient) -> None:
    both = CallerRates(redis), CallerRates(redis)
    waits = await asyncio.gather(
        *(rates.charge("a caller", SLOW) for _ in range(10) for rates in both)
    )
    assert waits.count(0) == 5


async def test_each_caller_has_a_bucket_of_its_own(redis: RedisClient) -> None:
    rates = CallerRates(redis)
    await charge_many(rates, 9, "greedy")
    assert (await charge_many(rates, 5, "modest")).count(0) == 5


async def test_a_refused_request_is_not_charged(redis: RedisClient) -> None:
    """Refused requests do not make the wait of their caller longer."""
    rates = CallerRates(redis)
    await charge_many(rates, 5)
    first = await rates.charge("a caller", SLOW)
    await charge_many(rates, 100)
    assert await rates.charge("a caller", SLOW) <= first


async def test_a_refund_permits_another_request_and_never_makes_the_burst_larger(
    redis: RedisClient,
) -> None:
    """A refund of a request that was never charged does not enlarge the burst either."""
    rates = CallerRates(redis)
    await charge_many(rates, 5)
    await asyncio.gather(rates.refund("a caller", SLOW), rates.refund("a caller", SLOW))
    assert (await charge_many(rates, 5)).count(0) == 2
    for _ in range(9):
        await rates.refund("a caller", SLOW)
    assert await redis.keys("*rate:*") == []
    assert (await charge_many(rates, 9)).count(0) == 5


async def test_a_caller_that_waited_the_given_time_is_served(redis: RedisClient) -> None:
    rates, quick = CallerRates(redis), CallerLimits(requests_per_second=50, burst=1)
    for _ in range(5):
        while not (wait_seconds := await rates.charge("a caller", quick)):
            pass  # until a request is too early, also on a slow machine
        await asyncio.sleep(wait_seconds)
        assert await rates.charge("a caller", quick) == 0


async def test_a_charge_without_a_limit_stores_nothing_in_redis(redis: RedisClient) -> None:
    assert await charge_many(CallerRates(redis), 20, limits=CallerLimits()) == [0] * 20
    assert await redis.keys("*rate:*") == []


async def test_the_keys_show_no_caller_and_expire(redis: RedisClient) -> None:
    await CallerRates(redis).charge(
        "23:https://issuer.example/user-1", CallerLimits(requests_per_second=10, burst=10)
    )
    (name,) = await redis.keys(f"{PREFIX}rate:*")
    assert b"user-1" not in name
    assert 0 < await redis.pttl(name) <= 2_100


async def afterwards(rates: CallerRates, *counts: int, limits: CallerLimits = SLOW) -> list[float]:
    """Charges `counts` requests of "caller 0", "caller 1", … in one call."""
    return await rates.charge_afterwards(
        [Spending(f"caller {number}", limits, count) for number, count in enumerate(counts)]
    )


async def test_charging_afterwards_uses_the_same_bucket(redis: RedisClient) -> None:
    """Each caller gets its own wait. The burst of five is used up by the fifth request."""
    rates = CallerRates(redis)
    no_wait, wait, longer_wait = await afterwards(rates, 4, 5, 7)
    assert no_wait == 0
    assert 999 < wait <= 1000
    assert 2999 < longer_wait <= 3000
    assert (await charge_many(rates, 5, "caller 0")).count(0) == 1
    assert (await charge_many(rates, 5, "caller 1")).count(0) == 0


async def test_requests_above_the_burst_are_charged_afterwards_too(redis: RedisClient) -> None:
    """A caller therefore never gets more than its rate on average."""
    rates, quick = CallerRates(redis), CallerLimits(requests_per_second=100, burst=10)
    [wait] = await afterwards(rates, 60, limits=quick)
    assert 0.4 < wait <= 0.51


async def test_a_negative_number_undoes_charges(redis: RedisClient) -> None:
    rates = CallerRates(redis)
    await afterwards(rates, 5)
    assert await afterwards(rates, -2) == [0]
    assert (await charge_many(rates, 5, "caller 0")).count(0) == 2
    await afterwards(rates, -99)
    assert await redis.keys("*rate:*") == []


async def test_many_callers_are_charged_in_one_round_trip(redis: RedisClient) -> None:
    waits = await afterwards(CallerRates(redis), *([1] * 450), 9)
    assert [wait > 0 for wait in waits] == [False] * 450 + [True]


async def test_after_a_restart_of_redis_the_scripts_still_run(redis: RedisClient) -> None:
    """Redis forgets its scripts then. Only the first call sends the whole text."""
    rates = CallerRates(redis)
    for _ in range(2):
        await redis.script_flush()
        assert await charge_many(rates, 1) == [0]
        assert await afterwards(rates, 1) == [0]
    before = await _runs(redis, "eval")
    assert await charge_many(rates, 1) == [0]
    assert await afterwards(rates, 1) == [0]
    assert await _runs(redis, "eval") == before


async def _runs(redis: RedisClient, command: str) -> int:
    """How often Redis has run the command."""
    counts = await redis.info("commandstats")
    return int(counts.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_without_redis_a_charge_raises(redis_of_run: RedisServer) -> None:
    client = connect("redis://127.0.0.1:1/0", client_name="mkwanja-test")
    try:
        with pytest.raises(QueueUnavailable):
            await CallerRates(client).charge("a caller", SLOW)
    finally:
        await client.aclose(close_connection_pool=True)


@pytest.mark.parametrize("burst", [1, 3])
async def test_a_rate_with_a_fractional_interval_serves_its_whole_burst(
    redis: RedisClient, burst: int
) -> None:
    """Lua's numbers resolve today's time to a quarter of a microsecond, so sums are not exact."""
    limits = [
        CallerLimits(requests_per_second=rate, burst=burst)
        for rate in (0.3, 0.7, 3, 6, 7, 9, 11, 13)
    ]
    for number, limit in enumerate(limits):
        waits = await charge_many(CallerRates(redis), burst, f"caller {number}", limit)
        assert waits == [0] * burst, limit
