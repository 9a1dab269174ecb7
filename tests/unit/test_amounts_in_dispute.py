"""A message with another amount: after it, only a message with an amount decides."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.changes import Decided, Disposition
from domain.events import EventType
from domain.evidence import InquiryOutcome
from domain.inquiry import no_result_is_confirmed
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change
from domain.lifecycle.judge_report import judge_report
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import Stage
from domain.views import public_payment
from tests.builders import (
    AMOUNT_KES,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_callback,
    a_context,
    a_due_payment,
    a_payment,
    a_report,
    an_inquiry,
    evidence_of,
)
from tests.decisions import answer_of, event_of, payment_of

DISPUTED = {"names_another_amount": True, "claims_success": True}
NO_AMOUNT: dict[str, Any] = {"has_amount": False, "amount": None}


def decide_answer(payment: Payment, **report: Any) -> Decided:
    known = evidence_of(an_inquiry(1, at=NOW), **DISPUTED)
    change = inquiry_answer_change(
        PAYMENT_ID, 1, a_report(inquiry_outcome=InquiryOutcome.PAID, **report), (), TIMES
    )
    return change.decide(payment, a_context(evidence=known))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", [Stage.AWAITING_RESULT, Stage.IN_DOUBT, Stage.FAILED])
def test_an_answer_of_paid_without_an_amount_only_flags_a_disputed_payment(
    stage: Stage, kind: Kind
) -> None:
    payment = a_due_payment(kind, stage)
    decision = decide_answer(payment, **NO_AMOUNT, receipt=None)
    after = payment_of(decision)
    assert after.stage is stage
    assert (after.needs_review, after.next_step_at) == (True, payment.next_step_at)
    assert decision.disposition is Disposition.AMOUNT_NOT_CERTAIN
    assert (event_of(decision), decision.is_message_flagged) == (None, True)
    answer = answer_of(decision)
    assert answer is not None
    assert answer.outcome is InquiryOutcome.PAID


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_with_the_payments_own_amount_finalizes_a_disputed_payment(kind: Kind) -> None:
    after = payment_of(decide_answer(a_due_payment(kind), receipt="UC14KD82QZ"))
    assert (after.stage, after.amount_settled_kes) == (Stage.SUCCEEDED, AMOUNT_KES)


def test_a_callback_with_the_payments_own_amount_finalizes_a_disputed_payment() -> None:
    decision = judge_report(
        a_due_payment(Kind.DEPOSIT), a_context(evidence=evidence_of(**DISPUTED)), a_report()
    )
    assert payment_of(decision).stage is Stage.SUCCEEDED
    assert event_of(decision) is EventType.SUCCEEDED


def test_a_confirmation_without_an_amount_does_not_finalize_a_disputed_payment() -> None:
    waiting = {**DISPUTED, "unconfirmed_receipts": frozenset({"UC14KD82QZ"})}
    known = evidence_of(an_inquiry(1, at=NOW), **waiting)
    change = inquiry_answer_change(
        PAYMENT_ID,
        1,
        a_report(inquiry_outcome=InquiryOutcome.PAID, **NO_AMOUNT, receipt=None),
        (),
        TIMES,
    )
    decision = change.decide(a_due_payment(Kind.DEPOSIT), a_context(evidence=known))
    assert payment_of(decision).stage is Stage.IN_DOUBT
    assert decision.disposition is Disposition.AMOUNT_NOT_CERTAIN


def test_a_deposit_that_daraja_called_paid_does_not_fail_by_silence() -> None:
    silent = [
        an_inquiry(n, InquiryOutcome.NO_RESULT, at=NOW - (5 - n) * TIMES.inquiry_first_after)
        for n in range(2, 5)
    ]
    payment = a_due_payment(Kind.DEPOSIT)
    assert no_result_is_confirmed(payment, evidence_of(*silent), NOW, TIMES)
    paid = an_inquiry(1, InquiryOutcome.PAID, at=NOW - 6 * TIMES.inquiry_first_after)
    assert not no_result_is_confirmed(payment, evidence_of(paid, *silent), NOW, TIMES)


@pytest.mark.parametrize(
    ("amount", "disposition"),
    [(400, "duplicate"), (AMOUNT_KES, "amount_differs"), (401, "amount_differs")],
)
def test_later_messages_are_compared_with_the_amount_that_an_operator_recorded(
    amount: int, disposition: str
) -> None:
    payment = a_payment(stage=Stage.SUCCEEDED, amount_settled_kes=400)
    change = callback_change(PAYMENT_ID, a_callback(), a_report(amount=Decimal(amount)))
    decision = change.decide(payment, a_context())
    assert (decision.disposition, event_of(decision)) == (disposition, None)
    assert payment_of(decision).amount_settled_kes == 400


def test_only_a_succeeded_payment_shows_an_amount_settled() -> None:
    for stage in Stage:
        expected = AMOUNT_KES if stage is Stage.SUCCEEDED else None
        assert public_payment(a_payment(stage=stage))["amount_settled"] == expected
    other = a_payment(stage=Stage.SUCCEEDED, amount_settled_kes=400)
    assert public_payment(other)["amount"] == AMOUNT_KES
    assert public_payment(other)["amount_settled"] == 400


def test_a_failure_with_another_amount_is_recorded_as_amount_differs() -> None:
    decision = judge_report(
        a_due_payment(Kind.DEPOSIT),
        a_context(),
        a_report(ReportedOutcome.FAILURE, has_amount=True, amount=Decimal(1)),
    )
    assert decision.disposition == Disposition.AMOUNT_DIFFERS
