"""Inquiries about an unconfirmed success: what their answers do, and when they end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.changes import Decided, Disposition
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_context,
    a_due_payment,
    a_report,
    an_inquiry,
    evidence_of,
)
from tests.decisions import event_of, inquiry_of, payment_of
from tests.unit.unconfirmed import ANSWERED_FAILED, MINUTE, QUERY_PAID, STATUS_PAID, unconfirmed

D, S, V = Disposition, Stage, InquiryOutcome
OPEN = [S.AWAITING_RESULT, S.IN_DOUBT]
OTHER_RECEIPT = "UC1OTHER22"


def decide_answer(
    payment: Payment,
    report: Report,
    *,
    receipts_of_others: frozenset[str] = frozenset(),
    **known: Any,
) -> Decided:
    """Decides about Daraja's answer to the first inquiry, after a message claimed a success."""
    inquiry = an_inquiry(1, at=NOW - MINUTE)
    evidence = evidence_of(inquiry, has_message=True, claims_success=True, **known)
    change = inquiry_answer_change(PAYMENT_ID, 1, report, (), TIMES)
    return change.decide(
        payment, a_context(evidence=evidence, receipts_of_others=receipts_of_others)
    )


def test_a_query_answered_paid_finalizes_with_the_unconfirmed_receipt() -> None:
    decision = decide_answer(a_due_payment(Kind.DEPOSIT), QUERY_PAID, **unconfirmed())
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, False)
    assert (event_of(decision), decision.is_message_flagged) == (EventType.SUCCEEDED, False)


@pytest.mark.parametrize(
    ("known", "others"),
    [(unconfirmed(RECEIPT, OTHER_RECEIPT), frozenset()), (unconfirmed(), frozenset({RECEIPT}))],
    ids=["two receipts", "another payment's"],
)  # fmt: skip
def test_a_disputed_receipt_is_not_used_and_flags_the_payment(
    known: dict[str, Any], others: frozenset[str]
) -> None:
    """Daraja confirmed the success, but nothing shows which receipt is the payment's."""
    decision = decide_answer(
        a_due_payment(Kind.DEPOSIT), QUERY_PAID, receipts_of_others=others, **known
    )
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, None, True)
    assert (event_of(decision), decision.is_message_flagged) == (EventType.SUCCEEDED, True)


@pytest.mark.parametrize(
    ("receipts", "is_flagged"),
    [((RECEIPT,), False), ((OTHER_RECEIPT,), True), ((RECEIPT, OTHER_RECEIPT), True)],
)
def test_the_receipt_of_an_answer_outranks_unconfirmed_receipts(
    receipts: tuple[str, ...], is_flagged: bool
) -> None:
    decision = decide_answer(a_due_payment(), STATUS_PAID, **unconfirmed(*receipts))
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, is_flagged)
    assert decision.is_message_flagged is is_flagged


def test_a_receipt_that_another_payment_has_by_now_does_not_finalize_a_payout() -> None:
    change = inquiry_answer_change(PAYMENT_ID, 1, STATUS_PAID, (), TIMES)
    context = a_context(
        evidence=evidence_of(an_inquiry(1), **unconfirmed()), is_receipt_of_other=True
    )
    decision = change.decide(a_due_payment(), context)
    assert payment_of(decision).stage is S.IN_DOUBT
    assert decision.disposition == D.RECEIPT_OF_ANOTHER_PAYMENT


def test_a_confirmed_correction_is_announced() -> None:
    decision = decide_answer(
        a_due_payment(stage=S.FAILED, needs_review=True), STATUS_PAID, **unconfirmed()
    )
    after = payment_of(decision)
    assert after.stage is S.SUCCEEDED
    assert (after.receipt, event_of(decision)) == (RECEIPT, EventType.CORRECTED)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", [*OPEN, S.FAILED])
def test_an_answer_of_failed_only_flags_a_payment_with_an_unconfirmed_success(
    stage: Stage, kind: Kind
) -> None:
    payment = a_due_payment(kind, stage)
    decision = decide_answer(payment, ANSWERED_FAILED, **unconfirmed())
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, event_of(decision)) == (D.CONTRADICTION, None)


def test_a_deposit_with_an_unconfirmed_success_does_not_fail_by_silence() -> None:
    """Three answers without a result, long after the window."""
    silent = [an_inquiry(n, V.NO_RESULT, at=NOW - timedelta(minutes=10 - n)) for n in range(1, 4)]
    change = inquiry_answer_change(
        PAYMENT_ID, 4, a_report(ReportedOutcome.UNDECIDED, inquiry_outcome=V.NO_RESULT), (), TIMES
    )
    for claims_success, expected in ((True, S.IN_DOUBT), (False, S.FAILED)):
        known = evidence_of(*silent, an_inquiry(4, at=NOW), claims_success=claims_success)
        assert (
            payment_of(change.decide(a_due_payment(Kind.DEPOSIT), a_context(evidence=known))).stage
            is expected
        )


# --- the schedule of inquiries --------------------------------------------------------------------


def next_inquiry_after(payment: Payment, *inquiries: Inquiry, **known: Any) -> timedelta | None:
    """The time from this inquiry to the next one, or None if this is the last one."""
    decision = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS).decide(
        payment, a_context(evidence=evidence_of(*inquiries, **known))
    )
    assert inquiry_of(decision) is not None
    due = payment_of(decision).next_step_at
    return None if due is None else due - NOW


def sent_ago(*minutes: int, outcome: InquiryOutcome | None = None) -> list[Inquiry]:
    """Inquiries sent so many minutes ago, all with one outcome."""
    return [an_inquiry(n, outcome, at=NOW - n_ago * MINUTE) for n, n_ago in enumerate(minutes, 1)]


@pytest.mark.parametrize("kind", Kind)
def test_inquiries_about_a_failed_payment_continue_until_daraja_answers(kind: Kind) -> None:
    """An inquiry that was sent before the success arrived does not confirm it."""
    payment = a_due_payment(kind, S.FAILED)
    since = unconfirmed(since=timedelta(minutes=30))
    assert next_inquiry_after(payment) is None
    assert next_inquiry_after(payment, **since) == timedelta(seconds=30)
    assert next_inquiry_after(payment, *sent_ago(90, 80, outcome=V.FAILED), **since) == timedelta(
        seconds=30
    )
    assert next_inquiry_after(payment, *sent_ago(20), **since) == timedelta(seconds=60)
    assert next_inquiry_after(
        payment, *sent_ago(20, 10, outcome=V.NO_ANSWER), **since
    ) == timedelta(seconds=120)
    assert next_inquiry_after(payment, *sent_ago(20, 10, outcome=V.FAILED), **since) is None
    assert (
        next_inquiry_after(payment, *sent_ago(*range(29, 19, -1)), **since) is None
    )  # the payment is flagged


def test_one_query_answered_failed_does_not_end_the_inquiries_about_a_deposit() -> None:
    """Queries have contradicted callbacks (daraja.md §3)."""
    inquiries, since = sent_ago(10, outcome=V.FAILED), unconfirmed(since=timedelta(minutes=30))
    deposit, withdrawal = (
        a_due_payment(kind, S.FAILED) for kind in (Kind.DEPOSIT, Kind.WITHDRAWAL)
    )
    assert next_inquiry_after(deposit, *inquiries, **since) is not None
    assert next_inquiry_after(withdrawal, *inquiries, **since) is None


def test_an_open_payment_is_inquired_about_as_usual_and_flagged_in_the_end() -> None:
    since = unconfirmed(since=timedelta(minutes=30))
    payment = a_due_payment()
    assert next_inquiry_after(payment, *sent_ago(20), **since) == timedelta(seconds=60)
    context = a_context(evidence=evidence_of(*sent_ago(*range(19, 9, -1)), **since))
    decision = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS).decide(payment, context)
    assert payment_of(decision).needs_review
