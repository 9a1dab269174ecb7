"""Creates and drops databases on a PostgreSQL server. Each stack has its own database.

This also works through a pooler in transaction mode, because no prepared statement outlives its
transaction.
"""

import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.paths import ROOT
from tests.stack.environment import bare
from tests.stack.processes import Process
from tests.stack.starter import Starter

_CONNECT_SECONDS = 10.0
_ALEMBIC_SECONDS = 60.0

# TRUNCATE makes new files for a table and its indexes, which costs more than all else. A table that
# was never used since its last TRUNCATE has no byte. The table of the brakes always has rows.
_USED_TABLES = """
SELECT oid::regclass::text AS name FROM pg_class
WHERE relnamespace = 'mkwanja'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
  AND pg_relation_size(oid) > 0
"""
_RESTART_SEQUENCES = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE schemaname = 'mkwanja' AND last_value IS NOT NULL
"""


@asynccontextmanager
async def connection(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Opens a connection for a few statements."""
    connected = await asyncpg.connect(url, statement_cache_size=0, timeout=_CONNECT_SECONDS)
    try:
        yield connected
    finally:
        await connected.close(timeout=_CONNECT_SECONDS)


async def create_database(server_url: str, *, template: str | None = None) -> str:
    """Creates an empty database, or a copy of the one at the URL `template`. Returns its URL."""
    name = f"mkwanja_{secrets.token_hex(6)}"
    copied = f' TEMPLATE "{database_name(template)}"' if template else ""
    async with connection(server_url) as server:
        await server.execute(f'CREATE DATABASE "{name}"{copied}')
    return with_database(server_url, name)


async def drop_database(server_url: str, url: str) -> None:
    """Drops a database of `create_database`, even if sessions are connected to it."""
    name = database_name(url)
    assert name.startswith("mkwanja_"), f"{name} is not ours to drop"
    async with connection(server_url) as server:
        await server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def empty(url: str) -> None:
    """Deletes every row of our tables, except those of the migrations, which it resets.

    `url` must name a superuser, because insert-only tables refuse all other roles.
    """
    async with connection(url) as server:
        await empty_by(server)


async def empty_by(server: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Does the same as `empty`, on a superuser's connection to the database."""
    async with server.transaction():
        await server.execute("SET LOCAL session_replication_role = replica")
        tables = await server.fetch(_USED_TABLES)
        brakes = await server.fetch("SELECT name FROM mkwanja.brakes")
        names = ", ".join(row["name"] for row in tables)
        await server.execute(f"TRUNCATE {names} CASCADE")
        await server.execute(_RESTART_SEQUENCES)
        rows = [(row["name"],) for row in brakes]
        await server.executemany("INSERT INTO mkwanja.brakes (name) VALUES ($1)", rows)
        await server.execute("INSERT INTO mkwanja.event_publisher (published_through) VALUES (0)")


def database_name(url: str) -> str:
    """Returns the name of the database in a URL."""
    return urlsplit(url).path.removeprefix("/")


def with_database(url: str, name: str) -> str:
    """Returns `url` with another database. The host, the user and the options stay."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def alembic(
    *arguments: str, url: str | None, settings: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs alembic like the Procfile's line `release`. Returns its exit status and its output."""
    env = bare() | dict(settings or {}) | ({"DATABASE_URL": url} if url is not None else {})
    with tempfile.TemporaryDirectory() as folder:
        process = Process(
            "alembic",
            ["alembic", *arguments],
            env=env,
            log=Path(folder, "alembic.log"),
            cwd=ROOT,
            starter=Starter.of_this_process,
        )
        await process.start()
        try:
            return await process.wait(within_seconds=_ALEMBIC_SECONDS), process.log_text()
        finally:
            await process.kill()
