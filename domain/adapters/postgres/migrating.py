"""The connection for migrations. Only `alembic upgrade head` uses it, and the processes do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from domain.adapters.postgres.engine import CONNECT_SECONDS
from domain.adapters.postgres.hosts import Hosts
from domain.adapters.postgres.urls import read_database_url
from domain.errors import StoreUnavailable


@asynccontextmanager
async def open_migration(url: str, *, commits_each: bool = False) -> AsyncIterator[AsyncConnection]:
    """A transaction without limits, because a migration may run for a long time.

    If `commits_each`, each statement is a transaction of its own. Raises StoreUnavailable if there
    is no connection: `explain_error` says why.
    """
    address = read_database_url(url)
    arguments: dict[str, Any] = {
        **address.arguments(),
        "timeout": CONNECT_SECONDS,
        "server_settings": {"application_name": "mkwanja-release"},
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    }
    if len(address.hosts) > 1:
        # SQLAlchemy's `async_creator` is not used, because it would drop these arguments and enable
        # its cache of statements again.
        arguments["async_creator_fn"] = Hosts(address.hosts).connect
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args=arguments, hide_parameters=True, poolclass=NullPool
    )
    try:
        connection = await _connect(engine)
        try:
            if commits_each:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")
            else:
                async with connection.begin():
                    yield connection
        finally:
            await connection.close()
    finally:
        await engine.dispose()


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except Exception as error:
        raise StoreUnavailable from error
