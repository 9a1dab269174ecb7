"""Unconfirmed successes and the answers that confirm or contradict them, for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from domain.evidence import InquiryOutcome
from domain.report import ReportedOutcome
from tests.builders import NOW, RECEIPT, a_report

MINUTE = timedelta(minutes=1)

# Answers to inquiries. STK query returns no receipt, Transaction Status does.
QUERY_PAID = a_report(
    code="0", inquiry_outcome=InquiryOutcome.PAID, receipt=None, has_amount=False, amount=None
)
STATUS_PAID = a_report(code="Completed", inquiry_outcome=InquiryOutcome.PAID)
ANSWERED_FAILED = a_report(
    ReportedOutcome.FAILURE, code="1032", inquiry_outcome=InquiryOutcome.FAILED
)


def unconfirmed(*receipts: str, since: timedelta = MINUTE) -> dict[str, Any]:
    """The evidence while successes with these receipts wait for confirmation."""
    return {
        "unconfirmed_receipts": frozenset(receipts or (RECEIPT,)),
        "unconfirmed_since": NOW - since,
    }
