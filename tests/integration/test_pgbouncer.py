"""A real PgBouncer in transaction mode, with two connections to PostgreSQL for all processes.

This version of PgBouncer knows no prepared statements. A call that kept something in its session
would fail, or would reach the session of another caller.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.conftest import PATIENCE_SECONDS, Store
from tests.integration.statements import send_every_statement
from tests.stack.client import Client
from tests.stack.external import GivenPostgres
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process
from tests.stack.servers import PostgresServer
from tests.stack.stack import Stack

PGBOUNCER = shutil.which(
    "pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
)
SERVER_CONNECTIONS = 2

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="no PgBouncer is installed (apt-get install pgbouncer)"
)


@pytest.fixture
async def pooled_url(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """The module's database behind PgBouncer."""
    server, port = urlsplit(database_url), reserve_port()
    users = tmp_path / "users.txt"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(f"""
[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
""")
    for file in (tmp_path, users, configuration):
        file.chmod(0o755)
    user = ["-u", "daemon"] if os.geteuid() == 0 else []
    process = Process(
        "pgbouncer",
        [str(PGBOUNCER), *user, str(configuration)],
        env={},
        log=tmp_path / "pgbouncer.log",
        cwd=tmp_path,
    )
    await process.start()
    try:
        await process.wait_logged("process up")
        yield server._replace(
            netloc=f"{server.username}:{server.password}@127.0.0.1:{port}"
        ).geturl()
    finally:
        await process.terminate()
        release_port(port)


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
