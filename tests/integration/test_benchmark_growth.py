"""The copies of payments with which `make bench` fills a database."""

# ruff: noqa: S608 - names come from the catalogue

from __future__ import annotations

import pytest

from tests.benchmarks.growing import grow
from tests.integration.conftest import Store
from tests.stack.databases import connection, database_name, with_database
from tests.stack.servers import PostgresServer

pytestmark = pytest.mark.whole  # about the benchmark, and not about the service

_REFERENCES = """
SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent,
       child_column.attname AS own, parent_column.attname AS referenced
FROM pg_constraint
JOIN pg_attribute AS child_column ON child_column.attrelid = conrelid
  AND child_column.attnum = conkey[1]
JOIN pg_attribute AS parent_column ON parent_column.attrelid = confrelid
  AND parent_column.attnum = confkey[1]
WHERE contype = 'f' AND connamespace = 'mkwanja'::regnamespace
"""


async def test_the_copies_are_whole_payments(fresh: Store, postgres: PostgresServer) -> None:
    """Each table grows like the payments, and no row refers to a payment that does not exist."""
    for _ in range(4):
        await fresh.finalized()
    admin_url = with_database(postgres.admin_url, database_name(fresh.url))
    async with connection(admin_url) as raw:
        tables = ("payments", "attempts", "payment_history", "callbacks", "idempotency_keys")
        counts = [f"SELECT count(*) FROM mkwanja.{table}" for table in tables]
        before = [await raw.fetchval(count) for count in counts]
        assert all(before)
        assert await grow(admin_url, 10) == 12
        # The copies of copies differ from the first copies.
        assert await grow(admin_url, 48) == 48
        after = [await raw.fetchval(count) for count in counts]
        assert after == [12 * number for number in before]
        for row in await raw.fetch(_REFERENCES):
            own, referenced = row["own"], row["referenced"]
            lost = await raw.fetchval(
                f"SELECT count(*) FROM {row['child']} AS child WHERE {own} IS NOT NULL AND NOT "
                f"EXISTS (SELECT FROM {row['parent']} AS parent WHERE {referenced} = child.{own})"
            )
            assert (dict(row), lost) == (dict(row), 0)


async def test_only_the_newest_copies_have_messages(fresh: Store, postgres: PostgresServer) -> None:
    """A retention has dropped those of the others."""
    for _ in range(2):
        await fresh.finalized()
    admin_url = with_database(postgres.admin_url, database_name(fresh.url))
    assert await grow(admin_url, 10, with_messages=4) == 10
    payments = await fresh.rows(
        "SELECT id IN (SELECT payment_id FROM mkwanja.callbacks) AS has FROM mkwanja.payments"
        " ORDER BY created_at DESC"
    )
    assert [row["has"] for row in payments] == [True] * 6 + [False] * 4
