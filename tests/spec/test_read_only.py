"""The host makes the database read-only, as it does when a disk is full.

The service loses no payment that it sent.
"""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import uuid4

import pytest

from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.databases import connection, database_name

_INQUIRE_SOON = {"INQUIRY_FIRST_AFTER_SECONDS": "0.5", "INQUIRY_INTERVAL_MAX_SECONDS": "1"}
_DEPOSIT = {"amount": 250, "phone_number": "0711000777"}


# Daraja waits less than 16 seconds for the answer to a callback. After the longer outage the
# callback is lost, and only the worker still has Daraja's answer to the send.
@pytest.mark.parametrize("lasts_seconds", [2.0, pytest.param(16.0, marks=pytest.mark.whole)])
async def test_a_read_only_database_loses_no_answer_and_needs_no_restart(
    lasts_seconds: float,
) -> None:
    """Daraja's answers and callbacks come while none can be stored. Each payment settles once."""
    async with a_system(env=_INQUIRE_SOON, time_scale=0.2) as system:
        before = {name: system.stack.process(name).pid for name in system.stack.names}
        await system.scenario("slow", params={"seconds": 3})
        sent = [await system.deposit(), await system.withdrawal(), await system.bill_payment()]
        for payment_id in sent:
            await system.eventually(partial(system.provider_requests, payment_id))
        await _switch(system, "on")
        await asyncio.sleep(1)  # the sessions that began earlier have ended by then
        key = str(uuid4())
        answer = await system.user.pay("/v1/deposits", _DEPOSIT, key=key)
        assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        for name in ("web", "callbacks"):
            assert await _readiness(system, name) == (503, "read-only")
        assert (await system.payment(sent[0]))["status"] == "pending"  # reading still works
        await asyncio.sleep(lasts_seconds)
        assert await system.stage_counts(sent) == {"submitting": len(sent)}
        await _switch(system, "off")
        again = system.eventually(
            lambda: system.user.pay("/v1/deposits", _DEPOSIT, key=key),
            lambda answer: answer.status != 503,
        )
        sent.append(str((await again).expect(202).json()["id"]))
        await system.wait_until_paid(sent)
        for name in ("web", "callbacks"):
            await system.eventually(
                partial(_readiness, system, name), lambda seen: seen == (200, "ok")
            )
        assert {name: system.stack.process(name).pid for name in system.stack.names} == before


async def _switch(system: System, value: str) -> None:
    """Makes the database read-only (`on`) or writable (`off`), and ends all other sessions."""
    url = system.stack.database_url
    async with connection(url) as raw:
        await raw.execute("SET default_transaction_read_only = off")
        await raw.execute(
            f'ALTER DATABASE "{database_name(url)}" SET default_transaction_read_only = {value}'
        )
        await raw.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user"
            " AND pid <> pg_backend_pid()"
        )


async def _readiness(system: System, name: str) -> tuple[int, str]:
    """The status of /readyz, and its text about PostgreSQL."""
    async with system.http.get(f"{system.stack.process(name).url}/readyz") as answer:
        return answer.status, str((await answer.json())["postgres"])
