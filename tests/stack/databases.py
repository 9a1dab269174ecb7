"""Databases on a PostgreSQL server, made and dropped through its URL: one for each stack, so that stacks
never meet.

Works through a pooler in transaction mode too: no prepared statement outlives its transaction.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

_CONNECT_SECONDS = 10.0


@asynccontextmanager
async def connection(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection for a few statements."""
    connected = await asyncpg.connect(url, statement_cache_size=0, timeout=_CONNECT_SECONDS)
    try:
        yield connected
    finally:
        await connected.close(timeout=_CONNECT_SECONDS)


async def create_database(server_url: str, *, template: str | None = None) -> str:
    """Create an empty database, or a copy of the one at the URL `template`, and return its URL."""
    name = f"mkwanja_{secrets.token_hex(6)}"
    copied = f' TEMPLATE "{database_name(template)}"' if template else ""
    async with connection(server_url) as server:
        await server.execute(f'CREATE DATABASE "{name}"{copied}')
    return with_database(server_url, name)


async def drop_database(server_url: str, url: str) -> None:
    """Drop a database that `create_database` made, whoever is still connected to it."""
    name = database_name(url)
    assert name.startswith("mkwanja_"), f"{name} is not ours to drop"
    async with connection(server_url) as server:
        await server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def database_name(url: str) -> str:
    """The database that a URL names."""
    return urlsplit(url).path.removeprefix("/")


def with_database(url: str, name: str) -> str:
    """The same URL, host, user and options, with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
