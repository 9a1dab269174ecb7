"""Redis refuses us, which is not the same as Redis being away: it does not pass by itself, and a
person can mend it.

Each kind of refusal is named once in the log, with what to do, and stays in a metric and in the
report of `/readyz` until what was refused works again. No text of an error is repeated anywhere: it
may quote a key, a value, or a user's name.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Iterator
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

from domain.adapters import observability

log = structlog.get_logger()


class Scope(StrEnum):
    """What a fault keeps from working, so that we know by which success it is over."""

    SERVER = "server"  # everything: any answer ends it
    WRITES = "writes"  # any write ends it
    USE = "use"  # only the same use of Redis ends it


@dataclass(frozen=True, slots=True)
class Explained:
    """A kind of fault for the person who mends it."""

    scope: Scope
    what: str
    remedy: str


class FaultKind(StrEnum):
    """How Redis can refuse us."""

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


EXPLAINED = {
    FaultKind.CREDENTIALS: Explained(
        Scope.SERVER,
        "Redis refuses the user or the password",
        "Set the right ones in REDIS_URL.",
    ),
    FaultKind.PERMISSION: Explained(
        Scope.USE,
        "the user of REDIS_URL may not use a command, a key or a channel that we need",
        "Allow it: docs/deployment.md lists the commands, keys and channels.",
    ),
    FaultKind.CERTIFICATE: Explained(
        Scope.SERVER,
        "the certificate of Redis cannot be verified",
        "Set REDIS_CA_FILE to the certificate of its signer, or REDIS_TLS_VERIFY=none.",
    ),
    FaultKind.PROTOCOL: Explained(
        Scope.SERVER,
        "what answers at REDIS_URL does not speak our protocol",
        "Check host and port, and write rediss:// if it expects TLS, redis:// if it does not.",
    ),
    FaultKind.DATABASE_NUMBER: Explained(
        Scope.SERVER,
        "Redis has no database of that number",
        "Set another number at the end of REDIS_URL; in cluster mode it is 0.",
    ),
    FaultKind.CLUSTER: Explained(
        Scope.USE,
        "Redis is a cluster whose keys are in another place: several shards, or a replica",
        "Use a Redis without cluster mode, or with one shard, and the address of its primary.",
    ),
    FaultKind.CLUSTER_DOWN: Explained(
        Scope.SERVER,
        "the cluster says that it is down",
        "Look at the cluster: its slots have no primary.",
    ),
    FaultKind.SENTINEL: Explained(
        Scope.SERVER,
        "no Sentinel knows a primary of the name in REDIS_URL",
        "Set the name that the Sentinels monitor: redis+sentinel://host:port,host:port/NAME/0.",
    ),
    FaultKind.READ_ONLY: Explained(
        Scope.WRITES,
        "Redis is a read-only replica",
        "Set REDIS_URL to the primary, or to the Sentinels that know it.",
    ),
    FaultKind.FULL: Explained(
        Scope.WRITES,
        "Redis is full (maxmemory with noeviction)",
        "Give it more memory, or remove what else is stored there. Payments go on, more slowly.",
    ),
    FaultKind.CANNOT_SAVE: Explained(
        Scope.WRITES,
        "Redis refuses writes because it cannot save, or has too few replicas",
        "Look at its disk and its replicas.",
    ),
    FaultKind.LOADING: Explained(
        Scope.SERVER,
        "Redis is loading its data, or waits for its primary",
        "Wait; if it stays, look at Redis.",
    ),
    FaultKind.BUSY: Explained(
        Scope.SERVER,
        "Redis is busy with a script that does not end",
        "Look at Redis: SCRIPT KILL ends the script.",
    ),
    FaultKind.CONNECTIONS: Explained(
        Scope.SERVER,
        "Redis has its maximum of clients",
        "Raise maxclients, or run fewer processes.",
    ),
    FaultKind.COMMAND: Explained(
        Scope.USE,
        "Redis does not know a command that we need",
        "Use Redis 7 or later, or Valkey, and have no command renamed.",
    ),
    FaultKind.OTHER: Explained(
        Scope.USE,
        "Redis refuses a command for a reason that we do not know",
        "Look at the log of Redis.",
    ),
}

# By the words with which Redis begins, or which it has in the middle where a script failed.
_BY_WORDS = {
    r"\b(?:MOVED|ASK|CROSSSLOT|TRYAGAIN)\b": FaultKind.CLUSTER,
    r"\bCLUSTERDOWN\b": FaultKind.CLUSTER_DOWN,
    r"\bNOPERM\b": FaultKind.PERMISSION,
    r"\b(?:WRONGPASS|NOAUTH)\b": FaultKind.CREDENTIALS,
    r"\bREADONLY\b": FaultKind.READ_ONLY,
    r"\bOOM\b": FaultKind.FULL,
    r"\b(?:MISCONF|NOREPLICAS)\b": FaultKind.CANNOT_SAVE,
    r"\b(?:LOADING|MASTERDOWN)\b": FaultKind.LOADING,
    r"\bBUSY\b": FaultKind.BUSY,
    r"max number of clients": FaultKind.CONNECTIONS,
    r"(?i:DB index|SELECT is not allowed|invalid database)": FaultKind.DATABASE_NUMBER,
    r"unknown (?:sub)?command": FaultKind.COMMAND,
}
_BY_CLASS: dict[type[BaseException], FaultKind] = {
    ssl.SSLCertVerificationError: FaultKind.CERTIFICATE,
    ssl.SSLError: FaultKind.PROTOCOL,
    InvalidResponse: FaultKind.PROTOCOL,
    AuthenticationError: FaultKind.CREDENTIALS,
    NoPermissionError: FaultKind.PERMISSION,
    ReadOnlyError: FaultKind.READ_ONLY,
    OutOfMemoryError: FaultKind.FULL,
    BusyLoadingError: FaultKind.LOADING,
}
# redis-py puts the command before the answer, with its values; those are not looked at.
_COMMAND_BEFORE = re.compile(r"\ACommand # .* caused error: ", re.DOTALL)
_LINKS_MAX = 10
_NAMED_AGAIN_SECONDS = 60.0


class PrimaryUnknown(RedisConnectionError):
    """The Sentinels answer, and know no primary of our name."""


class WrongProtocol(RedisConnectionError):
    """The server hangs up before its first answer, again and again; or it speaks, but without
    TLS.
    """


def fault_of(error: BaseException) -> FaultKind | None:
    """How Redis refused us, or None if it was away."""
    for link in _links(error):
        if isinstance(link, PrimaryUnknown):
            return FaultKind.SENTINEL
        if isinstance(link, WrongProtocol):
            return FaultKind.PROTOCOL
        for error_class, kind in _BY_CLASS.items():
            if isinstance(link, error_class):
                return kind
        if isinstance(link, (ResponseError, RedisConnectionError)):
            text = _COMMAND_BEFORE.sub("", str(link))
            for words, kind in _BY_WORDS.items():
                if re.search(words, text):
                    return kind
            if isinstance(link, ResponseError):
                return FaultKind.OTHER
    return None


def _links(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_LINKS_MAX):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


class Faults:
    """The faults that stand, for one client of Redis."""

    def __init__(self) -> None:
        self._open: dict[FaultKind, set[str]] = {}  # by kind: the uses that were refused
        self._named_at: dict[FaultKind | None, float] = {}  # None: that Redis is away
        self._told: set[FaultKind | None] = set()
        self._is_away: bool | None = None  # None: not known yet

    @property
    def kinds(self) -> list[FaultKind]:
        """Every kind that stands."""
        return sorted(self._open)

    @property
    def report(self) -> str:
        """What `/readyz` says of Redis: `ok`, `away`, or what it refuses."""
        if self._open:
            return "refuses: " + "; ".join(f"{kind}: {EXPLAINED[kind].what}" for kind in self.kinds)
        return "away" if self._is_away else "ok"

    def failed(self, use: str, error: BaseException) -> FaultKind | None:
        """Notes that `use` failed; returns the fault, or None if Redis is away."""
        kind = fault_of(error)
        if kind is None:
            self.gone(type(error).__name__)
            return None
        uses = self._open.setdefault(kind, set())
        if not uses:
            self._name(kind, use)
            observability.redis_fault.labels(kind=kind).set(1)
        uses.add(use)
        return kind

    def _name(self, kind: FaultKind, use: str) -> None:
        if self._is_news(kind):
            explained = EXPLAINED[kind]
            log.error(
                "redis_refuses", kind=kind, use=use, what=explained.what, remedy=explained.remedy
            )

    def _is_news(self, what: FaultKind | None) -> bool:
        """Whether to log it: what comes and goes is named once a minute, and its end with it."""
        now = time.monotonic()
        if now - self._named_at.get(what, -math.inf) < _NAMED_AGAIN_SECONDS:
            return False
        self._named_at[what] = now
        self._told.add(what)
        return True

    def _is_over(self, what: FaultKind | None) -> bool:
        """Whether to log its end."""
        was_told = what in self._told
        self._told.discard(what)
        return was_told

    def gone(self, error: str) -> None:
        """Notes that Redis does not answer at all."""
        if not self._is_away and not self._open and self._is_news(None):
            log.warning("redis_away", error=error)
        self._is_away = True
        observability.queue_available.set(0)

    def answered(self, use: str, *, writes: bool) -> None:
        """Notes that `use` worked, and which faults are over by that."""
        if self._is_away is not False:
            if self._is_over(None):
                log.info("redis_answers")
            self._is_away = False
            observability.queue_available.set(1)
        for kind in self.kinds:
            uses = self._open[kind]
            match EXPLAINED[kind].scope:
                case Scope.SERVER:
                    uses.clear()
                case Scope.WRITES if writes:
                    uses.clear()
                case _:
                    uses.discard(use)
            if not uses:
                del self._open[kind]
                if self._is_over(kind):
                    log.info("redis_refuses_no_more", kind=kind)
                observability.redis_fault.labels(kind=kind).set(0)
