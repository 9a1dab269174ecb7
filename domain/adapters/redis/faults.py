"""Faults: Redis answers, but refuses. Unlike an outage, a fault needs an operator to repair it.

Each kind of fault is logged once, with the remedy, and stays in a metric and in the report of
`/readyz` until the refused use works again. We never repeat the text of an error, because it may
quote a key, a value or a user name.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum

import structlog
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from domain.adapters import observability
from domain.adapters.outages import Cause, Outage, classify_outage, explain_outage, links

log = structlog.get_logger()


class Scope(StrEnum):
    """What a fault blocks. The scope decides which success proves that the fault is over."""

    SERVER = "server"  # blocks every use: any answer ends the fault
    WRITES = "writes"  # blocks all writes: any write ends the fault
    USE = "use"  # blocks one use of Redis: only a success of the same use ends the fault


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a kind of fault means, and what the operator can do."""

    scope: Scope
    problem: str
    remedy: str


class FaultKind(StrEnum):
    """The kinds of faults."""

    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    CERTIFICATE = "certificate"
    PROTOCOL = "protocol"
    DATABASE_NUMBER = "database_number"
    CLUSTER = "cluster"
    CLUSTER_DOWN = "cluster_down"
    SENTINEL = "sentinel"
    READ_ONLY = "read_only"
    FULL = "full"
    CANNOT_SAVE = "cannot_save"
    LOADING = "loading"
    BUSY = "busy"
    CONNECTIONS = "connections"
    COMMAND = "command"
    OTHER = "other"


EXPLANATIONS = {
    FaultKind.CREDENTIALS: Explanation(
        Scope.SERVER,
        "Redis refuses the user or the password in REDIS_URL",
        "Set the right user and password in REDIS_URL.",
    ),
    FaultKind.PERMISSION: Explanation(
        Scope.USE,
        "the user of REDIS_URL may not use a command, a key or a channel that we need",
        "Give the user the rights in docs/deployment/redis.md, section 'Rights of the user'.",
    ),
    FaultKind.CERTIFICATE: Explanation(
        Scope.SERVER,
        "the certificate of Redis cannot be verified",
        "Set REDIS_CA_FILE to the certificate of the authority that signed it, or set "
        "REDIS_TLS_VERIFY=none.",
    ),
    FaultKind.PROTOCOL: Explanation(
        Scope.SERVER,
        "the server at REDIS_URL does not answer as Redis, or one side expects TLS",
        "Check host and port in REDIS_URL. Use rediss:// if the server expects TLS, else redis://.",
    ),
    FaultKind.DATABASE_NUMBER: Explanation(
        Scope.SERVER,
        "Redis has no database with the number in REDIS_URL",
        "Set another number at the end of REDIS_URL. In cluster mode use 0.",
    ),
    FaultKind.CLUSTER: Explanation(
        Scope.USE,
        "Redis is a cluster, and our keys are on another server: several shards, or a replica",
        "Use a Redis without cluster mode or with one shard. Set REDIS_URL to its primary.",
    ),
    FaultKind.CLUSTER_DOWN: Explanation(
        Scope.SERVER,
        "the Redis cluster is down",
        "Repair the cluster: some of its slots have no primary.",
    ),
    FaultKind.SENTINEL: Explanation(
        Scope.SERVER,
        "no Sentinel knows a primary with the name in REDIS_URL",
        "Set REDIS_URL to redis+sentinel://host:port,host:port/NAME/0 with the name that the "
        "Sentinels monitor.",
    ),
    FaultKind.READ_ONLY: Explanation(
        Scope.WRITES,
        "Redis is a read-only replica",
        "Set REDIS_URL to the primary, or to its Sentinels.",
    ),
    FaultKind.FULL: Explanation(
        Scope.WRITES,
        "Redis is full (maxmemory with noeviction)",
        "Give Redis more memory, or remove other applications' keys. Payments continue, slower.",
    ),
    FaultKind.CANNOT_SAVE: Explanation(
        Scope.WRITES,
        "Redis refuses writes because it cannot save to disk, or has too few replicas",
        "Check the disk and the replicas of Redis.",
    ),
    FaultKind.LOADING: Explanation(
        Scope.SERVER,
        "Redis loads its data, or waits for its primary",
        "Wait. If the problem stays, read the log of Redis.",
    ),
    FaultKind.BUSY: Explanation(
        Scope.SERVER,
        "Redis runs a script that does not end",
        "Send SCRIPT KILL to Redis.",
    ),
    FaultKind.CONNECTIONS: Explanation(
        Scope.SERVER,
        "Redis has reached its maximum of clients",
        "Raise maxclients of Redis, or run fewer processes.",
    ),
    FaultKind.COMMAND: Explanation(
        Scope.USE,
        "Redis does not know a command that we need",
        "Use Redis 7 or later, or Valkey, without renamed commands.",
    ),
    FaultKind.OTHER: Explanation(
        Scope.USE,
        "Redis refuses a command for a reason that we do not know",
        "Read the log of Redis.",
    ),
}

# The words are at the start of the answer, or in the middle of it if a script failed.
_KIND_BY_PATTERN = {
    r"\b(?:MOVED|ASK|CROSSSLOT|TRYAGAIN)\b": FaultKind.CLUSTER,
    r"\bCLUSTERDOWN\b": FaultKind.CLUSTER_DOWN,
    r"\bNOPERM\b|^ACL failure": FaultKind.PERMISSION,
    r"\b(?:WRONGPASS|NOAUTH)\b": FaultKind.CREDENTIALS,
    # UNBLOCKED: a command was waiting for a key when this server became a replica.
    r"\b(?:READONLY|UNBLOCKED)\b": FaultKind.READ_ONLY,
    r"\bOOM\b": FaultKind.FULL,
    r"\b(?:MISCONF|NOREPLICAS)\b": FaultKind.CANNOT_SAVE,
    r"\b(?:LOADING|MASTERDOWN)\b": FaultKind.LOADING,
    r"\bBUSY\b": FaultKind.BUSY,
    r"max number of clients": FaultKind.CONNECTIONS,
    r"(?i:DB index|SELECT is not allowed|invalid database)": FaultKind.DATABASE_NUMBER,
    r"unknown (?:sub)?command": FaultKind.COMMAND,
}
_KIND_BY_CLASS: dict[type[BaseException], FaultKind] = {
    ssl.SSLCertVerificationError: FaultKind.CERTIFICATE,
    ssl.SSLError: FaultKind.PROTOCOL,
    InvalidResponse: FaultKind.PROTOCOL,
    AuthenticationError: FaultKind.CREDENTIALS,
    NoPermissionError: FaultKind.PERMISSION,
    ReadOnlyError: FaultKind.READ_ONLY,
    OutOfMemoryError: FaultKind.FULL,
    BusyLoadingError: FaultKind.LOADING,
}
# redis-py writes the command and its values before the answer. We do not search in these.
_COMMAND_PREFIX = re.compile(r"\ACommand # .* caused error: ", re.DOTALL)
_LOGGED_AGAIN_SECONDS = 60.0


class PrimaryUnknown(RedisConnectionError):
    """The Sentinels answer, but know no primary with our name."""


class WrongProtocol(RedisConnectionError):
    """The server closes each connection before its first answer, or it answers only without TLS."""


def classify_error(error: BaseException) -> FaultKind | None:
    """Returns the kind of fault, or None if Redis did not answer."""
    for link in links(error):
        if isinstance(link, PrimaryUnknown):
            return FaultKind.SENTINEL
        if isinstance(link, WrongProtocol):
            return FaultKind.PROTOCOL
        for error_class, kind in _KIND_BY_CLASS.items():
            if isinstance(link, error_class):
                return kind
        if isinstance(link, (ResponseError, RedisConnectionError)):
            text = _COMMAND_PREFIX.sub("", str(link))
            for pattern, kind in _KIND_BY_PATTERN.items():
                if re.search(pattern, text):
                    return kind
            if isinstance(link, ResponseError):
                return FaultKind.OTHER
    return None


def explain_error(error: BaseException) -> Cause:
    """Why Redis cannot be used, and what the operator can do."""
    kind = classify_error(error)
    if kind is not None:
        return Cause(kind, EXPLANATIONS[kind].problem, EXPLANATIONS[kind].remedy)
    outage = classify_outage(error)
    if outage is None:
        is_slow = any(isinstance(link, RedisTimeoutError) for link in links(error))
        outage = Outage.TIMEOUT if is_slow else Outage.CLOSED
    return explain_outage(outage, server="Redis", setting="REDIS_URL")


class Faults:
    """The present faults of one client of Redis."""

    def __init__(self) -> None:
        self._refused_uses: dict[FaultKind, set[str]] = {}
        # In `_logged_at` and `_logged`, None stands for an outage: Redis does not answer.
        self._logged_at: dict[FaultKind | None, float] = {}
        self._logged: set[FaultKind | None] = set()
        self._is_away: bool | None = None  # None: not known yet

    @property
    def kinds(self) -> list[FaultKind]:
        """Every kind of fault that is present now."""
        return sorted(self._refused_uses)

    @property
    def report(self) -> str:
        """The state of Redis for `/readyz`: `ok`, `away`, or the present faults."""
        if self._refused_uses:
            return "refuses: " + "; ".join(
                f"{kind}: {EXPLANATIONS[kind].problem}" for kind in self.kinds
            )
        return "away" if self._is_away else "ok"

    def record_failure(self, use: str, error: BaseException) -> FaultKind | None:
        """Records that `use` failed. Returns the kind of fault, or None if Redis is away."""
        kind = classify_error(error)
        if kind is None:
            self.record_outage(error)
            return None
        uses = self._refused_uses.setdefault(kind, set())
        if not uses:
            self._log_fault(kind, use)
            observability.redis_fault.labels(kind=kind).set(1)
        uses.add(use)
        return kind

    def _log_fault(self, kind: FaultKind, use: str) -> None:
        if self._may_log_start(kind):
            explanation = EXPLANATIONS[kind]
            log.error(
                "redis_refuses",
                kind=kind,
                use=use,
                problem=explanation.problem,
                remedy=explanation.remedy,
            )

    def _may_log_start(self, kind: FaultKind | None) -> bool:
        """Returns whether to log the start of a fault, or of an outage if `kind` is None.

        If a fault comes and goes, its start and its end are logged at most once a minute.
        """
        now = time.monotonic()
        if now - self._logged_at.get(kind, -math.inf) < _LOGGED_AGAIN_SECONDS:
            return False
        self._logged_at[kind] = now
        self._logged.add(kind)
        return True

    def _may_log_end(self, kind: FaultKind | None) -> bool:
        """Returns whether to log the end: only if the start was logged."""
        was_logged = kind in self._logged
        self._logged.discard(kind)
        return was_logged

    def record_outage(self, error: BaseException) -> None:
        """Records that Redis does not answer at all."""
        if not self._is_away and not self._refused_uses and self._may_log_start(None):
            cause = explain_error(error)
            log.warning(
                "redis_away",
                error=type(error).__name__,
                problem=cause.problem,
                remedy=cause.remedy,
            )
        self._is_away = True
        observability.queue_available.set(0)

    def record_success(self, use: str, *, is_write: bool) -> None:
        """Records that `use` succeeded, and ends the faults that this success disproves.

        `is_write` is true if the use wrote to Redis.
        """
        if self._is_away is not False:
            if self._may_log_end(None):
                log.info("redis_answers")
            self._is_away = False
            observability.queue_available.set(1)
        for kind in self.kinds:
            uses = self._refused_uses[kind]
            match EXPLANATIONS[kind].scope:
                case Scope.SERVER:
                    uses.clear()
                case Scope.WRITES if is_write:
                    uses.clear()
                case _:
                    uses.discard(use)
            if not uses:
                del self._refused_uses[kind]
                if self._may_log_end(kind):
                    log.info("redis_refuses_no_more", kind=kind)
                observability.redis_fault.labels(kind=kind).set(0)
