"""Fills a database with copies of finished payments.

The copies have ids, keys, receipts and times of their own. All else is as the service wrote it, so
no table is left out and no column is invented. A schema with other tables needs no change here, if
its rows name their payment or history entry by a UUID.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.stack import databases

# Texts that belong to one payment. The copies get other ones.
_OWN_TEXTS = ("key", "idempotency_key", "value", "receipt")
_SECONDS_BETWEEN_COPIES = 1

# Retention drops old messages, and a copy of each would need much of the disk.
_MESSAGES = ("mkwanja.callbacks", "mkwanja.daraja_exchanges")
PAYMENTS_WITH_MESSAGES = 1_000_000

# Nothing has to survive a power cut while the copies are written.
_HURRY = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "8GB",
    "autovacuum": "off",
    "maintenance_work_mem": "1GB",
}
_CONNECTIONS = 2

# Copies are many times faster if they enter no index one by one. PostgreSQL skips an index that is
# not ready, and REINDEX makes it ready again. Only the bench may write a catalog by hand.
_INDEXES = """
SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class AS class ON class.oid = indrelid
WHERE relnamespace = 'mkwanja'::regnamespace AND relkind = 'r'
  AND ($1::regclass = indrelid OR EXISTS (
    SELECT FROM pg_inherits WHERE inhrelid = indrelid AND inhparent = $1::regclass))
"""
_SKIP = """
UPDATE pg_index SET indisready = false, indisvalid = false
WHERE indexrelid = ANY (SELECT name::regclass FROM unnest($1::text[]) AS name)
"""

# Tables whose rows always name a payment or a history entry. The brakes name one only sometimes.
_TABLES = """
SELECT class.oid::regclass::text AS name, array_agg(ARRAY[quote_ident(attname),
         CASE attidentity WHEN '' THEN format_type(atttypid, NULL) ELSE 'identity' END]) AS columns
FROM pg_class AS class JOIN pg_attribute ON attrelid = class.oid
WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
  AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
GROUP BY class.oid HAVING bool_or(atttypid = 'uuid'::regtype AND attnotnull)
"""


async def grow(
    admin_url: str, payments: int, *, with_messages: int = PAYMENTS_WITH_MESSAGES
) -> int:
    """Copies all payments until there are at least `payments`. Returns how many there are.

    Only about the newest `with_messages` copies have callbacks and exchanges.
    `admin_url` must name a superuser, because insert-only tables and triggers are in the way.
    """
    async with databases.connection(admin_url) as server:
        existing = int(await server.fetchval("SELECT count(*) FROM mkwanja.payments"))
        copies = max(0, -(-payments // existing) - 1)
        if copies:
            messages = min(copies, -(-with_messages // existing))
            turns = asyncio.Semaphore(_CONNECTIONS)
            async with _in_a_hurry(server), asyncio.TaskGroup() as tables:
                for row in await server.fetch(_TABLES):
                    number = messages if row["name"] in _MESSAGES else copies
                    table = _Table(row["name"], row["columns"], existing)
                    tables.create_task(_grow_table(turns, admin_url, table, number))
        await server.execute("VACUUM (ANALYZE)", timeout=3600)
        await server.execute("CHECKPOINT", timeout=3600)
        return existing * (copies + 1)


@asynccontextmanager
async def _in_a_hurry(server: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """Lets the server write faster than it may in production. Afterwards all is on the disk."""
    for name, value in _HURRY.items():
        await server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in _HURRY:
            await server.execute(f"ALTER SYSTEM RESET {name}")
        await server.execute("SELECT pg_reload_conf()")
        await server.execute("CHECKPOINT", timeout=3600)
        await asyncio.to_thread(os.sync)


async def copy_payments(admin_url: str, copies: int) -> None:
    """Copies one payment of today into as many accepted payments, each to another phone number."""
    own = (
        "'id', gen_random_uuid(), 'idempotency_key', gen_random_uuid(),"
        " 'phone_number', '2547' || lpad(number::text, 8, '0')"
    )
    async with databases.connection(admin_url) as server:
        await server.execute(
            "INSERT INTO mkwanja.payments SELECT (jsonb_populate_record(seed,"  # noqa: S608
            f" jsonb_build_object({own}))).*"
            f" FROM mkwanja.payments AS seed, generate_series(1, {copies}) AS number"
            " WHERE seed.id = (SELECT id FROM mkwanja.payments ORDER BY id DESC LIMIT 1)",
            timeout=600,
        )
        await server.execute("VACUUM (ANALYZE) mkwanja.payments", timeout=600)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table, its columns with their kinds, and the payments that it has before the copies."""

    name: str
    columns: list[list[str]]
    seeds: int


async def _grow_table(turns: asyncio.Semaphore, admin_url: str, table: _Table, copies: int) -> None:
    async with turns, databases.connection(admin_url) as server:
        indexes = [name for (name,) in await server.fetch(_INDEXES, table.name)]
        await server.execute(_SKIP, indexes)
    await _copy(turns, admin_url, table, copies)
    async with asyncio.TaskGroup() as rebuilds:
        for name in indexes:
            rebuilds.create_task(_rebuild(turns, admin_url, name))


async def _rebuild(turns: asyncio.Semaphore, admin_url: str, index: str) -> None:
    async with turns, databases.connection(admin_url) as server:
        await server.execute(f"REINDEX INDEX {index}", timeout=3600)


async def _copy(turns: asyncio.Semaphore, admin_url: str, table: _Table, copies: int) -> None:
    names = ", ".join(name for name, _ in table.columns)
    values = ", ".join(_copied(name, kind) for name, kind in table.columns)
    # The number of a copy is new each time: copies of copies get other ids than earlier copies.
    series = f"SELECT nth, nth + {table.seeds} AS copy FROM generate_series({copies}, 1, -1) AS nth"  # noqa: S608
    async with turns, databases.connection(admin_url) as server:
        await server.execute("SET session_replication_role = replica")  # no triggers
        await server.execute(f"CREATE TEMPORARY TABLE seed AS TABLE {table.name}")
        await server.execute(
            f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE "  # noqa: S608
            f"SELECT {values} FROM ({series}) AS series CROSS JOIN seed",
            timeout=3600,
        )


def _copied(column: str, kind: str) -> str:
    """The value of a column in a copy. The same id becomes the same other id in all tables."""
    if kind == "uuid":
        # The first half of a UUIDv7 is its time, and stays.
        own = f"substr(md5({column}::text || copy), 1, 12)"
        return f"overlay({column}::text PLACING {own} FROM 25)::uuid"
    if kind == "timestamp with time zone":
        return f"{column} - nth * interval '{_SECONDS_BETWEEN_COPIES} s'"
    if kind == "identity":
        # The copies are older. A publisher that remembers a position does not publish them.
        return f"{column} - nth * (SELECT max({column}) - min({column}) + 1 FROM seed)"  # noqa: S608
    if column in _OWN_TEXTS:
        return f"{column} || to_hex(copy)"
    return column
