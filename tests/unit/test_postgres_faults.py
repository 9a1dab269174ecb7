"""Each reason why PostgreSQL cannot be used has one explanation, and no explanation quotes it."""

from __future__ import annotations

import socket
import ssl

import asyncpg
from structlog.testing import capture_logs

from domain.adapters.postgres.faults import ConnectionLog, explain_error
from domain.errors import StoreUnavailable
from tests.case_tables import for_each


def said(sqlstate: str, text: str) -> Exception:
    """The driver's error for what the server said."""
    error: Exception = asyncpg.PostgresError.new({"C": sqlstate, "M": text, "S": "FATAL"})
    return error


def caused(cause: BaseException) -> Exception:
    error = StoreUnavailable()
    error.__cause__ = cause
    return error


_NO_ENTRY = 'no pg_hba.conf entry for host "10.0.0.9", user "s3cr3t", database "s3cr3t"'
_SEVERAL = "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] C"

CASES: list[tuple[str, Exception]] = [
    ("credentials", said("28P01", 'password authentication failed for user "s3cr3t"')),
    ("credentials", said("08P01", "SASL authentication failed")),
    ("role", said("28000", 'role "s3cr3t" does not exist')),
    ("role", said("28000", 'role "s3cr3t" is not permitted to log in')),
    ("database", said("3D000", 'database "s3cr3t" does not exist')),
    ("database", said("08P01", "no such database: s3cr3t")),
    ("database", said("08P01", 'database "s3cr3t" does not exist')),  # PgBouncer
    ("pg_hba", said("28000", f"{_NO_ENTRY}, SSL encryption")),
    ("tls_needed", said("28000", f"{_NO_ENTRY}, no encryption")),
    ("tls_needed", said("08P01", "SSL required")),
    ("tls_refused", ConnectionError('PostgreSQL server at "s3cr3t" rejected SSL upgrade')),
    ("certificate", ssl.SSLCertVerificationError(1, "self-signed certificate")),
    ("tls", ssl.SSLError(1, "TLSV1_ALERT_PROTOCOL_VERSION")),
    ("method", asyncpg.InterfaceError("unsupported authentication method requested")),
    ("starting", said("57P03", "the database system is starting up")),
    ("ended", said("57P01", "terminating connection due to administrator command")),
    ("ended", said("08006", "connection failure")),
    ("connections", said("53300", "sorry, too many clients already")),
    ("connections", said("XX000", "MaxClientsInSessionMode: max clients reached")),
    ("full", said("53100", "could not extend file")),
    ("pooler", said("08P01", "server_login_retry: server login has been failing")),
    ("pooler", said("08P01", "query_wait_timeout")),
    ("tenant", said("XX000", "Tenant or user not found")),
    ("standby", asyncpg.TargetServerAttributeNotMatched("none of the hosts match")),
    ("read_only", said("25006", "cannot execute UPDATE in a read-only transaction")),
    ("schema", said("42P01", 'relation "mkwanja.payments" does not exist')),
    ("schema", said("3F000", 'schema "mkwanja" does not exist')),
    ("rights", said("42501", "permission denied for schema mkwanja")),
    ("slow", said("57014", "canceling statement due to statement timeout")),
    ("other", said("58000", "s3cr3t")),
    ("other", ValueError("s3cr3t")),
    ("name", socket.gaierror(-2, "Name or service not known")),
    ("not_listening", ConnectionRefusedError(111, "Connect call failed ('s3cr3t', 1)")),
    ("not_listening", OSError(_SEVERAL)),
    ("no_route", OSError(113, "No route to host")),
    ("no_route", OSError(101, "Network is unreachable")),
    ("timeout", TimeoutError()),
    ("socket_file", FileNotFoundError(2, "No such file or directory")),
    ("closed", ConnectionResetError(104, "Connection reset by peer")),
    ("closed", ConnectionError("unexpected connection_lost() call")),
]


@for_each(("kind", "error"), CASES, ids=[f"{kind} {error}"[:60] for kind, error in CASES])
def test_each_error_of_a_connection_has_one_cause(kind: str, error: Exception) -> None:
    cause = explain_error(caused(error))
    assert cause.kind == kind
    assert cause.problem[0] != cause.problem[-1] != "."
    assert cause.remedy.endswith(".")
    assert "s3cr3t" not in cause.text


def test_no_two_causes_have_the_same_words() -> None:
    texts = {explain_error(error).text: kind for kind, error in CASES if kind != "other"}
    assert sorted(texts.values()) == sorted({kind for kind, _ in CASES} - {"other"})


def test_each_cause_is_logged_once_until_postgres_answers() -> None:
    """A fault that needs a person is an error. An outage is a warning, because it may pass."""
    connection_log = ConnectionLog()
    with capture_logs() as logs:
        for _ in range(3):
            connection_log.record_failure(said("28P01", "password authentication failed"))
            connection_log.record_failure(said("57P03", "the database system is starting up"))
            connection_log.record_failure(TimeoutError())
        connection_log.record_success()
        connection_log.record_success()
    assert [(line["log_level"], line["event"], line.get("kind")) for line in logs] == [
        ("error", "postgres_refuses", "credentials"),
        ("warning", "postgres_away", "starting"),
        ("warning", "postgres_away", "timeout"),
        ("info", "postgres_answers", None),
    ]
    assert all(line["problem"] and line["remedy"] for line in logs[:3])
