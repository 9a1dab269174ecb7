"""A real PgBouncer in transaction mode, with two connections to PostgreSQL for all processes.

This version of PgBouncer knows no prepared statements. A call that kept something in its session
would fail, or would reach the session of another caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.adapters.postgres.inspecting import inspect_database
from tests.integration.conftest import PATIENCE_SECONDS, Store
from tests.integration.statements import send_every_statement
from tests.stack import pooler
from tests.stack.client import Client
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer
from tests.stack.stack import Stack

pytestmark = pytest.mark.skipif(
    pooler.PROGRAM is None, reason="no PgBouncer is installed (apt-get install pgbouncer)"
)


@pytest.fixture
async def pooled_url(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """The module's database behind PgBouncer."""
    async with pooler.pooled_url(database_url, tmp_path) as url:
        yield url


async def test_every_statement_works_through_a_pooler_without_sessions(
    pooled_url: str, store: Store
) -> None:
    """Several processes send their statements at once, so that each uses every connection."""
    processes = [Store(pooled_url, pool_size=5) for _ in range(3)]
    for process in processes:
        await process.__aenter__()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(send_every_statement(process) for process in processes))
    finally:
        for process in processes:
            await process.__aexit__()
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mkwanja-test'"
    assert await store.one(sql) >= 1


async def test_doctor_notices_the_pooler(pooled_url: str, store: Store) -> None:
    pooled = Store(pooled_url, pool_size=1)
    try:
        assert (await inspect_database(pooled.database)).is_pooled
        assert not (await inspect_database(store.database)).is_pooled
    finally:
        await pooled.database.close()


@pytest.mark.whole
async def test_payments_of_all_kinds_settle_through_a_pooler(
    pooled_url: str, postgres: PostgresServer | GivenPostgres
) -> None:
    """The release, the web process, the callback receiver and two workers share the pooler."""
    bill = {"amount": 10, "paybill": "888880", "account_reference": "A1"}
    requests: list[tuple[str, dict[str, object]]] = [
        *(
            (path, {"amount": 10, "phone_number": f"07110001{number:02}"})
            for path in ("/v1/deposits", "/v1/withdrawals")
            for number in range(10)
        ),
        *(("/v1/bill-payments", bill) for _ in range(10)),
    ]
    stack = Stack(postgres=postgres, database_url=pooled_url, workers=2, time_scale=0.01)
    async with stack, Client(stack.web_url, stack.issuer.backend_token()) as shop:
        answers = await asyncio.gather(*(shop.pay(path, body) for path, body in requests))
        ids = [answer.expect(202).json()["id"] for answer in answers]
        payments = await asyncio.gather(*(shop.final(payment_id) for payment_id in ids))
        assert {payment["status"] for payment in payments} == {"success"}
