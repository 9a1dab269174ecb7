"""The PostgreSQL primary dies under load, and its standby takes over.

Every process follows to the new primary. No payment is lost or paid twice.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.integration.redis_as_sold import KEYS_AND_CHANNELS, limited_user, url_of_user
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.standby import StandbyServer, url_of_both

if os.environ.get("DATABASE_URL"):
    pytest.skip("needs two servers that are ours to kill", allow_module_level=True)

_BEFORE = 60
_AFTER = 60
_PAYERS = 6
_KEYS = itertools.count()

# Parameters for other libraries, as in the URLs that providers print.
_FOREIGN_PARAMETERS = "&supa=base-pooler.x&pgbouncer=true&connection_limit=1&options=-c%20x%3D1"

_FAST_INQUIRIES = {
    "SUBMITTING_LEASE_SECONDS": "3",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}


@pytest.fixture
async def two_servers() -> AsyncIterator[tuple[PostgresServer, StandbyServer]]:
    """A primary and its synchronous standby, which stores each COMMIT before it is confirmed."""
    async with PostgresServer() as primary, StandbyServer(primary) as standby:
        await standby.wait_synchronous()
        yield primary, standby


@pytest.mark.whole
async def test_a_failover_under_load_loses_no_payment_and_pays_none_twice(
    two_servers: tuple[PostgresServer, StandbyServer],
) -> None:
    """The URL names both servers. The primary is killed, the standby promoted.

    No process is started again.
    """
    primary, standby = two_servers
    url = url_of_both(primary, standby, await primary.create_database())
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            a_system(
                postgres=primary,
                database_url=url,
                workers=2,
                env={**_FAST_INQUIRIES, "DATABASE_URL": url + _FOREIGN_PARAMETERS},
            )
        )
        before = {name: system.stack.process(name).pid for name in system.stack.names}
        accepted = await _fail_over_under_load(system, primary, standby)
        assert len(set(accepted)) == len(accepted)
        await _all_succeed(system, accepted)
        await system.assert_money_agrees(accepted)
        assert {name: system.stack.process(name).pid for name in system.stack.names} == before
        for name, text in system.stack.logs().items():
            if name.partition(".")[0] in ("web", "callbacks", "worker"):
                assert text.count("database_url_parameters_left_out") == 1, name


@pytest.mark.whole
async def test_three_failures_at_once_stop_only_the_missing_product(
    two_servers: tuple[PostgresServer, StandbyServer],
) -> None:
    """The app lacks B2C, the Redis user has few rights, and the primary fails over under load.

    Deposits and bill payments settle. Withdrawals wait, and are each paid once when the product
    works.
    """
    primary, standby = two_servers
    url = url_of_both(primary, standby, await primary.create_database())
    async with AsyncExitStack() as stack:
        few_rights = limited_user(f"{KEYS_AND_CHANNELS} +@all -@dangerous")
        redis = await stack.enter_async_context(RedisServer(settings=[few_rights]))
        system = await stack.enter_async_context(
            a_system(
                postgres=primary,
                database_url=url,
                workers=2,
                env={
                    **_FAST_INQUIRIES,
                    "DATABASE_URL": url,
                    "REDIS_URL": url_of_user(redis.url),
                    "OPERATION_COOL_DOWN_SECONDS": "1",
                },
            )
        )
        await system.control("POST", "/switches", {"missing_products": ["b2c"]})
        accepted = await _fail_over_under_load(system, primary, standby)

        kinds = {
            str(row["id"]): row["kind"]
            for row in await system.rows("SELECT id, kind FROM mkwanja.payments")
        }
        waiting = [payment_id for payment_id in accepted if kinds[payment_id] == "withdrawal"]
        others = [payment_id for payment_id in accepted if kinds[payment_id] != "withdrawal"]
        await _all_succeed(system, others)
        await system.assert_money_agrees(others)
        assert (await system.stage_counts(waiting))["succeeded"] == 0
        assert (await system.brake("b2c"))["is_engaged"]
        assert "redis_refuses" not in "".join(system.stack.logs().values())

        await system.control("POST", "/switches", {"missing_products": []})
        await _all_succeed(system, waiting)
        await system.assert_money_agrees(accepted)


async def _fail_over_under_load(
    system: System, primary: PostgresServer, standby: StandbyServer
) -> list[str]:
    """Kill the primary and promote the standby under load; return the accepted ids."""
    accepted: list[str] = []
    is_over = asyncio.Event()
    payers = [asyncio.create_task(_pay_until(is_over, system, accepted)) for _ in range(_PAYERS)]
    await _wait_for_accepted(accepted, _BEFORE, payers)
    await primary.kill()
    accepted_before = len(accepted)
    await standby.promote()
    await _wait_for_accepted(accepted, accepted_before + _AFTER, payers)
    is_over.set()
    await asyncio.gather(*payers)
    return accepted


async def _all_succeed(system: System, payment_ids: list[str]) -> None:
    await system.eventually(
        lambda: system.stage_counts(payment_ids),
        lambda counts: counts["succeeded"] == len(payment_ids),
        "all succeed",
    )


async def _pay_until(is_over: asyncio.Event, system: System, accepted: list[str]) -> None:
    """Make payments one after the other, and repeat each under its key until it is accepted."""
    while not is_over.is_set():
        number = next(_KEYS)
        path, body = [
            ("/v1/deposits", {"amount": 250, "phone_number": f"0713{number:06}"}),
            ("/v1/withdrawals", {"amount": 1200, "phone_number": f"0723{number:06}"}),
            (
                "/v1/bill-payments",
                {"amount": 830, "paybill": "888880", "account_reference": f"METER{number}"},
            ),
        ][number % 3]
        while True:
            try:
                answer = await system.backend.pay(path, body, key=f"failover-{number}")
            except aiohttp.ClientError:
                continue
            if answer.status == 202:
                accepted.append(str(answer.json()["id"]))
                break
            assert answer.status in (503, 409), answer
            await asyncio.sleep(0.1)


async def _wait_for_accepted(
    accepted: list[str], count: int, payers: list[asyncio.Task[None]]
) -> None:
    async with asyncio.timeout(30):
        while len(accepted) < count:
            for payer in payers:
                if payer.done():
                    payer.result()
            await asyncio.sleep(0.02)
