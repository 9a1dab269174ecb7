"""Connections to Postgres, and the one way to open a transaction.

No setting, lock or prepared statement outlives its transaction (rules.md §9). The code therefore
also works through a transaction-mode pooler. The server limits the waits of each transaction
(rules.md §10). This process also limits each call to Postgres, because a frozen server, or a pooler
that has lost its server, ends no wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from domain.adapters.postgres.faults import ConnectionLog
from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.hosts import Hosts
from domain.adapters.postgres.pool import Connection, Pool, Row, Session
from domain.adapters.postgres.statements import Statement, sql
from domain.adapters.postgres.urls import read_database_url
from domain.errors import CommitOutcomeUnknown, StoreUnavailable

log = structlog.get_logger()

CONNECT_SECONDS = 3
POOL_WAIT_SECONDS = 3
LOCK_TIMEOUT = "2s"
COMMAND_SECONDS = 6  # longer than `statement_timeout`, so that the server itself reports the error

_REPEAT_AFTER_SECONDS = 0.1

# A process may stop right after this message. Its transaction locks nothing, but it would occupy a
# pooler's connection to the server until the process continues.
_BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '5s'"

# The first statement of a transaction. A commit must be on disk before we act on it, but a server,
# database or role may have `synchronous_commit` off, so this statement switches it on. Other
# settings of an operator (remote_write, remote_apply) stay. The statement also returns the
# transaction's time by the database's clock, which stamps all that the transaction writes. In
# Postgres 17 and later, `transaction_timeout` also ends a transaction whose client stopped in the
# middle of a message. No other limit covers that case.
_OPEN = sql(
    "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '5s', true),"
    " now() AS now,"
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

# The connection was lost, the session was ended, or a pooler reports an error of its own. The
# statement that was under way may have committed. After any other error, it is rolled back.
_MAY_HAVE_COMMITTED = ("08", "57P", "XX")

# The connection was lost, or the server ended the session.
_LOST = ("08", "57P")

# Postgres refuses to write, on a standby or because its disk is full.
_READ_ONLY = "25006"

# Lock timeout and deadlock. Another transaction locks the row. It is safe to retry the same work.
CONTENDED = ("55P03", "40P01")


@dataclass(frozen=True, slots=True)
class Calls:
    """An open transaction whose first function sets its limits."""

    session: Session

    async def call(
        self, function: Function, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """All rows that `function` returns. It gets the parameter `lock_timeout` from here."""
        return list(await self.session.call(function, _with_limits(parameters)))

    async def rows(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """All rows that `statement` returns."""
        connection = self.session.connection
        return list(await connection.fetch(statement.text, *statement.order(parameters or {})))

    async def run(self, statement: Statement, parameters: Mapping[str, Any] | None = None) -> None:
        await self.rows(statement, parameters)


@dataclass(frozen=True, slots=True)
class Transaction(Calls):
    """An open transaction.

    `now` is its time by the database's clock. If `is_read_only`, Postgres refuses every write.
    """

    now: datetime
    is_read_only: bool = False


class Database:
    """A pool of connections to one Postgres.

    It connects at first use, and reconnects when a server comes back. If it cannot connect, it logs
    the cause, unless `has_log` is false: a command prints the cause itself.
    """

    def __init__(
        self, url: str, *, pool_size: int, application_name: str, has_log: bool = True
    ) -> None:
        address = read_database_url(url)
        if address.left_out:
            log.warning(
                "database_url_parameters_left_out",
                setting="DATABASE_URL",
                parameters=list(address.left_out),
            )
        connect = Hosts(address.hosts).connect if len(address.hosts) > 1 else asyncpg.connect
        server_settings = {"application_name": application_name}
        connection_log = ConnectionLog() if has_log else None

        async def open_connection() -> Connection:
            arguments = connection_arguments(url)
            try:
                connection: Connection = await connect(**arguments, server_settings=server_settings)
            except Exception as error:
                if connection_log is not None:
                    connection_log.record_failure(error)
                raise
            if connection_log is not None:
                connection_log.record_success()
            return connection

        self._pool = Pool(open_connection, size=pool_size)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that commits at the end of the block.

        Raises `StoreUnavailable` if Postgres cannot be reached or a limit expires, and
        `CommitOutcomeUnknown` if the connection was lost during COMMIT. Errors about rows are
        raised as the driver's own exceptions.
        """
        async with self._begun(_OPEN) as (session, row):
            yield Transaction(session, row.now, row.is_read_only)

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[Calls]:
        """The same as `transaction`, but the first function that is called must set the limits."""
        async with self._begun(None) as (session, _):
            yield Calls(session)

    async def call(
        self, function: Function, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Calls a function that is a transaction of its own, and commits with its end.

        The function gets the parameter `lock_timeout` from here.

        Raises `StoreUnavailable` if nothing was done because Postgres cannot be reached. Raises
        `CommitOutcomeUnknown` if the function may have run and committed.
        """
        session = await self._pool.borrow(wait_seconds=POOL_WAIT_SECONDS)
        in_order = False
        try:
            rows = list(await session.call(function, _with_limits(parameters)))
            in_order = True
        except Exception as error:
            if _is_timeout(error) or (sqlstate(error) or "").startswith(_LOST):
                self._pool.retire_all()
            session.is_read_only = sqlstate(error) == _READ_ONLY
            if not is_unavailable(error):
                raise
            if (sqlstate(error) or "08").startswith(_MAY_HAVE_COMMITTED):
                raise CommitOutcomeUnknown from error
            raise StoreUnavailable from error
        finally:
            await self._pool.give_back(session, in_order=in_order)
        return rows

    async def call_repeatable(
        self, function: Function, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """The same as `call`, for a function that changes nothing more if it runs a second time.

        If the connection was lost, for example because Postgres restarted, the function is called
        once again after a short pause. PgBouncer refuses the first statement after a restart of
        Postgres, even on a new connection, and only then reconnects.
        """
        try:
            return await self.call(function, parameters)
        except CommitOutcomeUnknown as error:
            if isinstance(error.__cause__, TimeoutError):
                raise  # a server that does not answer does not answer the next call either
            await asyncio.sleep(_REPEAT_AFTER_SECONDS)
            return await self.call(function, parameters)

    @asynccontextmanager
    async def _begun(self, opening: Statement | None) -> AsyncIterator[tuple[Session, Any]]:
        session, row = await self._begin(opening)
        ended = False
        try:
            yield session, row
            try:
                await session.connection.execute("COMMIT")
            except Exception as error:
                if is_unavailable(error):
                    raise CommitOutcomeUnknown from error
                raise
            ended = True
        except Exception as error:
            if _is_timeout(error):
                self._pool.retire_all()
            if sqlstate(error) == _READ_ONLY:
                session.is_read_only = True
            if is_unavailable(error) and not isinstance(error, StoreUnavailable):
                raise StoreUnavailable from error
            raise
        finally:
            await self._pool.give_back(session, in_order=ended)

    async def _begin(self, opening: Statement | None) -> tuple[Session, Any]:
        # A pooled connection may be dead because Postgres restarted. Its first statement then
        # fails. It is safe to try another connection.
        for is_last in (False, True):
            session = await self._pool.borrow(wait_seconds=POOL_WAIT_SECONDS)
            try:
                await session.connection.execute(_BEGIN)
                if opening is None:
                    return session, None
                row = await session.connection.fetchrow(opening.text)
            except BaseException as error:
                # Lost, and not only slow. If the server does not answer, we do not try again. The
                # driver may report the loss before it has closed the connection.
                is_lost = session.connection.is_closed() or (sqlstate(error) or "").startswith(
                    _LOST
                )
                if is_lost or _is_timeout(error):
                    # The server probably ended the other sessions too.
                    self._pool.retire_all()
                await self._pool.give_back(session, in_order=False)
                if not is_unavailable(error):
                    raise
                if is_last or not is_lost:
                    raise StoreUnavailable from error
                continue
            session.is_read_only = row["is_read_only"]
            if session.is_stale and not is_last:
                await self._pool.give_back(session, in_order=False)
                continue
            return session, row
        raise AssertionError


def _with_limits(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"lock_timeout": LOCK_TIMEOUT, **(parameters or {})}


def _is_timeout(error: BaseException) -> bool:
    """Whether the server did not answer within our limit, although its own limits are shorter.

    We assume that such a server is gone, and that all connections to it are lost.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TimeoutError):
        cause = cause.__cause__
    return cause is not None


def is_unavailable(error: BaseException) -> bool:
    """Whether Postgres cannot work at present. False if one of our rows may be the cause."""
    if isinstance(error, (StoreUnavailable, TimeoutError, OSError)):
        return True
    state = sqlstate(error)
    if state is not None:
        return state in _NOT_MIGRATED or not state.startswith(_ABOUT_ROWS)
    if isinstance(error, ValueError):
        # The driver's check of an argument failed. The error inherits from InterfaceError, but a
        # row caused it.
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
    return getattr(error, "sqlstate", None)


def connection_arguments(url: str) -> dict[str, Any]:
    """The driver's arguments for a libpq URL.

    Raises ValueError if the URL has a part that we do not understand.
    """
    return {
        **read_database_url(url).arguments(),
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "statement_cache_size": 0,
        "record_class": Row,
    }
