"""The log: lines about errors, lines of libraries, and lines of Python itself."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine
from sqlalchemy.exc import DBAPIError

from domain.adapters.masking import redact_exception
from domain.adapters.observability import LibraryLogs
from domain.adapters.settings.common import MigrationSettings
from domain.errors import StoreUnavailable
from tests.case_tables import for_each
from tests.paths import ROOT


def log_event_of(logger: str, error: Exception) -> dict[str, object]:
    """The event in our log for an error that a library logs."""
    exc_info = (type(error), error, None)
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, "it broke", (), exc_info)
    with structlog.testing.capture_logs() as events:
        LibraryLogs().emit(record)
    [event] = events
    return dict(event)


def redacted(error: BaseException) -> Any:
    return redact_exception(None, "error", {"event": "x", "exc_info": error})


def test_a_request_that_is_not_http_is_a_warning_without_its_text() -> None:
    """The text quotes the request line, and a callback's request line has its token."""
    event = log_event_of("aiohttp.server", BadStatusLine("POST /results/id/deposit/t0ken"))
    assert (event["event"], event["log_level"]) == ("bad_http", "warning")
    assert "t0ken" not in str(event)


@for_each(("logger", "level"), [("sqlalchemy.pool.impl", "warning"), ("asyncio", "error")])
def test_a_lost_connection_that_cannot_be_closed_is_only_a_warning(logger: str, level: str) -> None:
    assert log_event_of(logger, RuntimeError("x"))["log_level"] == level


class TestLoggedErrors:
    """A log line has an error's type, place and causes, but no value that the error quotes."""

    @pytest.mark.parametrize(
        "fail",
        [
            int,
            UUID,
            lambda value: {}[value],
            lambda value: json.loads(f'"{value}'),
            lambda value: MigrationSettings.model_validate({"database_url": {value: value}}),
            lambda value: f"{value}\udc00".encode(),
            lambda value: Path(f"/nowhere/{value}").read_text(),
        ],
        ids=["int", "uuid", "key", "json", "pydantic", "unicode", "file"],
    )
    def test_a_value_that_an_error_quotes_is_not_logged(
        self, fail: Callable[[str], object]
    ) -> None:
        name = "JANE" + "DOE"  # joined here, because a traceback shows the lines of this file
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each raises another type
            fail(name)
        event = redacted(caught.value)
        assert name not in str(event)
        assert event["error"] == type(caught.value).__name__
        assert "test_observability" in event["traceback"]

    def test_the_causes_of_an_error_are_logged_without_values(self) -> None:
        """An error of the database often causes another error. A group has several errors."""
        row = "JANE" + "DOE"
        try:
            try:
                violation = asyncpg.UniqueViolationError(f"Key (name)=({row})")
                raise DBAPIError("INSERT", {}, violation)  # noqa: TRY301
            except DBAPIError as error:
                raise ExceptionGroup("several", [KeyError(row), StoreUnavailable()]) from error
        except ExceptionGroup as group:
            event = redact_exception(
                None, "error", {"event": "x", "exc_info": (type(group), group, group.__traceback__)}
            )
        assert row not in str(event)
        assert event["sqlstate"] == "23505"
        for kind in ("DBAPIError", "ExceptionGroup", "KeyError", "StoreUnavailable"):
            assert kind in event["traceback"]

    def test_errors_that_cause_each_other_are_logged_once(self) -> None:
        first, second = RuntimeError("first"), RuntimeError("second")
        first.__cause__, second.__cause__ = second, first
        assert redacted(first)["traceback"].count("first") == 1

    def test_an_error_with_our_own_text_is_logged_with_this_text(self) -> None:
        text = "a locked row was not written"
        assert text in redacted(RuntimeError(text))["traceback"]


_PROGRAMS = {
    "an uncaught error behind another": (
        "raise RuntimeError('254711000111') from KeyError('SECRET')"
    ),
    "a thread's error": """
import threading
thread = threading.Thread(target=lambda: int('SECRET'))
thread.start()
thread.join()
""",
    "an error in __del__": """
class Thing:
    def __del__(self):
        int('SECRET')
Thing()
""",
    "a warning": "import warnings; warnings.warn('of 254711000111')",
    "a task's error": """
import asyncio, gc
async def task():
    int('SECRET')
async def main():
    asyncio.ensure_future(task())
    await asyncio.sleep(0.01)
    gc.collect()
asyncio.run(main())
""",
    "a library's error with a secret of ours, and our own error": """
import logging, structlog
try:
    int('SECRET')
except ValueError:
    logging.getLogger('lib').exception('of %s with pass_phrase', 254711000111)
    structlog.get_logger().exception('x', number=254711000111)
""",
}


@pytest.mark.parametrize("program", _PROGRAMS.values(), ids=list(_PROGRAMS))
def test_every_line_of_a_process_has_our_format_and_is_masked(program: str, tmp_path: Path) -> None:
    """A process prints only JSON, one object on each line."""
    start = "from domain.adapters.observability import set_up_logging as start\n"
    start += "start('DEBUG', process='p', secrets=['pass_phrase'])\n"
    # The program is in another file, because a traceback shows lines of this file. The program's
    # lines contain values that the log must not show.
    (tmp_path / "program.py").write_text(program)
    run = f"exec(compile(open({str(tmp_path / 'program.py')!r}).read(), '<program>', 'exec'))\n"
    command = [sys.executable, "-c", start + run]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONDEVMODE": "1"}
    )
    assert process.stderr == ""
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert lines
    assert all(line["process"] == "p" for line in lines)
    for secret in ("SECRET", "711000111", "pass_phrase"):
        assert secret not in process.stdout
