"""Makes decisions about callbacks, for tests."""

from __future__ import annotations

from typing import Any

from domain.changes import Decided
from domain.lifecycle.judge_report import judge_report
from domain.payment import Payment
from domain.report import Report
from tests.builders import a_context, a_payment


def decide_callback(
    payment: Payment | None, report: Report, *, source_allowed: bool = True, **context: Any
) -> Decided:
    return judge_report(payment, a_context(**context), report, source_allowed=source_allowed)


OWN_ID = ("originator_conversation_id", str(a_payment().id))
