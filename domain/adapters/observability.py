"""Logs and metrics, the same in all processes: one JSON object a line, events by name, no phone
number and no secret.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping, Sequence
from types import TracebackType
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, generate_latest

from domain.adapters.masking import Masking, redact_exception

accepted = Counter("mkwanja_payments_accepted_total", "Payments accepted", ["kind"])
replayed = Counter("mkwanja_replays_total", "Answers given again under a used idempotency key")
refused = Counter("mkwanja_requests_refused_total", "Requests refused, by problem code", ["code"])
callbacks_stored = Counter(
    "mkwanja_callbacks_stored_total", "Callbacks stored, by what they led to", ["disposition"]
)
callbacks_repeated = Counter(
    "mkwanja_callbacks_repeated_total",
    "Callbacks of which enough copies, byte for byte, were on record already",
)
callbacks_refused = Counter(
    "mkwanja_callbacks_refused_total", "Callback requests turned away", ["reason"]
)
submissions = Counter(
    "mkwanja_submissions_total", "Answers to submissions, by meaning", ["meaning"]
)
throttled = Counter("mkwanja_throttled_total", "Times that Daraja said it was asked too often")
inquiries = Counter(
    "mkwanja_inquiries_total",
    "Inquiries, by how they were asked and what was answered",
    ["api", "verdict"],
)
callbacks_awaiting_confirmation = Counter(
    "mkwanja_callbacks_awaiting_confirmation_total",
    "Successes told by a callback that Daraja was asked to confirm",
)
payments_of_former_accounts = Gauge(
    "mkwanja_payments_of_former_accounts",
    "Open payments sent by an account that this worker is not configured for",
)
sweeps = Counter("mkwanja_swept_total", "Payments given a step by the sweeper", ["step"])
limited = Counter(
    "mkwanja_requests_limited_total", "Requests refused for a limit, by the limit's name", ["limit"]
)
shed = Counter(
    "mkwanja_requests_shed_total", "Requests and connections turned away, by why", ["reason"]
)
key_set_age_seconds = Gauge(
    "mkwanja_key_set_age_seconds", "Since the key set was last fetched; -1: there is none"
)
key_set_age_seconds.set(-1)  # where no process ever fetches one, too
key_set_fetches = Counter(
    "mkwanja_key_set_fetches_total", "Fetches of the key set, by result", ["result"]
)
queue_available = Gauge("mkwanja_redis_available", "1 while Redis answers this process")
redis_fault = Gauge(
    "mkwanja_redis_fault", "1 while Redis answers and refuses us, by what it says", ["kind"]
)

# Read from Postgres when somebody looks: the same from every process, and there when no worker is.
brake_engaged = Gauge(
    "mkwanja_brake_engaged",
    "1 while this brake is engaged: payouts are stopped, or an operation is held",
    ["name"],
)
open_payments = Gauge(
    "mkwanja_open_payments", "Payments with a step ahead of them, by stage", ["stage"]
)
overdue_seconds = Gauge(
    "mkwanja_overdue_seconds", "For how long the oldest due step of each kind waits", ["step"]
)
needing_review = Gauge("mkwanja_payments_needing_review", "Payments that a person should look at")
unpublished = Gauge(
    "mkwanja_events_unpublished", "Payments with an event that was not published yet"
)


def metrics_text() -> tuple[bytes, str]:
    """The body and content type of /metrics."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def set_up_logging(level: str, *, process: str, secrets: Sequence[str] = ()) -> None:
    """Logs of ours and of the libraries to standard output, masked. Libraries speak only from
    WARNING on.

    Also what Python itself would print: warnings, and errors that nobody caught. `secrets` are the
    process's own.
    """

    def add_process_name(
        _logger: Any, _name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["process"] = process  # not by a context variable: a thread has its own
        return event

    structlog.configure(
        processors=[
            add_process_name,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact_exception,
            Masking(secrets),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        handlers=[LibraryLogs()], level=max(logging.WARNING, logging.getLevelNamesMapping()[level])
    )
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_fatal_error
    sys.unraisablehook = lambda lost: _log_error(lost.exc_value, "error_ignored")
    threading.excepthook = lambda lost: _log_error(lost.exc_value, "thread_failed")


def _log_error(error: BaseException | None, event: str) -> None:
    structlog.get_logger().error(event, exc_info=error)


def _log_fatal_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python would print of an error that ends the process, with the values in it."""
    if issubclass(kind, Exception):
        _log_error(error, "process_failed")
    else:
        sys.__excepthook__(kind, error, trace)


class LibraryLogs(logging.Handler):
    """Library logs in our form.

    What they say of a peer's faults is a warning, and repeats nothing that the peer sent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # Its text quotes the request line, which holds a token, or a header, which may hold
            # another.
            structlog.get_logger().warning("bad_http", error=type(error).__name__)
            return
        # Only what happened: below it asyncio and others write the objects that it happened to,
        # with all their values.
        text = record.getMessage().partition("\n")[0]
        fields: dict[str, Any] = {"logger": record.name, "text": text}
        is_expected = record.name.startswith(
            "sqlalchemy.pool"
        )  # a connection that was lost cannot be closed well
        if error is not None and not is_expected:
            fields["exc_info"] = record.exc_info
        structlog.get_logger().log(
            logging.WARNING if is_expected else record.levelno, "library", **fields
        )
