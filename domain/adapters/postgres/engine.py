"""Connections to Postgres, and the one way to open a transaction.

Transaction-level Postgres only (design.md, rule 9): no prepared statement outlives its use, no session state, so a
transaction-mode pooler changes nothing. Every transaction limits its own waits on the server (rule 10), and every call
has a limit here as well: a frozen server or a pooler without one must not stall us.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from domain.errors import StoreUnavailable

CONNECT_SECONDS = 3
POOL_WAIT_SECONDS = 3
COMMAND_SECONDS = 6  # above every limit on the server's side, so that the server speaks first
ROLLBACK_SECONDS = 1

# One statement: it also learns the time of the transaction by the database's clock, which stamps all that it writes.
# Postgres 17 and later also end a transaction whose client stopped in the middle of a message, which no other limit sees.
_OPEN = text(
    "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '5s', true),"
    " set_config('idle_in_transaction_session_timeout', '5s', true), now(),"
    " CASE WHEN current_setting('server_version_num')::int >= 170000"
    "  THEN set_config('transaction_timeout', '10s', true) END"
)

# Whoever claims a payout holds this in common until the COMMIT, whoever changes a brake holds it alone. It is a queue: share
# locks on the brakes' rows would be granted past whoever waits for them, and claims that overlap could keep him out for ever.
BRAKES_LOCK = 4_711_254_003

# SQLSTATE classes that a row of ours may be the reason of: cardinality, data, constraints, conflicts, a held lock; and
# 42, which is a bug in our SQL. All else says only that this server cannot, now: it is away, full, read-only, failing
# over, not migrated yet.
_ABOUT_ROWS = ("21", "22", "23", "40", "42", "55P03")
_NOT_MIGRATED = ("42P01", "42501")

# Lock timeout and deadlock: somebody else holds the row; the same work may be tried again.
CONTENDED = ("55P03", "40P01")


class CommitOutcomeUnknown(StoreUnavailable):
    """The connection was lost during COMMIT: the transaction may or may not have happened."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction. `now` is its time by the database's clock."""

    connection: AsyncConnection
    now: datetime

    async def rows(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[Any]:
        """All rows that `statement` returns."""
        return list((await self.connection.execute(statement, parameters or {})).all())

    async def run(self, statement: Any, parameters: dict[str, Any] | None = None) -> None:
        await self.connection.execute(statement, parameters or {})


class Database:
    """A pool of connections to one Postgres. Connects when first used; a server that comes back is used again."""

    def __init__(self, url: str, *, pool_size: int, application_name: str) -> None:
        driver_url, connect_args = connection_arguments(url)
        connect_args["server_settings"] = {"application_name": application_name}
        options = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": POOL_WAIT_SECONDS}
        self._engine = create_async_engine(driver_url, connect_args=connect_args, hide_parameters=True, **options)
        # Connects when it is used, which only a release does: a migration may take its time.
        self._patient_engine = create_async_engine(
            driver_url, connect_args={**connect_args, "command_timeout": None}, hide_parameters=True
        )

    async def close(self) -> None:
        await self._engine.dispose()
        await self._patient_engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that commits at the end of the block.

        Raises `StoreUnavailable` when Postgres cannot be reached or gives up waiting, `CommitOutcomeUnknown` when the
        connection was lost during COMMIT; errors about rows are SQLAlchemy's.
        """
        connection, now = await self._open()
        ended = False
        try:
            yield Transaction(connection, now)
            try:
                await connection.commit()
            except Exception as error:
                if is_unavailable(error):
                    raise CommitOutcomeUnknown from error
                raise
            ended = True
        except Exception as error:
            if is_unavailable(error) and not isinstance(error, StoreUnavailable):
                raise StoreUnavailable from error
            raise
        finally:
            await _give_back(connection, in_order=ended)

    async def _open(self) -> tuple[AsyncConnection, datetime]:
        # A pooled connection may be dead since Postgres restarted. Its first statement tells, and another one is safe.
        for is_last in (False, True):
            try:
                connection = await self._engine.connect()
            except Exception as error:
                # Whatever it says (no such database yet, no such role): there is no connection, and nothing was done.
                raise StoreUnavailable from error
            try:
                row = (await connection.execute(_OPEN)).one()
            except BaseException as error:
                await _give_back(connection, in_order=False)
                if not is_unavailable(error):
                    raise
                if is_last or not _is_lost(error):  # one that does not answer is not helped by asking it again
                    raise StoreUnavailable from error
            else:
                return connection, row[3]
        raise AssertionError

    @asynccontextmanager
    async def migration(self) -> AsyncIterator[AsyncConnection]:
        """A transaction without the limits: a migration may take its time."""
        async with self._patient_engine.begin() as connection:
            yield connection


async def _give_back(connection: AsyncConnection, *, in_order: bool) -> None:
    """Returns a connection to the pool, or throws it away if it cannot be brought into order at once."""
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


def is_unavailable(error: BaseException) -> bool:
    """Whether `error` says that Postgres is away or gave up, rather than that our rows are wrong."""
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
        return False  # asyncpg's own check of an argument: an InterfaceError by inheritance, but a row's fault
    return isinstance(error, (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError))


def is_about_rows(error: BaseException) -> bool:
    """Whether one row of a batch may be the reason, be it refused by Postgres or by the driver: each is then tried alone."""
    return not is_unavailable(error)


def sqlstate(error: BaseException) -> str | None:
    """Postgres's five-character code of `error`, if the server gave one."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def connection_arguments(url: str) -> tuple[URL, dict[str, Any]]:
    """SQLAlchemy's URL and asyncpg's arguments for a libpq URL. Raises ValueError for what we do not understand."""
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    arguments: dict[str, Any] = {
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    }
    query = dict(parsed.query)
    mode = query.pop("sslmode", None)
    root_certificate = query.pop("sslrootcert", None)
    if mode is not None:
        arguments["ssl"] = _ssl(str(mode), str(root_certificate) if root_certificate else None)
    for harmless in ("connect_timeout", "application_name", "pgbouncer", "channel_binding", "gssencmode"):
        query.pop(harmless, None)  # said by providers' ready-made URLs; ours are set above
    unknown = sorted(set(query) - {"host", "port"})
    if unknown:
        raise ValueError(f"has parameters that are not understood: {', '.join(unknown)}")
    return parsed.set(query=query), arguments


def _ssl(mode: str, root_certificate: str | None) -> Any:
    """What asyncpg takes for libpq's `sslmode`."""
    if mode == "require" and root_certificate is not None:
        mode = "verify-ca"  # as libpq does
    if mode in ("disable", "allow", "prefer", "require"):
        return mode
    if mode not in ("verify-ca", "verify-full"):
        raise ValueError("has an sslmode that is none of libpq's")
    try:
        tls = ssl.create_default_context(cafile=root_certificate)
    except (OSError, ssl.SSLError):
        raise ValueError("has an sslrootcert that cannot be read") from None
    tls.check_hostname = mode == "verify-full"
    return tls
