"""Why PostgreSQL cannot be used, and what the operator can do.

Commands, `doctor`, `alembic upgrade head` and the logs of all processes use these words. No text
quotes a value of DATABASE_URL, or the text of an error, because it may contain a secret or a row.
"""

from __future__ import annotations

import math
import re
import ssl
import time

import asyncpg
import structlog

from domain.adapters.outages import Cause, classify_outage, explain_outage, links

log = structlog.get_logger()

_SETTING = "DATABASE_URL"
_LOGGED_AGAIN_SECONDS = 60.0
_MIGRATE = "Run `alembic upgrade head` with the owner's DATABASE_URL."

# The kinds of faults. Network outages have the kinds of `Outage`.
_CAUSES = {
    cause.kind: cause
    for cause in (
        Cause(
            "credentials",
            f"PostgreSQL refuses the user or the password in {_SETTING}",
            "Set both. PostgreSQL does not say which of them is wrong. Write special characters"
            " percent-encoded, for example %40 for @.",
        ),
        Cause(
            "role",
            f"PostgreSQL has no role of the name in {_SETTING} that may log in",
            "Set the right user, or create the role (docs/database-roles.md).",
        ),
        Cause(
            "database",
            f"PostgreSQL has no database of the name in {_SETTING}",
            "Set the right name after the host, or create the database. If the URL has no name, the"
            " user's name counts.",
        ),
        Cause(
            "pg_hba",
            f"PostgreSQL permits the user in {_SETTING} no connection from this machine",
            "Permit it in pg_hba.conf, or in your host's list of addresses.",
        ),
        Cause(
            "tls_needed",
            "PostgreSQL permits no connection without TLS from this machine",
            f"Set sslmode=require in {_SETTING}, or a stricter mode.",
        ),
        Cause(
            "tls_refused",
            f"the server has no TLS, which sslmode in {_SETTING} requires, or is not PostgreSQL",
            "Check host and port. Switch on TLS at the server. Use sslmode=disable only if the"
            " network is private.",
        ),
        Cause(
            "certificate",
            "the certificate of PostgreSQL cannot be verified",
            f"Set sslrootcert in {_SETTING} to the certificate of the authority that signed it, and"
            " the host to a name in the certificate.",
        ),
        Cause(
            "tls",
            f"TLS fails with the server at the host and port in {_SETTING}",
            "Check that the server is PostgreSQL, its versions of TLS, and sslcert and sslkey.",
        ),
        Cause(
            "method",
            "PostgreSQL requires a way to log in that this service does not have",
            "Let pg_hba.conf require scram-sha-256 for this user.",
        ),
        Cause(
            "starting",
            "PostgreSQL accepts no connection now, because it starts, stops or recovers",
            "Wait, and try again. If it stays so, read the log of PostgreSQL.",
        ),
        Cause(
            "ended",
            "PostgreSQL ended the connection, for example because it restarts",
            "Wait, and try again. If it stays so, read the log of PostgreSQL.",
        ),
        Cause(
            "connections",
            "PostgreSQL, or its pooler, has no connection left for us",
            "Lower DATABASE_POOL_SIZE or run fewer processes, or let the server permit more"
            " connections.",
        ),
        Cause(
            "full",
            "PostgreSQL has no disk space or no memory left",
            "Give it more. docs/runbook says what happens meanwhile.",
        ),
        Cause(
            "pooler",
            "the pooler cannot connect to PostgreSQL",
            "Check that PostgreSQL runs, and read the log of the pooler.",
        ),
        Cause(
            "tenant",
            f"the pooler of Supabase does not know the user in {_SETTING}",
            "Copy the URL from the dashboard (Connect). Its user is postgres.PROJECT_REF.",
        ),
        Cause(
            "standby",
            f"no host in {_SETTING} accepts writes",
            f"Name the primary in {_SETTING}. During a failover, wait.",
        ),
        Cause(
            "read_only",
            "PostgreSQL is read-only",
            "See docs/runbook, 'Postgres is read-only': a full disk, or a standby.",
        ),
        Cause(
            "schema",
            "the database lacks tables, columns or functions of this release",
            f"Check that {_SETTING} names the database of the service. {_MIGRATE}",
        ),
        Cause(
            "rights",
            f"the role in {_SETTING} lacks a right that this needs",
            f"{_MIGRATE} `python -m workers doctor` lists the rights that are missing.",
        ),
        Cause(
            "slow",
            "PostgreSQL did not finish in time",
            "Try again. If it stays so, look for long transactions and a busy server.",
        ),
    )
}

_KIND_BY_SQLSTATE = {
    "28P01": "credentials",
    "3D000": "database",
    "57P03": "starting",
    "57P": "ended",
    "53300": "connections",
    "53": "full",
    "25006": "read_only",
    "42501": "rights",
    "42": "schema",
    "3F": "schema",
    "57014": "slow",
    "25P0": "slow",
    "55P03": "slow",
}
# A pooler often gives all its errors one code, so only the text shows the cause. PostgreSQL
# translates its texts, so these patterns only add to the codes.
_KIND_BY_PATTERN = {
    r"no encryption|SSL off|(?:SSL|TLS)[a-z ]* required|requires? (?:SSL|TLS)": "tls_needed",
    r"pg_hba\.conf": "pg_hba",
    r"role .* does not exist|not permitted to log in|no such user": "role",
    r"[Tt]enant or user|no such tenant": "tenant",
    r"database .* does not exist|no such database": "database",
    r"(?i)max ?_?clients|too many (?:clients|connections)|no more connections": "connections",
    r"(?i)auth\w* failed": "credentials",
    r"server_?login|cannot connect|connect failed|query_wait_timeout": "pooler",
}
_WAITS = ("starting", "ended", "pooler", "standby")


def explain_error(error: BaseException) -> Cause:
    """Why PostgreSQL cannot be used, by the driver's error, or by ours, which it caused."""
    for link in links(error):
        if (kind := _classify(link)) is not None:
            return _CAUSES[kind]
    if (outage := classify_outage(error)) is not None:
        return explain_outage(outage, server="PostgreSQL", setting=_SETTING)
    return Cause(
        "other",
        f"PostgreSQL cannot be used ({_name(error)})",
        "Read the log of PostgreSQL, or of its pooler.",
    )


def _classify(error: BaseException) -> str | None:
    """The kind of fault that this one error shows."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "standby"
    text = str(error)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in text:
        return "tls_refused"
    if isinstance(error, asyncpg.InterfaceError) and "authentication" in text:
        return "method"
    state = getattr(error, "sqlstate", None)
    if not isinstance(error, asyncpg.PostgresError) or state is None:
        return None
    for length in (5, 4, 3, 2):
        if (kind := _KIND_BY_SQLSTATE.get(state[:length])) is not None:
            return kind
    for pattern, kind in _KIND_BY_PATTERN.items():
        if re.search(pattern, text):
            return kind
    return "ended" if state.startswith("08") and state != "08P01" else None


def _name(error: BaseException) -> str:
    """The last error that caused `error`, by its code or its class."""
    last = list(links(error))[-1]
    return getattr(last, "sqlstate", None) or type(last).__name__


class ConnectionLog:
    """Logs why a process gets no connection to PostgreSQL: each cause once a minute, and its end.

    A process starts even if PostgreSQL is away or refuses it, so the log must say why it waits.
    """

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}
        self._is_failing = False

    def record_failure(self, error: Exception) -> None:
        """Logs the cause of `error`, which ended an attempt to connect."""
        cause = explain_error(error)
        self._is_failing = True
        now = time.monotonic()
        if now - self._logged_at.get(cause.kind, -math.inf) < _LOGGED_AGAIN_SECONDS:
            return
        self._logged_at[cause.kind] = now
        is_away = cause.kind in _WAITS or classify_outage(error) is not None
        write, event = (
            (log.warning, "postgres_away") if is_away else (log.error, "postgres_refuses")
        )
        write(event, kind=cause.kind, problem=cause.problem, remedy=cause.remedy)

    def record_success(self) -> None:
        """Logs that PostgreSQL answers again."""
        if self._is_failing:
            self._is_failing = False
            log.info("postgres_answers")
