"""Reads Daraja's callbacks: every known shape becomes a `Report`, any other body an unreadable one.

No function here raises because of a body's content. The body came from outside, and storing it must
never fail. The operation alone decides how a body is read (rules.md §18).
"""

from __future__ import annotations

from domain.adapters.daraja.messages import UnexpectedShape, read_timeout
from domain.adapters.daraja.pages import PAGE_OF_RESULT
from domain.adapters.daraja.status import read_status_result
from domain.adapters.strict_json import Unreadable, parse
from domain.callback_address import is_timeout
from domain.report import Report, ReportedOutcome

UNREADABLE = Report(outcome=ReportedOutcome.UNREADABLE)


def read_report(operation: str, body: bytes) -> Report:
    """Read `body` as a message of `operation`."""
    try:
        message = parse(body)
        page = PAGE_OF_RESULT.get(operation)
        if page is not None:
            return page.read_result(message)
        return read_timeout(message) if is_timeout(operation) else read_status_result(message)
    except (Unreadable, UnexpectedShape):
        return UNREADABLE
