"""What a DATABASE_URL becomes for the driver, and which of the driver's errors say that Postgres is away."""

from __future__ import annotations

import ssl
from typing import Any

import asyncpg
import pytest
from asyncpg.exceptions import _base as client_side
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from domain.adapters.postgres.engine import (
    CommitOutcomeUnknown,
    connection_arguments,
    is_about_rows,
    is_unavailable,
    sqlstate,
)
from domain.errors import StoreUnavailable

URL = "postgresql://user:p%40ss@db.example:6543/mkwanja"


def test_the_driver_is_our_business() -> None:
    for scheme in ("postgresql", "postgres"):
        url, _ = connection_arguments(URL.replace("postgresql", scheme))
        assert url.drivername == "postgresql+asyncpg"
        assert (url.username, url.password, url.host, url.port, url.database) == (
            "user", "p@ss", "db.example", 6543, "mkwanja",
        )  # fmt: skip


def test_nothing_is_prepared_on_a_connection_that_a_pooler_may_share() -> None:
    _, arguments = connection_arguments(URL)
    assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0


def test_every_call_has_a_limit_on_our_side() -> None:
    _, arguments = connection_arguments(URL)
    assert 0 < arguments["timeout"] <= 3
    assert 5 < arguments["command_timeout"] <= 6  # above the server's own 5 s, so that the server speaks first


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_an_sslmode_that_the_driver_knows_is_handed_on(mode: str) -> None:
    url, arguments = connection_arguments(f"{URL}?sslmode={mode}")
    assert arguments["ssl"] == mode
    assert not url.query


@pytest.mark.parametrize(("mode", "checks_name"), [("verify-ca", False), ("verify-full", True)])
def test_an_sslmode_that_verifies_becomes_a_context_that_does(mode: str, checks_name: bool) -> None:
    _, arguments = connection_arguments(f"{URL}?sslmode={mode}")
    assert isinstance(arguments["ssl"], ssl.SSLContext)
    assert (arguments["ssl"].verify_mode, arguments["ssl"].check_hostname) == (ssl.CERT_REQUIRED, checks_name)


def test_without_an_sslmode_the_driver_decides() -> None:
    assert "ssl" not in connection_arguments(URL)[1]


@pytest.mark.parametrize(
    "query", ["sslmode=on", "sslmode=REQUIRE", "sslmode=require&sslmode=disable", "options=-c%20x", "sslcert=a",
              "prepared_statement_cache_size=100", "ssl=true", "passfile=x"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=r"has (parameters|an sslmode)"):
        connection_arguments(f"{URL}?{query}")


def test_a_refusal_names_parameters_and_no_values() -> None:
    with pytest.raises(ValueError, match="passfile") as caught:
        connection_arguments(f"{URL}?passfile=S3cret")
    assert "S3cret" not in str(caught.value)
    assert "p@ss" not in str(caught.value)


def test_a_root_certificate_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="sslrootcert"):
        connection_arguments(f"{URL}?sslmode=verify-full&sslrootcert=no-such-file.pem")


def test_what_providers_write_into_ready_made_urls_does_no_harm() -> None:
    url, arguments = connection_arguments(f"{URL}?pgbouncer=true&connect_timeout=10&application_name=x&sslmode=require")
    assert not url.query
    assert set(arguments) == {
        "timeout", "command_timeout", "statement_cache_size", "prepared_statement_cache_size", "ssl",
    }  # fmt: skip


def test_a_socket_or_several_hosts_stay_in_the_url() -> None:
    url, _ = connection_arguments("postgresql:///mkwanja?host=/run/postgresql&port=5433")
    assert dict(url.query) == {"host": "/run/postgresql", "port": "5433"}


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
    wrapped(asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), exc.DBAPIError),
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
    # The driver refuses a value before Postgres sees it: a number out of range, half of a surrogate pair.
    wrapped(client_side.DataError("invalid input for query argument $1: 99999999999 (value out of int32 range)")),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", AWAY, ids=what)
def test_errors_that_say_postgres_is_away(error: BaseException) -> None:
    assert is_unavailable(error)
    assert not is_about_rows(error)


@pytest.mark.parametrize("error", ABOUT_ROWS, ids=what)
def test_errors_that_are_about_rows(error: BaseException) -> None:
    """Taken for an outage, one bad row would fail everybody in its batch, again and again."""
    assert not is_unavailable(error)
    assert is_about_rows(error)


def test_postgres_own_code_is_found() -> None:
    assert sqlstate(wrapped(asyncpg.UniqueViolationError("x"))) == "23505"
    assert sqlstate(wrapped(client_side.InterfaceError("x"))) is None
    assert sqlstate(ValueError()) is None
