"""The PostgreSQL primary dies under load, and its standby takes over.

Every process connects to the new primary. No payment is lost or paid twice.
"""

from __future__ import annotations

import asyncio
import itertools
import os

import aiohttp
import pytest

from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.servers import PostgresServer
from tests.stack.standby import StandbyServer, url_of_both

if os.environ.get("DATABASE_URL"):
    pytest.skip("a test must not kill a server that was given to it", allow_module_level=True)

_ACCEPTED_EACH = 60  # before the primary dies, and as many after that
_PAYERS = 6
_KEYS = itertools.count()

# Parameters for other libraries, as in the URLs that providers print.
_FOREIGN_PARAMETERS = "&supa=base-pooler.x&pgbouncer=true&connection_limit=1&options=-c%20x%3D1"

_FAST_INQUIRIES = {
    "SUBMITTING_LEASE_SECONDS": "3",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}


@pytest.mark.whole
async def test_a_failover_under_load_loses_no_payment_and_pays_none_twice() -> None:
    """The URL names both servers. The test kills the primary and promotes the standby.

    The standby is synchronous: it stores each COMMIT before the primary confirms the COMMIT. No
    process of the service restarts.
    """
    async with PostgresServer() as primary, StandbyServer(primary) as standby:
        await standby.wait_synchronous()
        url = url_of_both(primary, standby, await primary.create_database())
        env = {**_FAST_INQUIRIES, "DATABASE_URL": url + _FOREIGN_PARAMETERS}
        async with a_system(postgres=primary, database_url=url, workers=2, env=env) as system:
            before = {name: system.stack.process(name).pid for name in system.stack.names}
            accepted: list[str] = []
            async with asyncio.TaskGroup() as payers:
                is_over = asyncio.Event()
                for _ in range(_PAYERS):
                    payers.create_task(_pay_until(is_over, system, accepted))
                await _wait_for_accepted(system, accepted, _ACCEPTED_EACH)
                await primary.kill()
                accepted_before = len(accepted)
                await standby.promote()
                await _wait_for_accepted(system, accepted, accepted_before + _ACCEPTED_EACH)
                is_over.set()
            assert len(set(accepted)) == len(accepted)
            await system.eventually(
                lambda: system.stage_counts(accepted),
                lambda counts: counts["succeeded"] == len(accepted),
                "all succeed",
            )
            await system.assert_money_agrees(accepted)
            assert {name: system.stack.process(name).pid for name in system.stack.names} == before
            for name, text in system.stack.logs().items():
                if name.partition(".")[0] in ("web", "callbacks", "worker"):
                    assert text.count("database_url_parameters_left_out") == 1, name


async def _wait_for_accepted(system: System, accepted: list[str], count: int) -> None:
    await system.eventually(lambda: len(accepted), lambda number: number >= count)


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
