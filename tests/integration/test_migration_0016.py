"""Migrate a used database from 0015 to 0016 and back: no row is lost, copied or refused."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from domain.adapters.postgres.bounding import finish_release
from domain.adapters.postgres.partitions import BOUNDING, BOUNDS, make_partitions
from tests.integration.conftest import Store, acknowledgement, new_id, success
from tests.integration.migrating import differences, migrate
from tests.integration.partitions import (
    TABLES,
    first_id,
    id_of,
    insert_callback,
    month,
    name_of,
    partitions,
    where,
)
from tests.stack.databases import alembic, connection

pytestmark = pytest.mark.whole  # a released migration never changes

_INSERT_EXCHANGE = """
INSERT INTO mkwanja.daraja_exchanges
    (id, payment_id, api, recorded_at, request, was_written, meaning)
VALUES ($1, $1, 'b2c', now(), '{}', true, 'acknowledged') ON CONFLICT (id) DO NOTHING
"""
_INSERT_CALLBACK = """
INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,
    source_allowed, body, body_sha256, disposition, is_flagged)
VALUES ($1, $1, 'deposit', now(), '196.201.214.200', true, 'x', 'y', 'finalized', false)
"""
_COUNT = "SELECT count(*) FROM mkwanja.{}"
_CONSTRAINTS = f"SELECT count(*) FROM pg_constraint WHERE conname = '{BOUNDING}'"
_END = f"SELECT end_id FROM ({BOUNDS}) AS bounds WHERE partition = 'callbacks_before'"
# The file of a table on the server's disk.
_FILE = "SELECT pg_relation_filenode('mkwanja.{}')"


async def used(store: Store) -> None:
    """Rows in both tables, under the schema of the previous release."""
    payment_id, attempt_id = await store.claimed()
    await store.change(acknowledgement(payment_id, attempt_id))
    await store.change(success(payment_id))
    await store.execute(_INSERT_EXCHANGE, new_id())
    await migrate(store.url, "downgrade", "0015")


async def test_the_old_tables_become_partitions_and_no_row_is_copied(fresh: Store) -> None:
    """The first of them ends with the next month. The month after it has a partition already."""
    await used(fresh)
    files = {table: await fresh.one(_FILE.format(table)) for table in TABLES}
    counts = {table: await fresh.one(_COUNT.format(table)) for table in TABLES}
    assert all(counts.values())
    await migrate(fresh.url)
    for table in TABLES:
        assert await fresh.one(_FILE.format(f"{table}_before")) == files[table]
        assert await fresh.one(_COUNT.format(table)) == counts[table]
        names = {f"{table}_before", f"{table}_other", name_of(table, 2)}
        assert await partitions(fresh, table) == names
    assert await fresh.one(_END) == first_id(month(2))
    assert await fresh.one(_CONSTRAINTS) == 0
    assert await differences(fresh.url) == []
    row_id = await insert_callback(fresh, new_id())
    assert await where(fresh, "callbacks", row_id) == "callbacks_before"


async def test_statements_of_the_previous_release_work_with_the_new_schema(fresh: Store) -> None:
    """A repeated exchange is not stored twice. Messages are found by their id alone."""
    exchange_id = new_id()
    for _ in range(2):
        await fresh.execute(_INSERT_EXCHANGE, exchange_id)
    stored = "SELECT count(*) FROM mkwanja.daraja_exchanges WHERE id = $1"
    assert await fresh.one(stored, exchange_id) == 1
    callback_id = await insert_callback(fresh, new_id())
    assert await fresh.one(
        "SELECT EXISTS (SELECT FROM mkwanja.callbacks WHERE id = $1)", callback_id
    )


async def test_a_row_with_an_id_of_a_far_month_stops_no_release_and_is_kept(fresh: Store) -> None:
    """All rows then stay in one partition, and nothing is refused."""
    await used(fresh)
    far = id_of(month(600))
    await insert_callback(fresh, far)
    status, output = await alembic("upgrade", "head", url=fresh.url)
    assert (status, output.count("\n")) == (0, 1)
    assert "all rows of callbacks stay in one partition" in output
    assert await partitions(fresh, "callbacks") == {"callbacks_before"}
    assert await fresh.one(_CONSTRAINTS) == 0
    await insert_callback(fresh, far)
    assert await fresh.one("SELECT count(*) FROM mkwanja.callbacks WHERE payment_id = $1", far) == 2
    assert [result.missing for result in await make_partitions(fresh.database)] == [0, 0]


async def test_processes_write_and_read_during_the_whole_upgrade(fresh: Store) -> None:
    """No statement fails, also by a deadlock, and no row is lost."""
    await used(fresh)
    before = {table: await fresh.one(_COUNT.format(table)) for table in TABLES}
    stopping = asyncio.Event()

    async def write() -> int:
        count = 0
        async with connection(fresh.url) as raw:
            while not stopping.is_set():
                row_id = new_id()
                async with raw.transaction():
                    await raw.execute(_INSERT_CALLBACK, row_id)
                    await raw.execute(_INSERT_EXCHANGE, row_id)
                    found = "SELECT count(*) FROM mkwanja.callbacks WHERE payment_id = $1"
                    assert await raw.fetchval(found, row_id) == 1
                count += 1
        return count

    writers = [asyncio.create_task(write()) for _ in range(3)]
    try:
        await migrate(fresh.url)
        await make_partitions(fresh.database)
    finally:
        stopping.set()
        written = sum(await asyncio.gather(*writers))
    for table in TABLES:
        assert await fresh.one(_COUNT.format(table)) == before[table] + written
        assert f"{table}_other" in await partitions(fresh, table)


async def leave_half_done(store: Store, end_in: timedelta) -> None:
    """Simulate a release that was killed after it added its constraint."""
    await used(store)
    await insert_callback(store, id_of(month(600)))  # so that the release changes nothing
    await migrate(store.url)
    end = await store.one("SELECT mkwanja.first_id_at(now() + $1)", end_in)
    await store.execute(
        f"ALTER TABLE mkwanja.callbacks_before ADD CONSTRAINT {BOUNDING}"
        f" CHECK (payment_id < '{end}') NOT VALID"
    )


async def test_the_upkeep_removes_the_constraint_of_a_killed_release_before_it_refuses_a_row(
    fresh: Store,
) -> None:
    await leave_half_done(fresh, timedelta(days=13))
    await make_partitions(fresh.database)
    assert await fresh.one(_CONSTRAINTS) == 0


async def test_the_upkeep_leaves_the_constraint_of_a_release_that_is_under_way(
    fresh: Store,
) -> None:
    await leave_half_done(fresh, timedelta(days=30))
    await make_partitions(fresh.database)
    assert await fresh.one(_CONSTRAINTS) == 1


async def test_the_next_release_finishes_what_a_killed_one_began(fresh: Store) -> None:
    await used(fresh)
    await migrate(fresh.url)
    await fresh.execute(
        "ALTER TABLE mkwanja.callbacks DETACH PARTITION mkwanja.callbacks_before;"
        f" DROP TABLE mkwanja.callbacks_other; DROP TABLE mkwanja.{name_of('callbacks', 2)};"
        f" ALTER TABLE mkwanja.callbacks_before ADD CONSTRAINT {BOUNDING}"
        f" CHECK (payment_id < '{first_id(month(2))}') NOT VALID;"
        " ALTER TABLE mkwanja.callbacks ATTACH PARTITION mkwanja.callbacks_before"
        " FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
    )
    await finish_release(fresh.url)
    assert await fresh.one(_END) == first_id(month(2))
    assert await fresh.one(_CONSTRAINTS) == 0
    assert name_of("callbacks", 2) in await partitions(fresh, "callbacks")


async def test_a_release_waits_for_a_long_transaction_without_stopping_others(
    fresh: Store,
) -> None:
    """While the release tries to lock the table, callbacks are still stored."""
    await used(fresh)
    async with connection(fresh.url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE mkwanja.callbacks IN ACCESS SHARE MODE")
        release = asyncio.create_task(migrate(fresh.url))
        for _ in range(20):
            async with connection(fresh.url) as writer:
                await writer.execute("SET statement_timeout = '4s'")
                await writer.execute("SELECT FROM mkwanja.callbacks LIMIT 1")
            await asyncio.sleep(0.1)
        assert not release.done()
        await transaction.rollback()
    await release
    assert await fresh.one(_END) == first_id(month(2))


@pytest.mark.parametrize("is_before_dropped", [False, True])
async def test_a_downgrade_keeps_the_rows_of_all_months(
    fresh: Store, is_before_dropped: bool
) -> None:
    """Also if the rows from before the upgrade were dropped after their retention."""
    for table in TABLES:
        if is_before_dropped:
            await fresh.execute(f"DROP TABLE mkwanja.{table}_before")
    rows = [id_of(month(ahead)) for ahead in (0, 1, 2, 9)]
    for row_id in rows:
        await insert_callback(fresh, row_id, callback_id=row_id)
        await fresh.execute(_INSERT_EXCHANGE, row_id)
    await migrate(fresh.url, "downgrade", "0015")
    for table in TABLES:
        found = await fresh.rows(f"SELECT id FROM mkwanja.{table} ORDER BY id")
        assert [row["id"] for row in found] == sorted(rows)
        with pytest.raises(asyncpg.RestrictViolationError):
            await fresh.execute(f"DELETE FROM mkwanja.{table}")
    await fresh.execute(_INSERT_EXCHANGE, rows[0])
    await migrate(fresh.url)
    assert await differences(fresh.url) == []
