"""Connections to Postgres, and the one way to open a transaction.

Transaction-level Postgres only (rules.md §9): no prepared statement outlives its use, no
session state, so a transaction-mode pooler changes nothing. Every transaction limits its own waits
on the server (rule 10), and every call has a limit here as well: a frozen server or a pooler
without one must not stall us.
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
COMMAND_SECONDS = 6  # above every limit on the server's side, so that the server speaks first
ROLLBACK_SECONDS = 1

# A session keeps the mode that it began with. One that is read-only, and older than this, may be
# read-only no longer.
_READ_ONLY_FRESH_SECONDS = 1.0

# What decides about money is on disk before we act on it: a server, database or role may have
# `synchronous_commit` off. What an operator set beyond that (remote_write, remote_apply) stays. One
# statement: it also learns the time of the transaction by the database's clock, which stamps all
# that it writes. Postgres 17 and later also end a transaction whose client stopped in the middle of
# a message, which no other limit sees.
_OPEN = text(
    "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '5s', true),"
    " set_config('idle_in_transaction_session_timeout', '5s', true), now(),"
    " CASE WHEN current_setting('server_version_num')::int >= 170000"
    "  THEN set_config('transaction_timeout', '10s', true) END,"
    " current_setting('transaction_read_only')::boolean AS is_read_only,"
    " CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
    "  THEN set_config('synchronous_commit', 'on', true) END"
)

# SQLSTATE classes that a row of ours may be the reason of: cardinality, data, constraints,
# conflicts, a view's check, a row that is too large, a held lock, a trigger's own error, a damaged
# page; and 42, which is a bug in our SQL. All else says only that this server cannot, now: it is
# away, full, read-only, failing over, not migrated yet.
_ABOUT_ROWS = ("21", "22", "23", "40", "42", "44", "54", "55P03", "P0", "XX001", "XX002")
_NOT_MIGRATED = ("42P01", "42501", "42703", "42704", "42883")

# Lock timeout and deadlock: somebody else holds the row; the same work may be tried again.
CONTENDED = ("55P03", "40P01")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction.

    `now` is its time by the database's clock; `is_read_only`: whatever it writes is refused.
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

    Connects when first used; a server that comes back is used again.
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
        # Connects when it is used, which only a release does: a migration may take its time.
        self._patient_engine = create_async_engine(
            driver_url, connect_args={**connect_args, "command_timeout": None}, hide_parameters=True
        )
        self._distrusted_before = 0.0
        event.listen(self._engine.sync_engine, "connect", _note_age)
        event.listen(self._engine.sync_engine, "checkout", self._replace_distrusted)

    async def close(self) -> None:
        await self._engine.dispose()
        await self._patient_engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that commits at the end of the block.

        Raises `StoreUnavailable` when Postgres cannot be reached or gives up waiting,
        `CommitOutcomeUnknown` when the connection was lost during COMMIT; errors about rows are
        SQLAlchemy's.
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
            if _is_silence(error):
                self._distrust_pool()
            if is_unavailable(error) and not isinstance(error, StoreUnavailable):
                raise StoreUnavailable from error
            raise
        finally:
            await _give_back(connection, in_order=ended)

    async def _open(self) -> Transaction:
        # A pooled connection may be dead since Postgres restarted. Its first statement tells, and
        # another one is safe.
        for is_last in (False, True):
            try:
                connection = await self._engine.connect()
            except Exception as error:
                # Whatever it says (no such database yet, no such role): there is no connection, and
                # nothing was done.
                raise StoreUnavailable from error
            try:
                row = (await connection.execute(_OPEN)).one()
            except BaseException as error:
                if _is_silence(error):
                    self._distrust_pool()
                await _give_back(connection, in_order=False)
                if not is_unavailable(error):
                    raise
                if is_last or not _is_lost(
                    error
                ):  # one that does not answer is not helped by asking it again
                    raise StoreUnavailable from error
                continue
            connection.info[_IS_READ_ONLY] = row.is_read_only
            if _is_stale(connection.info) and not is_last:
                await _give_back(connection, in_order=False)
                continue
            return Transaction(connection, row[3], row.is_read_only)
        raise AssertionError

    def _distrust_pool(self) -> None:
        """From now on no connection is used that was opened before now."""
        self._distrusted_before = time.monotonic()

    def _replace_distrusted(self, _dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info[_OPENED_AT] < self._distrusted_before or _is_stale(record.info):
            # at once: a server that is gone would let us wait for its goodbye
            record.driver_connection.terminate()
            raise DisconnectionError

    @asynccontextmanager
    async def migration(self) -> AsyncIterator[AsyncConnection]:
        """A transaction without the limits: a migration may take its time."""
        async with self._patient_engine.begin() as connection:
            yield connection


# What is noted of each connection.
_OPENED_AT = "opened_at"
_IS_READ_ONLY = "is_read_only"


def _note_age(_dbapi_connection: Any, record: Any) -> None:
    record.info[_OPENED_AT] = time.monotonic()


def _is_stale(noted: Mapping[str, Any]) -> bool:
    """Whether a new session is to learn if the database is still read-only, or where the primary
    is now.
    """
    age_seconds = time.monotonic() - noted[_OPENED_AT]
    return bool(noted.get(_IS_READ_ONLY)) and age_seconds > _READ_ONLY_FRESH_SECONDS


async def _give_back(connection: AsyncConnection, *, in_order: bool) -> None:
    """Returns a connection to the pool, or throws it away if it cannot be brought into order at
    once.
    """
    try:
        if not in_order:
            async with asyncio.timeout(ROLLBACK_SECONDS):
                await connection.rollback()
    except Exception:  # noqa: BLE001 - whatever it is, this connection is not used again
        await connection.invalidate()
    finally:
        await connection.close()


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, rather than slow."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _is_silence(error: BaseException) -> bool:
    """Whether the server said nothing for longer than its own limits allow: then it is gone, and
    all connections with it.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, TimeoutError):
        link = getattr(link, "orig", None) or link.__cause__
    return link is not None


def is_unavailable(error: BaseException) -> bool:
    """Whether `error` says that Postgres is away or gave up, rather than that our rows are
    wrong.
    """
    if isinstance(error, (StoreUnavailable, PoolTimeoutError, TimeoutError, OSError)):
        return True
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        if state is not None:
            return state in _NOT_MIGRATED or not state.startswith(_ABOUT_ROWS)
        return error.connection_invalidated or is_unavailable(error.orig or Exception())
    if error.__cause__ is not None and error.__cause__ is not error:
        return is_unavailable(error.__cause__)  # SQLAlchemy's wrapper around what asyncpg said
    if isinstance(error, ValueError):
        # asyncpg's own check of an argument: an InterfaceError by inheritance, but a row's fault
        return False
    return isinstance(
        error,
        (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    )


def is_about_rows(error: BaseException) -> bool:
    """Whether one row of a batch may be the reason, be it refused by Postgres or by the driver:
    each is then tried alone.
    """
    return not is_unavailable(error)


def sqlstate(error: BaseException) -> str | None:
    """Postgres's five-character code of `error`, if the server gave one."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def connection_arguments(url: str) -> tuple[URL, dict[str, Any]]:
    """SQLAlchemy's URL and asyncpg's arguments for a libpq URL.

    Raises ValueError for what we do not understand.
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
        # Not SQLAlchemy's `async_creator`: that one would lose these arguments, and bring back its
        # cache of statements.
        arguments["async_creator_fn"] = Hosts(address.hosts).connect
    return URL.create("postgresql+asyncpg"), arguments
