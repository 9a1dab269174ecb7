"""The pool uses no session state, limits every wait, and recovers after an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from domain.adapters.postgres import engine
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.loading import load_changes
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable
from tests.integration.conftest import (
    PATIENCE_SECONDS,
    Store,
)
from tests.integration.statements import send_every_statement
from tests.stack.databases import connection
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer

LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
SLEEP = sql("SELECT pg_sleep(30)")
# Postgres 17 is the first with this setting.
_TRANSACTION_TIMEOUT = sql(
    "SELECT current_setting('transaction_timeout', true) AS transaction_timeout"
)


@pytest.fixture(scope="module")
async def server(postgres: PostgresServer | GivenPostgres) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL that these tests may stop, kill and freeze."""
    if not postgres.can_be_stopped:
        pytest.skip("the tests may not stop the server of DATABASE_URL")
    async with PostgresServer() as own:
        yield own


@pytest.fixture(scope="module")
async def url(server: PostgresServer) -> str:
    """An empty database on that server."""
    return await server.create_database()


@asynccontextmanager
async def a_pool(url: str, pool_size: int = 1) -> AsyncIterator[Database]:
    """A pool that has opened no connection yet."""
    own = Database(url, pool_size=pool_size, application_name="mkwanja-pooling")
    try:
        yield own
    finally:
        await own.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """A pool of five connections to that server, all open."""
    async with a_pool(url, 5) as own:
        async with AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(own.transaction())
        yield own


async def query(database: Database, text: str = "SELECT 42") -> Any:
    async with database.transaction() as transaction:
        return (await transaction.rows(sql(text)))[0][0]


async def assert_works(database: Database) -> None:
    """Assert that every connection of the pool works, one after the other and all at once."""
    for _ in range(3):
        assert await query(database) == 42
    assert await asyncio.gather(*(query(database) for _ in range(10))) == [42] * 10


async def on_each_connection(
    database: Database, look: Callable[[Any], Awaitable[Any]]
) -> list[Any]:
    """Call `look` with each driver connection of the pool, outside any transaction."""
    return [await look(session.connection) for session in database._pool._idle]


class TestTransactionLevelOnly:
    """A pooler in transaction mode gives each transaction another connection."""

    async def test_no_prepared_statement_outlives_its_transaction(self, database_url: str) -> None:
        """The test checks all connections of the pool after every statement of the product.

        It also shows that the check finds a statement that was prepared by hand.
        """

        async def prepared(driver: Any) -> list[str]:
            rows = await driver.fetch("SELECT statement FROM pg_prepared_statements")
            return [row["statement"] for row in rows]

        async with Store(database_url, pool_size=3) as store:
            await send_every_statement(store)
            found = await on_each_connection(store.database, prepared)
            assert found
            assert [statement for statements in found for statement in statements] == []
        async with connection(database_url) as raw:
            statement = await raw.prepare("SELECT 42", name="kept")
            assert await prepared(raw) == ["SELECT 42"]
            assert await statement.fetchval() == 42

    async def test_limits_apply_to_the_transaction_and_not_to_the_session(
        self, database: Database, url: str
    ) -> None:
        """Every transaction sets the limits. The session keeps the server's own limits."""
        async with database.transaction() as transaction:
            rows = [(await transaction.rows(sql(f"SHOW {name}")))[0][0] for name in LIMITS]
        assert rows == ["2s", "5s", "5s"]

        async def shown(driver: Any) -> list[str]:
            return [await driver.fetchval(f"SHOW {name}") for name in LIMITS]

        async with connection(url) as raw:
            defaults = await shown(raw)
        assert all(seen == defaults for seen in await on_each_connection(database, shown))

    async def test_the_function_that_begins_a_transaction_sets_its_limits(
        self, database_url: str
    ) -> None:
        """A batch of changes sends no statement only for the limits."""
        async with a_pool(database_url) as database, database.calls() as transaction:
            await load_changes(transaction, [])
            rows = [(await transaction.rows(sql(f"SHOW {name}")))[0][0] for name in LIMITS]
            [row] = await transaction.rows(_TRANSACTION_TIMEOUT)
        assert rows == ["2s", "5s", "5s"]
        assert row.transaction_timeout in (None, "10s")

    async def test_a_connection_works_after_any_failure_in_its_transaction(self, url: str) -> None:
        """The failures are an SQL error, a Python error and a cancellation, on one connection."""
        async with a_pool(url) as database:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await query(database, "SELECT 1/0")
            assert await query(database) == 42

            async def create_and_fail() -> None:
                async with database.transaction() as transaction:
                    await transaction.run(sql("CREATE SCHEMA left_behind"))
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await create_and_fail()
            assert await query(database) == 42
            is_open = asyncio.Event()

            async def hang() -> None:
                async with database.transaction() as transaction:
                    is_open.set()
                    await transaction.run(SLEEP)

            hanging = asyncio.create_task(hang())
            await is_open.wait()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            assert await query(database, "SELECT to_regnamespace('left_behind')") is None


class TestOutages:
    """The process survives any outage of PostgreSQL."""

    async def test_the_pool_replaces_connections_that_the_server_ended(
        self, database: Database, server: PostgresServer
    ) -> None:
        """The server ends all of them at once, as in a failover. The next call succeeds."""
        async with connection(server.admin_url) as admin:
            end = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'mkwanja-pooling'"
            )
            assert await admin.fetchval(end) >= 5
        await assert_works(database)

    async def test_calls_fail_as_unavailable_only_while_the_server_is_stopped(
        self, database: Database, server: PostgresServer, url: str
    ) -> None:
        """A pool that never connected behaves in the same way. No call hangs."""
        async with a_pool(url, 2) as unused:
            await server.stop()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    for pool in (database, unused):
                        results = await asyncio.gather(
                            *(query(pool) for _ in range(8)), return_exceptions=True
                        )
                        assert {type(result) for result in results} == {StoreUnavailable}
            finally:
                await server.start()
            for pool in (database, unused):
                await assert_works(pool)

    async def test_the_wait_for_a_frozen_server_ends_by_our_own_clock(
        self, server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A frozen server answers nothing, on open connections and on new connections."""
        monkeypatch.setattr(engine, "COMMAND_SECONDS", 0.3)
        monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.3)
        async with a_pool(url, 2) as database:
            assert await query(database) == 42
            server.freeze()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    results = await asyncio.gather(
                        *(query(database) for _ in range(2)), return_exceptions=True
                    )
            finally:
                server.thaw()
            assert {type(result) for result in results} == {StoreUnavailable}
            await assert_works(database)

    async def test_the_wait_for_a_connection_of_the_pool_is_limited(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait ends with the same error as an outage."""
        monkeypatch.setattr(engine, "POOL_WAIT_SECONDS", 0.1)
        async with a_pool(url) as database:
            async with database.transaction():
                with pytest.raises(StoreUnavailable):
                    await query(database)
            assert await query(database) == 42


async def test_the_server_ends_an_idle_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next statement of the transaction fails, and PostgreSQL keeps none of its writes."""
    shorten_idle_limit(monkeypatch)

    async def hang() -> None:
        async with database.transaction() as transaction:
            await transaction.run(sql("CREATE SCHEMA half_done"))
            await asyncio.sleep(0.5)
            await transaction.run(sql("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        await hang()
    assert await query(database, "SELECT to_regnamespace('half_done')") is None


async def test_the_server_ends_a_transaction_whose_process_stopped_after_begin(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It locks nothing, but it occupies a connection, perhaps one of a pooler's few."""
    shorten_idle_limit(monkeypatch)

    async def stop() -> None:
        async with database.calls() as calls:
            await asyncio.sleep(0.5)
            await calls.rows(sql("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        await stop()


def shorten_idle_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = engine._BEGIN.replace("'5s'", "'100ms'")
    assert shorter != engine._BEGIN
    monkeypatch.setattr(engine, "_BEGIN", shorter)
