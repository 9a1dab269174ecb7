"""Each caller has a rate limit: one bucket in Redis, which all web processes share."""

from __future__ import annotations

import asyncio

import pytest

from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.rates import CallerRates
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
