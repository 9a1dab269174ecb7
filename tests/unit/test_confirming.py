"""Above an amount in the policy, a callback's success waits until Daraja confirms it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.changes import Decided, Disposition, HistoryEntry, Reads
from domain.errors import Unreachable
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    AMOUNT_KES,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    a_callback,
    a_due_payment,
    a_payment,
    a_report,
    an_attempt,
    an_inquiry,
)
from tests.case_tables import for_each
from tests.decisions import entry_of, event_of, inquiry_of, payment_of
from tests.unit.deciding import (
    ANSWERED_FAILED,
    NOT_ACTED,
    QUERY_PAID,
    STATUS_PAID,
    decide_callback,
    decide_inquiry,
    decide_inquiry_answer,
    decide_send_answer,
    unconfirmed,
)

D, S, V = Disposition, Stage, InquiryOutcome
MINUTE = timedelta(minutes=1)
OPEN = [S.AWAITING_RESULT, S.IN_DOUBT]
OTHER_RECEIPT = "UC1OTHER22"


def decide_large(payment: Payment, report: Report | None = None, **known: Any) -> Decided:
    """Decides about a callback of a payment above the amount that needs a confirmation."""
    return decide_callback(
        payment, report or a_report(), **{"confirm_above_kes": AMOUNT_KES - 1, **known}
    )


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_success_above_the_limit_waits_and_brings_the_inquiry_forward(
    stage: Stage, kind: Kind
) -> None:
    payment = a_payment(stage=stage, kind=kind)
    decision = decide_large(payment)
    assert decision.payment == replace(payment, next_step_at=NOW)
    assert decision.disposition == D.AWAITS_CONFIRMATION
    assert entry_of(decision) is HistoryEntry.AWAITS_CONFIRMATION
    assert (event_of(decision), decision.is_message_flagged) == (None, False)


@for_each("above", [None, AMOUNT_KES, AMOUNT_KES + 1])
@for_each("stage", [*OPEN, S.SUBMITTING, S.ACCEPTED])
def test_a_success_up_to_the_limit_finalizes(stage: Stage, above: int | None) -> None:
    decision = decide_large(a_payment(stage=stage), confirm_above_kes=above)
    assert (payment_of(decision).stage, decision.disposition) == (S.SUCCEEDED, D.FINALIZED)


def test_an_unconfirmed_success_during_a_send_is_inquired_about_after_the_lease() -> None:
    payment = a_payment(stage=S.SUBMITTING)
    assert payment.lease_until is not None
    decision = decide_large(payment)
    assert decision.payment == replace(
        payment, next_step_at=payment.lease_until - timedelta(microseconds=1)
    )
    assert decision.disposition is D.AWAITS_CONFIRMATION


def test_an_unconfirmed_success_of_an_unsent_payment_flags_it() -> None:
    """Otherwise a worker would send the payment, and it would be paid twice."""
    payment = a_payment(stage=S.ACCEPTED, attempts=(an_attempt(NOT_ACTED),))
    decision = decide_large(payment)
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (D.CONTRADICTION, True)


@pytest.mark.parametrize("stage", [S.SUBMITTING, S.IN_DOUBT])
@pytest.mark.parametrize("claims_success", [True, False])
def test_a_payment_proved_unsent_is_flagged_if_a_stored_message_claims_success(
    claims_success: bool, stage: Stage
) -> None:
    """Otherwise a worker's late proof that it wrote nothing would cause a second payment."""
    known = {"has_message": claims_success, "claims_success": claims_success}
    after = payment_of(decide_send_answer(a_payment(stage=stage), Unreachable(), **known))
    assert (after.stage, after.needs_review) == (S.ACCEPTED, claims_success)


def test_a_correction_flags_the_payment_at_once_and_needs_confirmation() -> None:
    """Subscribers got an event of the failure, so an operator should review the payment."""
    payment = a_payment(stage=S.FAILED)
    decision = decide_large(payment)
    assert decision.payment == replace(payment, needs_review=True, next_step_at=NOW)
    assert decision.disposition == D.AWAITS_CONFIRMATION
    assert (decision.is_message_flagged, event_of(decision)) == (True, None)


@pytest.mark.parametrize(
    ("report", "known", "disposition"),
    [
        (a_report(amount=Decimal(AMOUNT_KES + 1)), {}, D.AMOUNT_DIFFERS),
        (a_report(receipt=None), {}, D.SUCCESS_WITHOUT_RECEIPT),
        (a_report(has_amount=False, amount=None), {}, D.SUCCESS_WITHOUT_RECEIPT),
        (a_report(), {"is_receipt_of_other": True}, D.RECEIPT_OF_ANOTHER_PAYMENT),
        (a_report(), {"ids_of_others": frozenset({("checkout_request_id", "x")})}, D.IDS_DIFFER),
        (a_report(), {"source_allowed": False}, D.WRONG_SOURCE),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_success_that_is_not_believed_below_the_limit_does_not_wait_above_it(
    report: Report, known: dict[str, Any], disposition: Disposition
) -> None:
    decision = decide_large(a_payment(stage=S.AWAITING_RESULT), report, **known)
    assert (decision.disposition, decision.is_message_flagged) == (disposition, True)


@pytest.mark.parametrize(
    ("operation", "report", "above", "reads"),
    [
        ("withdrawal", a_report(), None, Reads.PAYMENT),
        ("withdrawal", a_report(), 0, Reads.EVIDENCE),
        ("withdrawal", a_report(ReportedOutcome.FAILURE), None, Reads.EVIDENCE),
        ("status-1", STATUS_PAID, None, Reads.EVIDENCE),
        ("status-1-timeout", STATUS_PAID, None, Reads.EVIDENCE),
    ],
)
def test_a_callback_reads_the_evidence_if_unconfirmed_successes_or_inquiries_matter(
    operation: str, report: Report, above: int | None, reads: Reads
) -> None:
    callback = a_callback(operation=operation)
    change = callback_change(PAYMENT_ID, callback, report, confirm_above_kes=above)
    assert change.reads is reads


# --- repeated messages ----------------------------------------------------------------------------


def test_the_history_shows_a_repeated_unconfirmed_success_once() -> None:
    decision = decide_large(a_payment(stage=S.AWAITING_RESULT), **unconfirmed())
    assert (decision.disposition, entry_of(decision)) == (D.AWAITS_CONFIRMATION, None)


@for_each(
    ("reminders", "seconds"),
    [(0, 0), (1, 25), (2, 55), (3, 115), (4, 235), (5, 295), (10_000, 295)],
)
@for_each("outcome", [ReportedOutcome.SUCCESS, ReportedOutcome.TIMEOUT, ReportedOutcome.UNDECIDED])
def test_repeated_messages_bring_inquiries_forward_less_and_less(
    outcome: ReportedOutcome, reminders: int, seconds: int
) -> None:
    """Five seconds after an inquiry, a message moves the next inquiry to `seconds` from now."""
    payment = a_payment(stage=S.IN_DOUBT, next_step_at=NOW + timedelta(hours=1))
    inquiries = (an_inquiry(1, at=NOW - timedelta(seconds=5)),)
    decision = decide_callback(
        payment, a_report(outcome), *inquiries, confirm_above_kes=0, reminder_count=reminders
    )
    assert payment_of(decision).next_step_at == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize("due", [NOW - MINUTE, NOW, NOW + timedelta(seconds=1)])
def test_a_message_never_postpones_an_inquiry(due: Any) -> None:
    payment = a_payment(stage=S.IN_DOUBT, next_step_at=due)
    decision = decide_callback(
        payment, a_report(), an_inquiry(1, at=NOW), confirm_above_kes=0, reminder_count=9
    )
    assert payment_of(decision).next_step_at == due


@pytest.mark.parametrize("stage", [*OPEN, S.FAILED, S.SUBMITTING])
def test_an_answer_to_an_inquiry_is_the_confirmation(stage: Stage) -> None:
    decision = decide_callback(
        a_due_payment(stage=stage),
        STATUS_PAID,
        an_inquiry(1, at=NOW - MINUTE),
        operation="status-1",
        confirm_above_kes=0,
    )
    assert payment_of(decision).stage is S.SUCCEEDED


# --- answers to the inquiries ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*OPEN, S.SUBMITTING, S.FAILED])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("is_answer", [True, False], ids=["answer", "callback"])
def test_a_report_of_failed_only_flags_a_payment_with_an_unconfirmed_success(
    is_answer: bool, kind: Kind, stage: Stage
) -> None:
    """Even an unconfirmed success outranks a failure."""
    payment = a_due_payment(kind, stage)
    if is_answer:
        known = {**unconfirmed(), "has_message": True, "claims_success": True}
        decision = decide_inquiry_answer(payment, ANSWERED_FAILED, an_inquiry(1), **known)
    else:
        decision = decide_large(payment, a_report(ReportedOutcome.FAILURE), **unconfirmed())
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, event_of(decision)) == (D.CONTRADICTION, None)
    assert decision.is_message_flagged


@pytest.mark.parametrize(
    ("known", "receipt", "is_disputed"),
    [
        (unconfirmed(), RECEIPT, False),
        (unconfirmed(RECEIPT, OTHER_RECEIPT), None, True),
        ({**unconfirmed(), "receipts_of_others": frozenset({RECEIPT})}, None, True),
    ],
    ids=["one receipt", "two receipts", "another payment's"],
)
def test_a_query_answered_paid_finalizes_with_the_unconfirmed_receipt_unless_it_is_disputed(
    known: dict[str, Any], receipt: str | None, is_disputed: bool
) -> None:
    """Daraja confirmed the success in each case. A disputed receipt flags the payment."""
    payment = a_due_payment(Kind.DEPOSIT)
    decision = decide_inquiry_answer(payment, QUERY_PAID, an_inquiry(1), **known)
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, receipt, is_disputed)
    assert event_of(decision) is EventType.SUCCEEDED
    assert decision.is_message_flagged is is_disputed


@pytest.mark.parametrize(
    ("receipts", "is_flagged"),
    [((RECEIPT,), False), ((OTHER_RECEIPT,), True), ((RECEIPT, OTHER_RECEIPT), True)],
)
def test_the_receipt_of_an_answer_outranks_unconfirmed_receipts(
    receipts: tuple[str, ...], is_flagged: bool
) -> None:
    known = unconfirmed(*receipts)
    decision = decide_inquiry_answer(a_due_payment(), STATUS_PAID, an_inquiry(1), **known)
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, is_flagged)
    assert decision.is_message_flagged is is_flagged


def test_a_receipt_that_another_payment_has_by_now_does_not_finalize_a_payout() -> None:
    known = {**unconfirmed(), "is_receipt_of_other": True}
    decision = decide_inquiry_answer(a_due_payment(), STATUS_PAID, an_inquiry(1), **known)
    assert payment_of(decision).stage is S.IN_DOUBT
    assert decision.disposition == D.RECEIPT_OF_ANOTHER_PAYMENT


# --- the schedule of the inquiries ----------------------------------------------------------------

SINCE = unconfirmed(since=timedelta(minutes=30))


def sent_ago(*minutes: int, outcome: InquiryOutcome | None = None) -> list[Inquiry]:
    """Inquiries that were sent these numbers of minutes ago, all with one outcome."""
    return [an_inquiry(n, outcome, at=NOW - ago * MINUTE) for n, ago in enumerate(minutes, 1)]


@for_each("kind", Kind)
@for_each(
    ("inquiries", "known", "seconds"),
    [
        ([], {}, None),
        ([], SINCE, 30),
        # inquiries that were sent before the success arrived are no evidence about it
        (sent_ago(90, 80, outcome=V.FAILED), SINCE, 30),
        (sent_ago(20), SINCE, 60),
        (sent_ago(20, 10, outcome=V.NO_ANSWER), SINCE, 120),
        (sent_ago(20, 10, outcome=V.FAILED), SINCE, None),
        (sent_ago(*range(29, 19, -1)), SINCE, None),  # the payment is flagged
    ],
)
def test_inquiries_about_a_failed_payment_continue_until_daraja_answers(
    inquiries: list[Inquiry], known: dict[str, Any], seconds: int | None, kind: Kind
) -> None:
    decision = decide_inquiry(a_due_payment(kind, S.FAILED), *inquiries, **known)
    assert inquiry_of(decision) is not None
    expected = None if seconds is None else NOW + timedelta(seconds=seconds)
    assert payment_of(decision).next_step_at == expected


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.WITHDRAWAL])
def test_one_query_answered_failed_does_not_end_the_inquiries_about_a_deposit(kind: Kind) -> None:
    """Answers to STK queries have contradicted callbacks (daraja.md §3)."""
    denied = sent_ago(10, outcome=V.FAILED)
    after = payment_of(decide_inquiry(a_due_payment(kind, S.FAILED), *denied, **SINCE))
    assert (after.next_step_at is not None) is (kind is Kind.DEPOSIT)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("times", "outcome", "is_flagged"),
    [
        (9, V.NO_ANSWER, False),
        (10, V.NO_ANSWER, True),
        (11, V.NO_ANSWER, False),
        (10, V.FAILED, False),
    ],
)
def test_a_reviewed_payment_is_flagged_once_more_if_daraja_never_confirms_its_success(
    times: int, outcome: InquiryOutcome, is_flagged: bool, kind: Kind
) -> None:
    """An operator who reviewed the payment early could not know that no answer would come."""
    inquiries = sent_ago(*range(29, 29 - times, -1), outcome=outcome)
    decision = decide_inquiry(a_due_payment(kind, S.FAILED), *inquiries, **SINCE)
    assert inquiry_of(decision) is not None
    assert payment_of(decision).needs_review is is_flagged


def test_an_open_payment_is_inquired_about_as_usual_and_flagged_in_the_end() -> None:
    payment = a_due_payment()
    after = payment_of(decide_inquiry(payment, *sent_ago(20), **SINCE))
    assert (after.next_step_at, after.needs_review) == (NOW + MINUTE, False)
    in_vain = sent_ago(*range(19, 9, -1))
    assert payment_of(decide_inquiry(payment, *in_vain, **SINCE)).needs_review
