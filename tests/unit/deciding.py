"""Functions that decide about a payment, from one change and the evidence of the payment."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

from domain.attempts import IdKind, Outcome
from domain.changes import Change, Context, Decided, Exchange
from domain.errors import (
    DeadlinePassed,
    Draining,
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import RULES
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
from domain.lifecycle.record_answer import answer_change
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import FactName
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_callback,
    a_context,
    a_report,
    an_open_attempt,
    evidence_of,
)

_CONTEXT_FIELDS = {field.name for field in fields(Context)}

OWN_ID = (IdKind.ORIGINATOR_CONVERSATION, str(PAYMENT_ID))
SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)

# Answers to inquiries. STK query returns no receipt and no amount, Transaction Status does.
QUERY_PAID = a_report(
    code="0", inquiry_outcome=InquiryOutcome.PAID, receipt=None, has_amount=False, amount=None
)
STATUS_PAID = a_report(code="Completed", inquiry_outcome=InquiryOutcome.PAID)
ANSWERED_FAILED = a_report(
    ReportedOutcome.FAILURE, code="1032", inquiry_outcome=InquiryOutcome.FAILED
)


def an_undecided_answer(outcome: InquiryOutcome, code: str = "4999", **overrides: Any) -> Report:
    """The report of an answer to an inquiry, if the answer contains no result."""
    return a_report(ReportedOutcome.UNDECIDED, code=code, inquiry_outcome=outcome, **overrides)


def unconfirmed(*receipts: str, since: timedelta = timedelta(minutes=1)) -> dict[str, Any]:
    """The evidence while successes with these receipts wait for confirmation."""
    return {
        "unconfirmed_receipts": frozenset(receipts or (RECEIPT,)),
        "unconfirmed_since": NOW - since,
    }


def decide(change: Change, payment: Payment | None, *inquiries: Inquiry, **known: Any) -> Decided:
    """The decision of `change`. `known` sets fields of the context or of the evidence."""
    context = {name: known.pop(name) for name in _CONTEXT_FIELDS & known.keys()}
    return change.decide(
        payment, a_context(**{"evidence": evidence_of(*inquiries, **known), **context})
    )


def decide_inquiry(
    payment: Payment | None, *inquiries: Inquiry, is_probe: bool = False, **known: Any
) -> Decided:
    """Decides whether an inquiry about the payment is sent now."""
    change = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS, is_breaker_probe=is_probe)
    return decide(change, payment, *inquiries, **known)


def decide_inquiry_answer(
    payment: Payment | None,
    report: Report | None,
    *inquiries: Inquiry,
    number: int = 1,
    **known: Any,
) -> Decided:
    """Decides about Daraja's direct answer to the inquiry `number`."""
    change = inquiry_answer_change(PAYMENT_ID, number, report, (), TIMES)
    return decide(change, payment, *inquiries, **known)


def decide_callback(
    payment: Payment | None,
    report: Report,
    *inquiries: Inquiry,
    operation: str | None = None,
    source_allowed: bool = True,
    confirm_above_kes: int | None = None,
    **known: Any,
) -> Decided:
    """Decides about a callback at the address of `operation`, or of the payment's own result."""
    own_operation = RULES[payment.kind].result_operation if payment is not None else "deposit"
    callback = a_callback(operation=operation or own_operation, source_allowed=source_allowed)
    change = callback_change(PAYMENT_ID, callback, report, confirm_above_kes=confirm_above_kes)
    return decide(change, payment, *inquiries, **known)


# --- answers to sends -----------------------------------------------------------------------------

REFUSAL = Failure(FailureReason.REJECTED_BY_PROVIDER, True, "400.002.02")
UNKNOWN, NOT_ACTED = Outcome.UNKNOWN, Outcome.NOT_ACTED
ACKNOWLEDGED = Outcome.ACKNOWLEDGED

# Each class of answer, its fact in the stage table, and the attempt's outcome (rules.md §13).
ANSWERS: list[tuple[ProviderError | None, FactName, Outcome]] = [
    (None, FactName.ACKNOWLEDGED, ACKNOWLEDGED),
    (Unreachable(), FactName.NOT_ACTED, NOT_ACTED),
    (DeadlinePassed(), FactName.NOT_ACTED, NOT_ACTED),
    (Draining(), FactName.NOT_ACTED, NOT_ACTED),
    (Throttled(), FactName.NOT_ACTED, NOT_ACTED),
    (TokenRefused(), FactName.NOT_ACTED, NOT_ACTED),
    (ProductRefused(), FactName.NOT_ACTED, NOT_ACTED),
    (Refused(REFUSAL), FactName.REFUSED, Outcome.REFUSED),
    (Resendable(), FactName.OUTCOME_UNKNOWN, Outcome.RESENDABLE),
    (DuplicateSubmission(), FactName.OUTCOME_UNKNOWN, Outcome.DUPLICATE),
    (OutcomeUnknown(), FactName.OUTCOME_UNKNOWN, UNKNOWN),
    (ProviderError(), FactName.OUTCOME_UNKNOWN, UNKNOWN),  # a class that the code does not know yet
]


def send_answer_change(
    error: ProviderError | None,
    *exchanges: Exchange,
    number: int = 1,
    ids: Any = frozenset(),
) -> Change:
    """The change that records Daraja's answer to the attempt `number`."""
    open_attempt = an_open_attempt(number)
    open_attempt.exchanges += exchanges
    times = replace(TIMES, retry_after=timedelta(seconds=2))
    return answer_change(PAYMENT_ID, open_attempt, ids, error, times, ACCOUNTS)


def decide_send_answer(
    payment: Payment | None,
    error: ProviderError | None,
    *exchanges: Exchange,
    number: int = 1,
    ids: Any = frozenset(),
    **known: Any,
) -> Decided:
    return decide(send_answer_change(error, *exchanges, number=number, ids=ids), payment, **known)
