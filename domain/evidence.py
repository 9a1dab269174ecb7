"""Evidence: what a decision reads besides the payment's row. Evidence only grows.

Pure. `inquiry.py` draws the conclusions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from domain.operations import Operation


class InquiryOutcome(StrEnum):
    """What the answer to an inquiry says about the payment."""

    PAID = "paid"
    FAILED = "failed"
    # Daraja has the payment, and has not finished it.
    UNDER_WAY = "under_way"
    # Daraja does not know the payment. Only Transaction Status gives this answer, and only payouts
    # are inquired about by Transaction Status.
    NOT_FOUND = "not_found"
    # Daraja answered without a result.
    NO_RESULT = "no_result"
    # Daraja answered 500.001.1001, a code with at least five meanings (daraja.md §3).
    VAGUE = "vague"
    # Daraja answered 429, or a 5xx without the code 500.001.1001, or did not answer, or we cannot
    # read its answer.
    NO_ANSWER = "no_answer"

    @property
    def is_silent(self) -> bool:
        """Whether Daraja answered, but without a result."""
        return self in (InquiryOutcome.UNDER_WAY, InquiryOutcome.NO_RESULT, InquiryOutcome.VAGUE)

    @property
    def shows_that_daraja_has_it(self) -> bool:
        return self in (InquiryOutcome.PAID, InquiryOutcome.FAILED, InquiryOutcome.UNDER_WAY)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One numbered inquiry, stored before it was sent. Only its first answer counts.

    `is_probe`: the inquiry probed the breaker, so it is not part of the payment's own schedule.

    `is_of_former_account`: the worker sent the inquiry with the short code of a former account. The
    answer says nothing about the credential in use. If the answer is "not found", the reason may be
    that Daraja does not show us the payments of that short code.
    """

    number: int
    asked_at: datetime
    outcome: InquiryOutcome | None = None
    code: str | None = None
    is_probe: bool = False
    is_of_former_account: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a decision reads besides the payment's row: inquiries, stored messages and brakes."""

    inquiries: tuple[Inquiry, ...] = ()
    # Whether any result or time-out message, of whatever content, came to the payment's own
    # address.
    has_message: bool = False
    # Whether a stored message from an allowed address says that the payment succeeded.
    claims_success: bool = False
    # Whether such a message names another amount than the payment's.
    names_another_amount: bool = False
    # How many stored messages brought the next inquiry forward.
    reminder_count: int = 0
    # The receipts of successes that the policy believes only after Daraja confirms them.
    unconfirmed_receipts: frozenset[str] = frozenset()
    # When the last of those successes came.
    unconfirmed_since: datetime | None = None
    # Whether the kill switch or the breaker stops payouts.
    payouts_are_stopped: bool = False
    breaker_is_open: bool = False
    held_operations: frozenset[Operation] = frozenset()
    # Held operations whose cool-down is over.
    probes_due: frozenset[Operation] = frozenset()

    def is_held(self, operation: Operation) -> bool:
        """Whether no request may be sent to `operation` now, not even a probe."""
        return operation in self.held_operations - self.probes_due

    def probe_of(self, operation: Operation) -> Operation | None:
        """`operation` if a request to it would now be its probe, else None."""
        return operation if operation in self.held_operations & self.probes_due else None

    @property
    def shows_that_daraja_has_it(self) -> bool:
        """Whether we have a message or an answer that proves that Daraja has the payment."""
        return self.has_message or any(
            inquiry.outcome is not None and inquiry.outcome.shows_that_daraja_has_it
            for inquiry in self.inquiries
        )

    def with_answer(self, number: int, outcome: InquiryOutcome, code: str | None) -> Evidence:
        """This evidence with the answer to inquiry `number`. Only the first answer counts."""
        return replace(
            self,
            inquiries=tuple(
                replace(inquiry, outcome=outcome, code=code)
                if inquiry.number == number and inquiry.outcome is None
                else inquiry
                for inquiry in self.inquiries
            ),
        )

    def is_inquiry_of_former_account(self, number: int) -> bool:
        return any(
            inquiry.number == number and inquiry.is_of_former_account for inquiry in self.inquiries
        )

    def awaits_answer(self, number: int) -> bool:
        return any(
            inquiry.number == number and inquiry.outcome is None for inquiry in self.inquiries
        )
