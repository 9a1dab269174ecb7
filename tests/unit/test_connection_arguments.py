"""The driver's arguments for a DATABASE_URL, and the errors that show an outage of PostgreSQL."""

from __future__ import annotations

import asyncpg
from asyncpg.exceptions import _base as client_side

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


def test_a_url_becomes_arguments_of_asyncpg() -> None:
    arguments = connection_arguments(URL)
    parts = [arguments[name] for name in ("user", "password", "host", "port", "database")]
    assert parts == ["user", "p@ss", ["db.example"], [6543], "mkwanja"]


def test_every_call_has_a_time_limit_in_the_driver() -> None:
    arguments = connection_arguments(URL)
    assert 0 < arguments["timeout"] <= 3
    # Above the server's own limit of 5 s, so that the server's error arrives first.
    assert 5 < arguments["command_timeout"] <= 6


def test_no_statement_is_prepared_on_a_connection_that_a_pooler_may_share() -> None:
    assert connection_arguments(URL)["statement_cache_size"] == 0


def error_name(error: BaseException) -> str:
    return type(error).__name__


AWAY: list[BaseException] = [
    StoreUnavailable(),
    CommitOutcomeUnknown(),
    TimeoutError(),
    OSError("no route to host"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    client_side.InterfaceError("connection is closed"),
    client_side.InternalClientError("got result for unknown protocol state"),
    TimeoutError(),
    ConnectionResetError(),
]
ABOUT_ROWS: list[BaseException] = [
    asyncpg.UniqueViolationError("duplicate key"),
    # The driver refuses a value before it sends it: a number out of range, half a surrogate pair.
    client_side.DataError(
        "invalid input for query argument $1: 99999999999 (value out of int32 range)"
    ),
    ValueError("a bug"),
]


@for_each("error", AWAY, ids=error_name)
def test_these_errors_show_an_outage_of_postgresql(error: BaseException) -> None:
    assert is_unavailable(error)
    assert not is_about_rows(error)


@for_each("error", ABOUT_ROWS, ids=error_name)
def test_these_errors_are_about_rows(error: BaseException) -> None:
    """If such an error counted as an outage, one bad row would fail its batch again and again."""
    assert not is_unavailable(error)
    assert is_about_rows(error)


def server_error(state: str) -> asyncpg.PostgresError:
    """An error of the server with this SQLSTATE."""
    error = asyncpg.PostgresError("x")
    error.sqlstate = state
    return error


@for_each(
    "state",
    [
        "25006",  # read-only: a standby, or a database whose disk is full
        # the server ended the transaction: it had failed, was idle too long, or ran too long
        "25P02", "25P03", "25P04",
        "53000", "53100", "53200", "53300", "53400",  # disk, memory, connections
        # cancelled, shut down, crashed, starting, dropped
        "57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05",
        "58000", "58030", "58P01", "F0000", "55000", "55006", "08000", "08003", "08006", "08P01",
        "28000", "28P01", "3D000",
        "0A000",  # a plan that was made before a migration
        # the database is not migrated, or the rights are not granted yet
        "3F000", "42P01", "42501", "42703", "42704", "42883",
        "XX000",  # poolers use it for every error
    ],
)  # fmt: skip
def test_these_states_show_that_the_server_cannot_write_now(state: str) -> None:
    """The same work is retried later, because nothing is wrong with it."""
    assert is_unavailable(server_error(state))
    assert not is_about_rows(server_error(state))


@for_each(
    "state",
    [
        "21000", "22001", "22003", "22021", "22P02", "23502", "23503", "23505", "23514", "23001",
        "40001", "40P01", "55P03", "42601", "44000",
        "54000",  # a row that is too large for an index
        "P0001",  # raised by a trigger that the operator added
        "XX001", "XX002",  # one damaged page must not fail a whole batch
    ],
)  # fmt: skip
def test_one_row_may_be_the_cause_of_these_states(state: str) -> None:
    assert is_about_rows(server_error(state))
    assert not is_unavailable(server_error(state))


def test_a_silent_server_is_distinguished_from_a_server_that_answers() -> None:
    """After a timeout, also of a COMMIT, we trust no other connection to that server."""
    lost = CommitOutcomeUnknown()
    lost.__cause__ = TimeoutError()
    assert all(engine._is_timeout(error) for error in (TimeoutError(), lost.__cause__, lost))
    answered = (
        StoreUnavailable(),
        server_error("57014"),
        server_error("25006"),
        ConnectionResetError(),
    )
    assert not any(engine._is_timeout(error) for error in answered)


def test_the_sqlstate_is_that_of_the_server() -> None:
    assert sqlstate(asyncpg.UniqueViolationError("x")) == "23505"
    assert sqlstate(client_side.InterfaceError("x")) is None
    assert sqlstate(ValueError()) is None
