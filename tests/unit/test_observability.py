"""What a library says in the log."""

from __future__ import annotations

import logging

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine

from domain.adapters.observability import LibraryLogs


def logged(record: logging.LogRecord) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as events:
        LibraryLogs().emit(record)
    return [dict(event) for event in events]


def record_of(logger: str, error: Exception) -> logging.LogRecord:
    return logging.LogRecord(logger, logging.ERROR, __file__, 1, "it broke", (), (type(error), error, None))


def test_a_request_that_is_no_http_is_a_warning_that_repeats_nothing_of_it() -> None:
    """Its text quotes the request line, and a callback's request line holds its token."""
    [event] = logged(record_of("aiohttp.server", BadStatusLine("POST /results/id/deposit/t0ken")))
    assert (event["event"], event["log_level"]) == ("bad_http", "warning")
    assert "t0ken" not in str(event)


@pytest.mark.parametrize(("logger", "level"), [("sqlalchemy.pool.impl", "warning"), ("asyncio", "error")])
def test_a_lost_connection_that_cannot_be_closed_well_wakes_nobody(logger: str, level: str) -> None:
    [event] = logged(record_of(logger, RuntimeError("x")))
    assert event["log_level"] == level
