"""What `alembic upgrade head` does after the migrations, in short transactions of its own.

A migration is one transaction, so it may not read a large table while other processes wait for its
locks. Each step here can be repeated. If a step fails, or the command is killed, the service works
as before, and the next run continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.adapters.postgres.engine import CONTENDED, sqlstate
from domain.adapters.postgres.locks import LOCK_MIGRATION, LOCK_UPKEEP
from domain.adapters.postgres.migrating import open_migration
from domain.adapters.postgres.partitions import BOUNDING, BOUNDS, MAKE_PARTITIONS, PARTITIONED
from domain.adapters.postgres.tables import SCHEMA

_LOCK_TIMEOUT = "1s"
_TRIES = 30
_CHECK_VIOLATION = "23514"

_IS_UNBOUNDED = text(f"""
SELECT EXISTS (SELECT FROM ({BOUNDS}) AS bounds
    WHERE bounds.partition = :partition AND bounds.end_id IS NULL)
""")

# The first id of a month. The month after the next one begins weeks from now, so a constraint up to
# it refuses nothing.
_FIRST_ID = text("""
SELECT mkwanja.first_id_at((date_trunc('month', now() AT TIME ZONE 'UTC')
    + make_interval(months => CAST(:months AS int))) AT TIME ZONE 'UTC')::text
""")
_STORED_END = text(r"""
SELECT substring(pg_get_constraintdef(oid) FROM '[0-9a-f-]{36}') FROM pg_constraint
WHERE conrelid = to_regclass('mkwanja.' || CAST(:partition AS text)) AND conname = :name
""")

_KEYS_INDEX = "idempotency_keys_by_expiry"
_IS_VALID = text("""
SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('mkwanja.' || CAST(:index AS text))
""")

_IS_BEING_BUILT = text(f"""
SELECT EXISTS (SELECT FROM pg_stat_progress_create_index
    WHERE relid = '{SCHEMA}.idempotency_keys'::regclass AND datname = current_database())
""")
_BUILD_POLL_SECONDS = 0.2

# Another release built or dropped the same index at the same moment: a deadlock or a lock timeout,
# "tuple concurrently updated", an index that exists already, or that is gone.
_DISTURBED = (*CONTENDED, "XX000", "42P07", "42P01", "42704", "23505")

Result = TypeVar("Result")


async def finish_release(url: str) -> list[str]:
    """Gives the partitions of old rows an end, makes the months, and indexes the keys by expiry.

    Returns the tables whose rows all stay in one partition.
    """
    unbounded = [
        table for table, key in PARTITIONED.items() if not await _bound_old_rows(url, table, key)
    ]
    await _run_shortly(url, _make_months)
    await _build_index_of_keys(url)
    return unbounded


async def _bound_old_rows(url: str, table: str, key: str) -> bool:
    """Gives the partition of the old rows an end, so that monthly partitions can follow it.

    PostgreSQL reads the old rows once, while other processes read and write them. If the id of a
    row names a time after the end of next month, all rows, also new ones, go to this partition, and
    it is never dropped. Returns False in this case.
    """
    old = f"{table}_before"

    async def is_unbounded(connection: AsyncConnection) -> bool:
        return bool((await connection.execute(_IS_UNBOUNDED, {"partition": old})).scalar())

    async def first_id(connection: AsyncConnection, *, months: int) -> str:
        return str((await connection.execute(_FIRST_ID, {"months": months})).scalar())

    async def add_constraint(connection: AsyncConnection) -> str | None:
        if not await is_unbounded(connection):
            return None
        stored = {"partition": old, "name": BOUNDING}
        end = (await connection.execute(_STORED_END, stored)).scalar()
        if end is None:
            # The parent is locked first, as all other statements do.
            await connection.execute(text(f"LOCK TABLE {SCHEMA}.{table} IN ACCESS EXCLUSIVE MODE"))
            has_rows = text(f"SELECT EXISTS (SELECT FROM {SCHEMA}.{old})")
            if not (await connection.execute(has_rows)).scalar():
                await set_end(connection, await first_id(connection, months=0))
                await _make_months(connection)
                return None
            end = await first_id(connection, months=2)
            check = f"CHECK ({key} < '{end}') NOT VALID"
            await _alter(connection, old, f"ADD CONSTRAINT {BOUNDING} {check}")
        return str(end)

    async def remove_constraint(connection: AsyncConnection) -> None:
        await _alter(connection, old, f"DROP CONSTRAINT IF EXISTS {BOUNDING}")

    async def set_end(connection: AsyncConnection, end: str) -> None:
        if not await is_unbounded(connection):
            return  # another release has finished this step
        await _alter(connection, table, f"DETACH PARTITION {SCHEMA}.{old}")
        bounds = f"FOR VALUES FROM (MINVALUE) TO ('{end}')"
        await _alter(connection, table, f"ATTACH PARTITION {SCHEMA}.{old} {bounds}")
        await remove_constraint(connection)
        await _make_default_partition(connection, table)

    end = await _run_shortly(url, add_constraint)
    if end is None:
        return True
    try:
        async with open_migration(url) as connection:
            await _alter(connection, old, f"VALIDATE CONSTRAINT {BOUNDING}")
    except DBAPIError as error:
        await _run_shortly(url, remove_constraint)
        if sqlstate(error.orig or error) != _CHECK_VIOLATION:
            raise
        return False
    await _run_shortly(url, partial(set_end, end=end))
    return True


async def _make_months(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql(MAKE_PARTITIONS.call.text, (_LOCK_TIMEOUT,))


async def _make_default_partition(connection: AsyncConnection, table: str) -> None:
    """Makes the partition for rows whose month has none."""
    other = f"{table}_other"
    make = f"CREATE TABLE {SCHEMA}.{other} PARTITION OF {SCHEMA}.{table} DEFAULT"
    await connection.execute(text(make))
    await connection.execute(text(f"SELECT {SCHEMA}.protect_partition('{other}')"))


async def _alter(connection: AsyncConnection, table: str, change: str) -> None:
    await connection.execute(text(f"ALTER TABLE {SCHEMA}.{table} {change}"))


async def _run_shortly(url: str, step: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
    """Runs `step` in a transaction. If a lock is not free at once, tries again a moment later.

    While a statement waits for a lock, all others that need the table wait behind it.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            async with open_migration(url) as connection:
                await connection.execute(text(f"SELECT {LOCK_MIGRATION}, {LOCK_UPKEEP}"))
                await connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
                return await step(connection)
        except DBAPIError as error:
            if not tries_left or sqlstate(error.orig or error) not in CONTENDED:
                raise
        await asyncio.sleep(1)
    raise AssertionError


async def _build_index_of_keys(url: str) -> None:
    """Builds the index without a lock that a process would wait for.

    No lock can hold off a second release, because the build would wait for the transaction of that
    release. So two releases may disturb each other here, and then try again.
    """
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {SCHEMA}.{_KEYS_INDEX}"
    on = f"{SCHEMA}.idempotency_keys (expires_at)"
    create = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {_KEYS_INDEX} ON {on}"
    tries_left = _TRIES
    while True:
        try:
            async with open_migration(url, commits_each=True) as connection:
                while (await connection.execute(_IS_BEING_BUILT)).scalar():  # noqa: ASYNC110
                    await asyncio.sleep(_BUILD_POLL_SECONDS)
                is_valid = (await connection.execute(_IS_VALID, {"index": _KEYS_INDEX})).scalar()
                if is_valid is False:  # an earlier run was killed while it built the index
                    await connection.execute(text(drop))
                if not is_valid:
                    await connection.execute(text(create))
                return
        except DBAPIError as error:
            tries_left -= 1
            if not tries_left or sqlstate(error.orig or error) not in _DISTURBED:
                raise
        await asyncio.sleep(1)
