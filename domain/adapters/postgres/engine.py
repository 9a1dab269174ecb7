"""Connections to Postgres, and the one way to open a transaction.

No setting, lock or prepared statement outlives its transaction (rules.md §9). The code therefore
also works through a transaction-mode pooler. The server limits the waits of each transaction
(rules.md §10). This process also limits each call to Postgres, because a frozen server, or a pooler
that has lost its server, ends no wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import structlog
from sqlalchemy import URL, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from domain.adapters.postgres.hosts import Hosts
from domain.adapters.postgres.urls import read_database_url
from domain.errors import CommitOutcomeUnknown, StoreUnavailable

log = structlog.get_logger()

CONNECT_SECONDS = 3
POOL_WAIT_SECONDS = 3
COMMAND_SECONDS = 6  # longer than `statement_timeout`, so that the server itself reports the error
ROLLBACK_SECONDS = 1

# If a read-only session is older than this, it is replaced, because by now the database may accept
# writes, or another host may be the primary.
_READ_ONLY_FRESH_SECONDS = 1.0

# Opens a transaction in one statement. A commit must be on disk before we act on it, but a server,
# database or role may have `synchronous_commit` off, so this statement switches it on. Other
# settings of an operator (remote_write, remote_apply) stay. The statement also returns the
# transaction's time by the database's clock, which stamps all that the transaction writes. In
# Postgres 17 and later, `transaction_timeout` also ends a transaction whose client stopped in the
# middle of a message. No other limit covers that case.
_OPEN = text(
    "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '5s', true),"
    " set_config('idle_in_transaction_session_timeout', '5s', true), now(),"
    " CASE WHEN current_setting('server_version_num')::int >= 170000"
    "  THEN set_config('transaction_timeout', '10s', true) END,"
    " current_setting('transaction_read_only')::boolean AS is_read_only,"
    " CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
    "  THEN set_config('synchronous_commit', 'on', true) END"
)

# SQLSTATE classes of errors that one of our rows may cause: cardinality, data, constraints,
# conflicts, a view's check, a row that is too large, a lock that is held, a trigger's own error, a
# damaged page. Class 42 is a bug in our SQL. All other errors mean that this server cannot work at
# present: it is unreachable, full, read-only, failing over, or not migrated yet.
_ABOUT_ROWS = ("21", "22", "23", "40", "42", "44", "54", "55P03", "P0", "XX001", "XX002")
_NOT_MIGRATED = ("42P01", "42501", "42703", "42704", "42883")

# Lock timeout and deadlock. Another transaction locks the row. It is safe to retry the same work.
CONTENDED = ("55P03", "40P01")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction.

    `now` is its time by the database's clock. If `is_read_only`, Postgres refuses every write.
    """

    connection: AsyncConnection
    now: datetime
    is_read_only: bool = False

    async def rows(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[Any]:
        """All rows that `statement` returns."""
        return list((await self.connection.execute(statement, parameters or {})).all())

    async def run(self, statement: Any, parameters: dict[str, Any] | None = None) -> None:
        await self.connection.execute(statement, parameters or {})


class Database:
    """A pool of connections to one Postgres.

    It connects at first use, and reconnects when a server comes back.
    """

    def __init__(self, url: str, *, pool_size: int, application_name: str) -> None:
        address = read_database_url(url)
        if address.left_out:
            log.warning(
                "database_url_parameters_left_out",
                setting="DATABASE_URL",
                parameters=list(address.left_out),
            )
        driver_url, connect_args = connection_arguments(url)
        connect_args["server_settings"] = {"application_name": application_name}
        options = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": POOL_WAIT_SECONDS}
        self._engine = create_async_engine(
            driver_url, connect_args=connect_args, hide_parameters=True, **options
        )
        # The engine for migrations. It has no time limit, because a migration may run for a long
        # time. It connects at first use.
        self._patient_engine = create_async_engine(
            driver_url, connect_args={**connect_args, "command_timeout": None}, hide_parameters=True
        )
        self._retired_before = 0.0
        event.listen(self._engine.sync_engine, "connect", _record_age)
        event.listen(self._engine.sync_engine, "checkout", self._replace_retired)

    async def close(self) -> None:
        await self._engine.dispose()
        await self._patient_engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that commits at the end of the block.

        Raises `StoreUnavailable` if Postgres cannot be reached or a limit expires, and
        `CommitOutcomeUnknown` if the connection was lost during COMMIT. Errors about rows are
        raised as SQLAlchemy's own exceptions.
        """
        transaction = await self._open()
        connection = transaction.connection
        ended = False
        try:
            yield transaction
            try:
                await connection.commit()
            except Exception as error:
                if is_unavailable(error):
                    raise CommitOutcomeUnknown from error
                raise
            ended = True
        except Exception as error:
            if _is_timeout(error):
                self._retire_connections()
            if is_unavailable(error) and not isinstance(error, StoreUnavailable):
                raise StoreUnavailable from error
            raise
        finally:
            await _return_connection(connection, in_order=ended)

    async def _open(self) -> Transaction:
        # A pooled connection may be dead because Postgres restarted. Its first statement then
        # fails. It is safe to try another connection.
        for is_last in (False, True):
            try:
                connection = await self._engine.connect()
            except Exception as error:
                # Whatever the error is (for example no such database or role), there is no
                # connection, so nothing was done.
                raise StoreUnavailable from error
            try:
                row = (await connection.execute(_OPEN)).one()
            except BaseException as error:
                if _is_timeout(error):
                    self._retire_connections()
                await _return_connection(connection, in_order=False)
                if not is_unavailable(error):
                    raise
                # If the server does not answer, a second try does not help.
                if is_last or not _is_lost(error):
                    raise StoreUnavailable from error
                continue
            connection.info[_IS_READ_ONLY] = row.is_read_only
            if _is_stale(connection.info) and not is_last:
                await _return_connection(connection, in_order=False)
                continue
            return Transaction(connection, row[3], row.is_read_only)
        raise AssertionError

    def _retire_connections(self) -> None:
        """Retires all connections that are open now: they are not used again."""
        self._retired_before = time.monotonic()

    def _replace_retired(self, _dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info[_OPENED_AT] < self._retired_before or _is_stale(record.info):
            # Terminate, because a normal close would wait for the answer of a dead server.
            record.driver_connection.terminate()
            raise DisconnectionError

    @asynccontextmanager
    async def migration(self) -> AsyncIterator[AsyncConnection]:
        """A transaction without limits, because a migration may run for a long time."""
        async with self._patient_engine.begin() as connection:
            yield connection


# The keys of our entries in the pool's record of a connection.
_OPENED_AT = "opened_at"
_IS_READ_ONLY = "is_read_only"


def _record_age(_dbapi_connection: Any, record: Any) -> None:
    record.info[_OPENED_AT] = time.monotonic()


def _is_stale(info: Mapping[str, Any]) -> bool:
    """Whether a read-only session is too old to be reused.

    A new session finds out whether the database is still read-only, or where the primary is now.
    """
    age_seconds = time.monotonic() - info[_OPENED_AT]
    return bool(info.get(_IS_READ_ONLY)) and age_seconds > _READ_ONLY_FRESH_SECONDS


async def _return_connection(connection: AsyncConnection, *, in_order: bool) -> None:
    """Returns a connection to the pool, or discards it if it cannot be rolled back at once."""
    try:
        if not in_order:
            async with asyncio.timeout(ROLLBACK_SECONDS):
                await connection.rollback()
    except Exception:  # noqa: BLE001 - after any error, this connection is not used again
        await connection.invalidate()
    finally:
        await connection.close()


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is lost, and not only slow."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _is_timeout(error: BaseException) -> bool:
    """Whether the server did not answer within our limit, although its own limits are shorter.

    We assume that such a server is gone, and that all connections to it are lost.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TimeoutError):
        cause = getattr(cause, "orig", None) or cause.__cause__
    return cause is not None


def is_unavailable(error: BaseException) -> bool:
    """Whether Postgres cannot work at present. False if one of our rows may be the cause."""
    if isinstance(error, (StoreUnavailable, PoolTimeoutError, TimeoutError, OSError)):
        return True
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        if state is not None:
            return state in _NOT_MIGRATED or not state.startswith(_ABOUT_ROWS)
        return error.connection_invalidated or is_unavailable(error.orig or Exception())
    if error.__cause__ is not None and error.__cause__ is not error:
        return is_unavailable(error.__cause__)  # SQLAlchemy's wrapper around asyncpg's error
    if isinstance(error, ValueError):
        # asyncpg's check of an argument failed. The error inherits from InterfaceError, but a row
        # caused it.
        return False
    return isinstance(
        error,
        (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    )


def is_about_rows(error: BaseException) -> bool:
    """Whether one row of a batch may be the cause, so that each row must be tried alone.

    Postgres or the driver may have refused the row.
    """
    return not is_unavailable(error)


def sqlstate(error: BaseException) -> str | None:
    """Postgres's five-character code of `error`, if the server gave one."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def connection_arguments(url: str) -> tuple[URL, dict[str, Any]]:
    """SQLAlchemy's URL and asyncpg's arguments for a libpq URL.

    Raises ValueError if the URL has a part that we do not understand.
    """
    address = read_database_url(url)
    arguments: dict[str, Any] = {
        **address.arguments(),
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    }
    if len(address.hosts) > 1:
        # SQLAlchemy's `async_creator` is not used, because it would drop these arguments and enable
        # its cache of statements again.
        arguments["async_creator_fn"] = Hosts(address.hosts).connect
    return URL.create("postgresql+asyncpg"), arguments
