"""After a message with another amount, a success without an amount finalizes no payment."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from domain.changes import Disposition
from domain.evidence import Inquiry, InquiryOutcome
from domain.inquiry import no_result_is_confirmed
from domain.kinds import Kind
from domain.stages import Stage
from domain.views import public_payment
from tests.builders import (
    AMOUNT_KES,
    NOW,
    RECEIPT,
    TIMES,
    a_due_payment,
    a_payment,
    a_report,
    an_inquiry,
    evidence_of,
)
from tests.decisions import answer_of, event_of, payment_of
from tests.unit.deciding import QUERY_PAID, STATUS_PAID, decide_callback, decide_inquiry_answer

DISPUTED: dict[str, Any] = {"names_another_amount": True, "claims_success": True}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", [Stage.AWAITING_RESULT, Stage.IN_DOUBT, Stage.FAILED])
@pytest.mark.parametrize("receipts", [{}, {"unconfirmed_receipts": frozenset({RECEIPT})}])
def test_an_answer_of_paid_without_an_amount_only_flags_a_disputed_payment(
    stage: Stage, kind: Kind, receipts: dict[str, Any]
) -> None:
    payment = a_due_payment(kind, stage)
    decision = decide_inquiry_answer(payment, QUERY_PAID, an_inquiry(1), **DISPUTED, **receipts)
    assert decision.payment == replace(payment, needs_review=True)
    assert decision.disposition is Disposition.AMOUNT_NOT_CERTAIN
    assert (event_of(decision), decision.is_message_flagged) == (None, True)
    assert answer_of(decision) == Inquiry(1, NOW, InquiryOutcome.PAID, "0")


@pytest.mark.parametrize("kind", Kind)
def test_a_message_with_the_payments_own_amount_finalizes_a_disputed_payment(kind: Kind) -> None:
    payment = a_due_payment(kind)
    for decision in (
        decide_inquiry_answer(payment, STATUS_PAID, an_inquiry(1), **DISPUTED),
        decide_callback(payment, a_report(), **DISPUTED),
    ):
        after = payment_of(decision)
        assert (after.stage, after.amount_settled_kes) == (Stage.SUCCEEDED, AMOUNT_KES)


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
    decision = decide_callback(payment, a_report(amount=Decimal(amount)))
    assert (decision.disposition, event_of(decision)) == (disposition, None)
    assert payment_of(decision).amount_settled_kes == 400


def test_only_a_succeeded_payment_shows_an_amount_settled() -> None:
    for stage in Stage:
        expected = AMOUNT_KES if stage is Stage.SUCCEEDED else None
        assert a_payment(stage=stage).amount_settled_kes == expected
        assert public_payment(a_payment(stage=stage))["amount_settled"] == expected
    other = public_payment(a_payment(stage=Stage.SUCCEEDED, amount_settled_kes=400))
    assert (other["amount"], other["amount_settled"]) == (AMOUNT_KES, 400)
