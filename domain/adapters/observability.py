"""Logs and metrics of all processes.

Each log line is a JSON object with a named event, and has no phone number and no secret.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, Metric, generate_latest
from prometheus_client.registry import Collector

from domain.adapters.counting import NUMBERS, Counter, Histogram, WorstGauge
from domain.adapters.masking import Masking, redact_exception
from domain.changes import Disposition

UNKNOWN_ROUTE = "unknown"

requests = Counter(
    "mkwanja_requests_total", "Requests answered, by route", ["route", "method", "status"]
)
request_seconds = Histogram(
    "mkwanja_request_duration_seconds",
    "Seconds from the head of a request to the end of its answer",
    ["route", "method"],
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
accepted = Counter("mkwanja_payments_accepted_total", "Payments accepted", ["kind"])
replayed = Counter(
    "mkwanja_replays_total", "Requests with a used idempotency key that got the stored answer"
)
refused = Counter("mkwanja_requests_refused_total", "Requests refused, by problem code", ["code"])
callbacks_stored = Counter(
    "mkwanja_callbacks_stored_total",
    "Callbacks stored, by disposition",
    ["disposition"],
    from_start=[(disposition.value,) for disposition in Disposition],
)
callbacks_repeated = Counter(
    "mkwanja_callbacks_repeated_total",
    "Callbacks not stored again, because enough identical copies are stored",
)
callbacks_refused = Counter(
    "mkwanja_callbacks_refused_total",
    "Callback requests refused, by reason",
    ["reason"],
    from_start=[("not_stored",), ("source",)],
)
submissions = Counter("mkwanja_submissions_total", "Submissions to Daraja, by outcome", ["outcome"])
throttled = Counter("mkwanja_throttled_total", "Requests that Daraja's rate limiter refused")
daraja_requests = Counter(
    "mkwanja_daraja_requests_total",
    "Requests to Daraja, each try counted, by operation and outcome of the answer",
    ["operation", "outcome"],
)
daraja_request_seconds = Histogram(
    "mkwanja_daraja_request_duration_seconds",
    "Seconds from a request to Daraja to its answer, or to the error",
    ["operation"],
    bounds=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0),
)
turns = Counter(
    "mkwanja_limiter_turns_total",
    "Requests to Daraja that the rate of all workers let pass (granted) or made wait (refused)",
    ["class", "result"],
)
turn_wait_seconds = Counter(
    "mkwanja_limiter_wait_seconds_total",
    "Seconds for which the rate of all workers made requests to Daraja wait",
    ["class"],
)
inquiries = Counter(
    "mkwanja_inquiries_total",
    "Inquiries, by API and by the outcome of the answer",
    ["api", "outcome"],
)
callbacks_awaiting_confirmation = Counter(
    "mkwanja_callbacks_awaiting_confirmation_total",
    "Successes reported by a callback that an inquiry has to confirm",
)
payments_of_former_accounts = Gauge(
    "mkwanja_payments_of_former_accounts",
    "Open payments sent by an account that this worker is not configured for",
)
partitions_missing = Gauge(
    "mkwanja_partitions_missing",
    "Months that need a partition and have none; their rows go to the default partition",
    ["table"],
)
partition_other_rows = Gauge(
    "mkwanja_partition_other_rows", "1 while the default partition of a table has rows", ["table"]
)
partition_kept = Gauge(
    "mkwanja_partition_kept",
    "1 while a partition is kept although its retention is over, by reason",
    ["table", "reason"],
)
keys_deleted = Counter("mkwanja_keys_deleted_total", "Idempotency keys deleted long after expiry")
sweeps = Counter(
    "mkwanja_swept_total", "Payments that got their next step from the sweeper, by step", ["step"]
)
limited = Counter(
    "mkwanja_requests_limited_total",
    "Requests refused because of a limit, by the limit's name",
    ["limit"],
)
shed = Counter(
    "mkwanja_requests_shed_total",
    "Requests and connections refused under load, by reason",
    ["reason"],
)
waiting_requests = WorstGauge(
    "mkwanja_waiting_requests",
    "Requests that wait now: for a final payment (payment), or for events (stream)",
    ["what"],
    choose=math.fsum,
)
streams_ended = Counter(
    "mkwanja_streams_ended_total", "Streams of events that the service ended, by reason", ["reason"]
)
key_set_loaded_at = WorstGauge(
    "mkwanja_key_set_age_seconds",
    "Seconds since the key set was last fetched; -1 if there is none",
    choose=lambda _: -1.0,  # also the value of a process that never fetches a key set
)
key_set_fetches = Counter(
    "mkwanja_key_set_fetches_total", "Fetches of the key set, by result", ["result"]
)
queue_available = WorstGauge(
    "mkwanja_redis_available", "1 while Redis answers the processes", choose=min
)
redis_fault = WorstGauge(
    "mkwanja_redis_fault",
    "1 while Redis answers but refuses our commands, by kind of fault",
    ["kind"],
    choose=max,
)
processes_died = Counter(
    "mkwanja_processes_died_total", "Web processes that died and were replaced (WEB_CONCURRENCY)"
)

webhook_attempts = Counter(
    "mkwanja_webhook_attempts_total", "Webhooks sent, by the outcome of the attempt", ["outcome"]
)

webhook_deliveries_deleted = Counter(
    "mkwanja_webhook_deliveries_deleted_total", "Deliveries of webhooks whose retention was over"
)
webhook_keys_unreadable = Counter(
    "mkwanja_webhook_keys_unreadable_total",
    "How often a worker could not read an endpoint's key, and sent nothing",
)

# A request for /metrics reads these gauges from Postgres. So every process shows the same values,
# even if no worker runs.
brake_engaged = Gauge(
    "mkwanja_brake_engaged",
    "1 while this brake is engaged: payouts are stopped, or an operation is held",
    ["name"],
)
open_payments = Gauge("mkwanja_open_payments", "Payments with a next step, by stage", ["stage"])
overdue_seconds = Gauge(
    "mkwanja_overdue_seconds", "Seconds that the oldest due step of each kind has waited", ["step"]
)
needing_review = Gauge("mkwanja_payments_needing_review", "Payments that a person should review")
unpublished = Gauge("mkwanja_events_unpublished", "Events that are not yet published")
webhook_lag_seconds = Gauge(
    "mkwanja_webhook_lag_seconds",
    "Seconds that the oldest webhook whose time has come has waited for a worker; 0 if none",
)
event_lag_seconds = Gauge(
    "mkwanja_event_lag_seconds", "Seconds that the oldest unpublished event has waited; 0 if none"
)
paused_endpoints = Gauge(
    "mkwanja_webhook_endpoints_paused",
    "Endpoints of backends that get no webhooks, because they failed for days",
)


# prometheus_client writes the text of a registry, or of a part of it.
class _OurMetrics(Collector):
    def collect(self) -> Iterator[Metric]:
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("mkwanja_"))


def share_among_processes(count: int) -> None:
    """Lets `count` processes, forked after this call, add up their metrics."""
    NUMBERS.share_among(count)


def use_slot(number: int) -> None:
    """Says which of the processes this is, from 1. A process that replaces another has its number.

    A forked process calls this once, before it counts anything.
    """
    NUMBERS.use_slot(number)


def metrics_text(*, only_ours: bool = False) -> tuple[bytes, str]:
    """Return the body and the content type of /metrics.

    `only_ours`: leave out the library's own metrics of one process, such as its memory, because
    another process answers the next scrape.
    """
    return generate_latest(_OurMetrics() if only_ours else REGISTRY), CONTENT_TYPE_LATEST


# Caches of the series of one event, so that it looks up one key and not two sets of labels. Their
# keys are lists of ours, so they stay small.
_Inc = Callable[[], None]
_Add = Callable[[float], None]


@cache
def _series_of_answer(route: str, method: str, status: int) -> tuple[_Inc, _Add]:
    return (
        requests.labels(route=route, method=method, status=status).inc,
        request_seconds.labels(route=route, method=method).observe,
    )


@cache
def _series_of_daraja_request(operation: str, outcome: str) -> tuple[_Inc, _Add]:
    return (
        daraja_requests.labels(operation=operation, outcome=outcome).inc,
        daraja_request_seconds.labels(operation=operation).observe,
    )


@cache
def _series_of_turn(request_class: str, result: str) -> tuple[_Inc, _Add]:
    return (
        turns.labels(**{"class": request_class, "result": result}).inc,
        turn_wait_seconds.labels(**{"class": request_class}).inc,
    )


def count_request(route: str, method: str, status: int, seconds: float | None) -> None:
    """Counts an answered request. `route`: its pattern, or `UNKNOWN_ROUTE`.

    `seconds` is None for a request that waited on purpose, because its time says nothing.
    """
    # The method of an unknown route is any text that a client chose, so it makes no series.
    method = method if route != UNKNOWN_ROUTE else "any"
    count, observe = _series_of_answer(route, method, status)
    count()
    if seconds is not None:
        observe(seconds)


def count_daraja_request(operation: str, outcome: str, seconds: float) -> None:
    """Counts a request to Daraja. `outcome` must come from a list of ours, and not from Daraja."""
    count, observe = _series_of_daraja_request(operation, outcome)
    count()
    observe(seconds)


def count_turn(request_class: str, wait_seconds: float) -> None:
    """Counts a request's turn under the shared rate: granted if it need not wait."""
    count, add_seconds = _series_of_turn(
        request_class, "refused" if wait_seconds > 0 else "granted"
    )
    count()
    add_seconds(wait_seconds)


def key_set_age(now: Callable[[], float]) -> Callable[[Sequence[float]], float]:
    """Computes the metric from the times at which the processes loaded their sets; 0 is never."""

    def age(loaded_at: Sequence[float]) -> float:
        return now() - min(loaded_at) if all(loaded_at) else -1.0

    return age


def set_up_logging(
    level: str, *, process: str, secrets: Sequence[str] = (), to: TextIO | None = None
) -> None:
    """Write our logs and the libraries' logs to standard output, or to `to`, masked.

    Libraries log from WARNING on. Python's own warnings and uncaught exceptions are logged too.
    `secrets` are those of this process.
    """

    def add_process_name(
        _logger: Any, _name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["process"] = process  # a context variable would be missing in other threads
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
        logger_factory=structlog.PrintLoggerFactory(file=to or sys.stdout),
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
    """Log an exception that ends the process, without the values that Python would print."""
    if issubclass(kind, Exception):
        _log_error(error, "process_failed")
    else:
        sys.__excepthook__(kind, error, trace)


class LibraryLogs(logging.Handler):
    """Writes the logs of libraries in our format.

    A fault of a peer is logged as a warning, without anything that the peer sent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # The error's message quotes the request line or a header. Both may contain a token.
            structlog.get_logger().warning("bad_http", error=type(error).__name__)
            return
        # Only the first line is logged. In the next lines asyncio and others print objects with all
        # their values.
        text = record.getMessage().partition("\n")[0]
        fields: dict[str, Any] = {"logger": record.name, "text": text}
        # SQLAlchemy's pool logs an error if it cannot close a lost connection properly.
        is_expected = record.name.startswith("sqlalchemy.pool")
        if error is not None and not is_expected:
            fields["exc_info"] = record.exc_info
        structlog.get_logger().log(
            logging.WARNING if is_expected else record.levelno, "library", **fields
        )
