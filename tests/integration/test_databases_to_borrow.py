"""Every borrower gets a database as the migrations left it, whatever the last one changed."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Store
from tests.stack.databases import connection, database_name
from tests.stack.databases_to_borrow import DatabasesToBorrow
from tests.stack.servers import PostgresServer

pytestmark = pytest.mark.whole  # about the harness, which every other test uses too


@pytest.fixture
def lent(postgres: PostgresServer, template: str) -> DatabasesToBorrow:
    if not isinstance(postgres, PostgresServer):
        pytest.skip("databases on a given PostgreSQL are not lent twice")
    return DatabasesToBorrow(postgres, template)


async def test_the_next_borrower_finds_no_row_and_every_brake(lent: DatabasesToBorrow) -> None:
    async with lent.borrow() as url, Store(url) as store:
        await store.finalized()
        await store.execute(
            "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'a test' "
            "WHERE name = 'kill_switch'"
        )
    async with lent.borrow() as again, Store(again) as store:
        assert again == url
        tables = await store.rows(
            "SELECT format('%I.%I', schemaname, tablename) AS name "
            "FROM pg_tables WHERE schemaname = 'mkwanja'"
        )
        counts = {
            row["name"]: await store.one(f"SELECT count(*) FROM {row['name']}")  # noqa: S608
            for row in tables
        }
        assert {name for name, count in counts.items() if count} == {
            "mkwanja.brakes",
            "mkwanja.alembic_version",
            "mkwanja.event_publisher",
        }
        assert await store.one("SELECT count(*) FROM mkwanja.brakes WHERE is_engaged") == 0
        await store.finalized()


async def test_the_planner_has_no_statistics_of_deleted_rows(lent: DatabasesToBorrow) -> None:
    statistics = "SELECT count(*) FROM pg_stats WHERE schemaname = 'mkwanja'"
    async with lent.borrow() as url, Store(url) as store:
        await store.finalized()
        await store.execute("ANALYZE mkwanja.payments")
        assert await store.one(statistics) > 0
    async with lent.borrow() as again, Store(again) as store:
        assert await store.one(statistics) == 0


async def test_two_borrowers_at_once_have_two_databases(lent: DatabasesToBorrow) -> None:
    async with lent.borrow() as one, lent.borrow() as other:
        assert one != other


async def test_the_next_loan_ends_a_connection_that_was_left_open(lent: DatabasesToBorrow) -> None:
    async with lent.borrow() as url:
        context = connection(url)  # without this reference, the connection would close
        raw = await context.__aenter__()
        await raw.execute("BEGIN")
        await raw.execute("LOCK TABLE mkwanja.payments")
    async with lent.borrow() as again:
        assert again == url
    with pytest.raises(Exception, match=r"terminat|closed"):
        await raw.execute("SELECT 1")


_CHANGES = {
    "a table": "CREATE TABLE public.left_over (is_ours boolean)",
    "a column": "ALTER TABLE mkwanja.payments ADD COLUMN left_over text",
    "a disabled trigger": "ALTER TABLE mkwanja.payment_history DISABLE TRIGGER USER",
    "a dropped constraint": (
        "ALTER TABLE mkwanja.idempotency_keys DROP CONSTRAINT idempotency_keys_payment_id_fkey"
    ),
    "a function": "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a granted right": "GRANT SELECT ON mkwanja.payments TO PUBLIC",
    "a setting": 'ALTER DATABASE "{name}" SET default_transaction_read_only = on',
}


@pytest.mark.parametrize("change", _CHANGES)
async def test_a_database_whose_shape_has_changed_is_not_lent_again(
    lent: DatabasesToBorrow, change: str
) -> None:
    async with lent.borrow() as url, connection(url) as raw:
        await raw.execute(_CHANGES[change].format(name=database_name(url)))
    async with lent.borrow() as next_one:
        assert next_one != url
