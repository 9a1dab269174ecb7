"""What a DATABASE_URL becomes for the driver, and which of the driver's errors say that Postgres
is away.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from asyncpg.exceptions import _base as client_side
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from domain.adapters.postgres import engine
from domain.adapters.postgres.engine import (
    connection_arguments,
    is_about_rows,
    is_unavailable,
    sqlstate,
)
from domain.errors import CommitOutcomeUnknown, StoreUnavailable
from tests.case_tables import for_each

URL = "postgresql://user:p%40ss@db.example:6543/mkwanja"


def test_the_driver_is_our_business() -> None:
    url, arguments = connection_arguments(URL)
    assert url.drivername == "postgresql+asyncpg"
    said = [arguments[name] for name in ("user", "password", "host", "port", "database")]
    assert said == ["user", "p@ss", ["db.example"], [6543], "mkwanja"]
    assert "p@ss" not in str(url)


def test_nothing_is_prepared_on_a_connection_that_a_pooler_may_share() -> None:
    _, arguments = connection_arguments(URL)
    assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0


def test_every_call_has_a_limit_on_our_side() -> None:
    _, arguments = connection_arguments(URL)
    assert 0 < arguments["timeout"] <= 3
    assert (
        5 < arguments["command_timeout"] <= 6
    )  # above the server's own 5 s, so that the server speaks first


def test_only_several_hosts_need_more_than_the_driver() -> None:
    """SQLAlchemy's own `async_creator` would bring back its cache of statements."""
    assert "async_creator_fn" not in connection_arguments(URL)[1]
    _, arguments = connection_arguments("postgresql://user@one,two/mkwanja")
    assert arguments["async_creator_fn"]
    assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0


def wrapped(error: Exception, kind: type[exc.DBAPIError] = exc.InterfaceError) -> exc.DBAPIError:
    """`error` of asyncpg's as SQLAlchemy hands it on."""
    dbapi: Any = AsyncAdapt_asyncpg_dbapi
    translated = dbapi.InterfaceError(f"{type(error)}: {error}", error)
    translated.__cause__ = error
    return kind("SELECT 1", {}, translated)


def what(error: BaseException) -> str:
    """The class that asyncpg raised, or that came without it."""
    return type(getattr(getattr(error, "orig", None), "__cause__", None) or error).__name__


AWAY: list[BaseException] = [
    StoreUnavailable(),
    CommitOutcomeUnknown(),
    exc.TimeoutError(),
    TimeoutError(),
    ConnectionRefusedError(),
    OSError("no route to host"),
    wrapped(
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        exc.DBAPIError,
    ),
    wrapped(asyncpg.CannotConnectNowError("starting up"), exc.DBAPIError),
    wrapped(asyncpg.AdminShutdownError("terminating connection"), exc.DBAPIError),
    wrapped(asyncpg.TooManyConnectionsError("sorry, too many clients already"), exc.DBAPIError),
    wrapped(asyncpg.QueryCanceledError("statement timeout"), exc.DBAPIError),
    wrapped(client_side.InterfaceError("connection is closed")),
    wrapped(client_side.InternalClientError("got result for unknown protocol state")),
    wrapped(TimeoutError(), exc.DBAPIError),
    wrapped(ConnectionResetError(), exc.DBAPIError),
]
ABOUT_ROWS: list[BaseException] = [
    wrapped(asyncpg.UniqueViolationError("duplicate key"), exc.IntegrityError),
    wrapped(asyncpg.CheckViolationError("check"), exc.IntegrityError),
    wrapped(asyncpg.LockNotAvailableError("lock timeout"), exc.DBAPIError),
    wrapped(asyncpg.DeadlockDetectedError("deadlock"), exc.DBAPIError),
    wrapped(asyncpg.CharacterNotInRepertoireError("invalid byte sequence: 0x00"), exc.DBAPIError),
    # The driver refuses a value before Postgres sees it: a number out of range, half of a surrogate
    # pair.
    wrapped(
        client_side.DataError(
            "invalid input for query argument $1: 99999999999 (value out of int32 range)"
        )
    ),
    ValueError("a bug"),
]


@for_each("error", AWAY, ids=what)
def test_errors_that_say_postgres_is_away(error: BaseException) -> None:
    assert is_unavailable(error)
    assert not is_about_rows(error)


@pytest.mark.parametrize("error", ABOUT_ROWS, ids=what)
def test_errors_that_are_about_rows(error: BaseException) -> None:
    """Taken for an outage, one bad row would fail everybody in its batch, again and again."""
    assert not is_unavailable(error)
    assert is_about_rows(error)


def refused(state: str) -> exc.DBAPIError:
    """An error of the server with this SQLSTATE."""
    error = asyncpg.PostgresError("x")
    error.sqlstate = state
    return wrapped(error, exc.DBAPIError)


@for_each(
    "state",
    [
        "25006",  # read-only: a standby, or a database whose disk is full
        # the transaction was ended: failed before, idle too long, too long
        "25P02", "25P03", "25P04",
        "53000", "53100", "53200", "53300", "53400",  # disk, memory, connections
        # cancelled, shut down, crashed, starting, dropped
        "57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05",
        "58000", "58030", "58P01", "F0000", "55000", "55006", "08000", "08003", "08006", "08P01",
        "28000", "28P01", "3D000",
        "0A000",  # a plan made before a migration
        # not migrated yet, or no rights laid down yet
        "3F000", "42P01", "42501", "42703", "42704", "42883",
        "XX000",  # poolers say it of everything
    ],
)  # fmt: skip
def test_states_in_which_this_server_cannot_write_now(state: str) -> None:
    """The same work is done again later: nothing is wrong with it."""
    assert is_unavailable(refused(state))
    assert not is_about_rows(refused(state))


@for_each(
    "state",
    [
        "21000", "22001", "22003", "22021", "22P02", "23502", "23503", "23505", "23514", "23001",
        "40001", "40P01", "55P03", "42601", "44000",
        "54000",  # a row that no index takes
        "P0001",  # a trigger of the operator's
        "XX001", "XX002",  # one damaged page must not fail everybody in its batch
    ],
)  # fmt: skip
def test_states_that_one_row_may_be_the_reason_of(state: str) -> None:
    assert is_about_rows(refused(state))
    assert not is_unavailable(refused(state))


def test_a_server_that_says_nothing_is_told_from_one_that_speaks() -> None:
    """After a silence no other connection to it is trusted, also where it was the COMMIT that
    got no answer.
    """
    lost = CommitOutcomeUnknown()
    lost.__cause__ = wrapped(TimeoutError(), exc.DBAPIError)
    assert all(engine._is_timeout(error) for error in (TimeoutError(), lost.__cause__, lost))
    spoken = (
        StoreUnavailable(),
        exc.TimeoutError(),
        refused("57014"),
        refused("25006"),
        ConnectionResetError(),
    )
    assert not any(engine._is_timeout(error) for error in spoken)


def test_postgres_own_code_is_found() -> None:
    assert sqlstate(wrapped(asyncpg.UniqueViolationError("x"))) == "23505"
    assert sqlstate(wrapped(client_side.InterfaceError("x"))) is None
    assert sqlstate(ValueError()) is None
