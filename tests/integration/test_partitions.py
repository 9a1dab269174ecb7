"""Monthly partitions are made ahead, rows reach the right one, and reads use only that one."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import re

import asyncpg
import pytest

from domain.adapters.postgres.evidence import MESSAGES, UNCONFIRMED_RECEIPTS
from domain.adapters.postgres.loading import LOAD
from domain.adapters.postgres.locks import LOCK_UPKEEP
from domain.adapters.postgres.partitions import make_partitions
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.writing import WRITE
from tests.integration.conftest import Store, acknowledgement, new_id, success
from tests.integration.migrating import migrate
from tests.integration.partitions import (
    TABLES,
    add_past_months,
    id_of,
    insert_callback,
    month,
    name_of,
    partitions,
    where,
)
from tests.integration.service_role import as_service, create_service_role
from tests.stack.databases import connection
from tests.stack.servers import PostgresServer


def expected(table: str) -> set[str]:
    months = {name_of(table, ahead) for ahead in range(3)}
    return {f"{table}_before", f"{table}_other"} | months


async def test_a_release_makes_the_partitions_of_this_month_and_the_next_two(
    fresh: Store,
) -> None:
    for table in TABLES:
        assert await partitions(fresh, table) == expected(table)


async def test_rows_of_a_life_are_stored_in_the_partitions_of_their_month(fresh: Store) -> None:
    payment_id, attempt_id = await fresh.claimed()
    await fresh.change(acknowledgement(payment_id, attempt_id))
    await fresh.change(success(payment_id))
    callback_id = await fresh.one("SELECT id FROM mkwanja.callbacks")
    assert await where(fresh, "callbacks", callback_id) == name_of("callbacks", 0)


async def test_a_missing_partition_is_made_and_a_second_call_makes_none(fresh: Store) -> None:
    for table in TABLES:
        await fresh.execute(f"DROP TABLE mkwanja.{name_of(table, 2)}")
    made = {result.table: result for result in await make_partitions(fresh.database)}
    for table in TABLES:
        assert made[table].made == (name_of(table, 2),)
        assert (made[table].missing, made[table].has_other_rows) == (0, False)
        assert await partitions(fresh, table) == expected(table)
    assert [result.made for result in await make_partitions(fresh.database)] == [(), ()]


async def test_a_row_of_a_month_without_partition_is_stored_and_reported(fresh: Store) -> None:
    """The default partition gets the row, and its month then gets no partition."""
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 1)}")
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 2)}")
    payment_id = id_of(month(1))
    row_id = await insert_callback(fresh, payment_id)
    assert await where(fresh, "callbacks", row_id) == "callbacks_other"
    made, _ = await make_partitions(fresh.database)
    assert made.made == (name_of("callbacks", 2),)
    assert (made.missing, made.has_other_rows) == (1, True)
    assert await where(fresh, "callbacks", row_id) == "callbacks_other"


async def test_a_new_partition_refuses_changes_and_grants_nothing(
    fresh: Store, postgres: PostgresServer
) -> None:
    """Also if the platform grants rights on each new table."""
    await create_service_role(postgres)
    name = name_of("callbacks", 2)
    await fresh.execute(
        f"DROP TABLE mkwanja.{name}; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;"
        " ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO mkwanja_service"
    )
    try:
        await make_partitions(fresh.database)
    finally:
        await fresh.execute(
            "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;"
            " ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM mkwanja_service"
        )
    grantees = (
        "SELECT count(*) FROM pg_class, aclexplode(relacl) AS acl"
        f" WHERE oid = 'mkwanja.{name}'::regclass AND acl.grantee <> relowner"
    )
    assert await fresh.one(grantees) == 0
    protected = f"SELECT relrowsecurity FROM pg_class WHERE oid = 'mkwanja.{name}'::regclass"
    assert await fresh.one(protected)
    for change in ("UPDATE mkwanja.{} SET operation = ''", "DELETE FROM mkwanja.{}"):
        with pytest.raises(Exception, match="is insert-only"):
            await fresh.execute(change.format(name))


async def test_the_service_role_makes_partitions_but_may_not_touch_one(
    fresh: Store, postgres: PostgresServer
) -> None:
    """The role calls the owner's function, and has no right of its own to a partition."""
    password = await create_service_role(postgres)
    await migrate(fresh.url)  # grants the rights, because the role may be newer than the database
    for table in TABLES:
        await fresh.execute(f"DROP TABLE mkwanja.{name_of(table, 2)}")
    name = name_of("callbacks", 2)
    async with Store(as_service(fresh.url, password)) as service:
        assert [result.missing for result in await make_partitions(service.database)] == [0, 0]
        assert await partitions(fresh, "callbacks") == expected("callbacks")
        await insert_callback(service, id_of(month(2)))
    statements = (
        f"SELECT FROM mkwanja.{name}",
        f"DELETE FROM mkwanja.{name}",
        f"DROP TABLE mkwanja.{name}",
        f"ALTER TABLE mkwanja.callbacks DETACH PARTITION mkwanja.{name}",
        "SELECT mkwanja.protect_partition('callbacks')",
        "INSERT INTO mkwanja.retention VALUES ('callbacks', 3)",
        "UPDATE mkwanja.retention SET kept_months = 3",
    )
    async with connection(as_service(fresh.url, password)) as raw:
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await raw.execute(statement)


async def test_a_process_at_a_time_makes_partitions(fresh: Store) -> None:
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 2)}")
    async with connection(fresh.url) as other, other.transaction():
        await other.execute(f"SELECT {LOCK_UPKEEP}")
        assert await make_partitions(fresh.database) == []
    assert (await make_partitions(fresh.database))[0].made == (name_of("callbacks", 2),)


async def test_a_partition_that_cannot_be_attached_now_is_reported(fresh: Store) -> None:
    """The call waits only a moment for a transaction that reads the default partition."""
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 2)}")
    async with connection(fresh.url) as other, other.transaction():
        await other.execute("LOCK TABLE mkwanja.callbacks_other IN ACCESS SHARE MODE")
        result = (await make_partitions(fresh.database))[0]
        assert (result.made, result.missing) == ((), 1)
    assert (await make_partitions(fresh.database))[0].missing == 0


async def test_the_changes_of_a_payment_read_no_other_month(fresh: Store) -> None:
    """Twelve past months have partitions. No index of theirs is used by a whole life."""
    await add_past_months(fresh, 12)
    # Otherwise what this session read meanwhile may be counted later.
    await fresh.execute("SELECT pg_stat_force_next_flush()")
    before = await scans(fresh)
    payment_id, attempt_id = await fresh.claimed()
    await fresh.change(acknowledgement(payment_id, attempt_id))
    for _ in range(2):
        await fresh.change(success(payment_id))
    await fresh.database.close()  # a connection may report its counts only at its end
    after = await scans(fresh)
    used = {name for name, count in after.items() if count > before.get(name, 0)}
    assert used == {name_of("callbacks", 0)}


async def scans(store: Store) -> dict[str, int]:
    """For each partition of the callbacks: how often it or an index of it was read."""
    rows = await store.rows(
        "SELECT relname AS name, coalesce(idx_scan, 0) + coalesce(seq_scan, 0) AS scans"
        " FROM pg_stat_user_tables WHERE relname LIKE 'callbacks%'"
    )
    return {row["name"]: row["scans"] for row in rows}


def test_every_read_of_callbacks_in_a_function_names_its_first_and_its_last_payment() -> None:
    """Without these, each call would open the indexes of all months."""
    for function in (LOAD, WRITE):
        reads = re.findall(r"FROM mkwanja\.callbacks\b", function.body)
        bounds = re.findall(r"\bpayment_id BETWEEN :first_\w+ AND :last_\w+", function.body)
        assert len(reads) == len(bounds) == 2


@pytest.mark.parametrize("query", [MESSAGES, UNCONFIRMED_RECEIPTS], ids=["messages", "receipts"])
async def test_the_plan_that_is_kept_removes_the_other_months_before_it_runs(
    fresh: Store, query: str
) -> None:
    """An array of ids alone selects no partition, so the queries name its first and last id."""
    await add_past_months(fresh, 12)
    statement = sql(query)
    ids = [new_id(), new_id()]
    values = {
        "evidence_ids": f"ARRAY['{ids[0]}', '{ids[1]}']::uuid[]",
        "first_evidence_id": f"'{ids[0]}'",
        "last_evidence_id": f"'{ids[1]}'",
    }
    types = {"evidence_ids": "uuid[]", "first_evidence_id": "uuid", "last_evidence_id": "uuid"}
    async with connection(fresh.url) as raw:
        await raw.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        declared = ", ".join(types[name] for name in statement.names)
        await raw.execute(f"PREPARE query ({declared}) AS {statement.text}")
        given = ", ".join(values[name] for name in statement.names)
        plan = "\n".join(
            row[0] for row in await raw.fetch(f"EXPLAIN (ANALYZE) EXECUTE query ({given})")
        )
    assert "Subplans Removed: 16" in plan, plan
    assert plan.count(" on callbacks_") == 1, plan
