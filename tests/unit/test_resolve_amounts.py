"""The decisions of an operator about amounts and unsent payments, and their earliest time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    AMOUNT_KES,
    NOW,
    TIMES,
    a_context,
    a_payment,
    a_send,
    an_inquiry,
    evidence_of,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, payment_of
from tests.unit.resolving import (
    DECIDED_BY,
    NEVER_SENT,
    OPEN,
    PAID,
    REVIEWED,
    UNPAID,
    a_flagged_payment,
    decide_resolution,
    refusal,
)

SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)
REPORTED_FAILED = Failure(FailureReason.CANCELLED_BY_CUSTOMER, True, "1032")
MINUTE = timedelta(minutes=1)


def settle(payment: Payment, decision: Resolution, **known: Any) -> int | None:
    """The amount that the decision settles, with this evidence."""
    after = payment_of(decide_resolution(payment, decision, evidence=evidence_of(**known)))
    assert after.stage is Stage.SUCCEEDED
    return after.amount_settled_kes


@pytest.mark.parametrize("kind", Kind)
def test_paid_settles_the_requested_amount_unless_the_operator_gives_another(kind: Kind) -> None:
    assert settle(a_flagged_payment(kind=kind), PAID) == AMOUNT_KES
    decision = decide_resolution(a_flagged_payment(kind=kind), replace(PAID, amount_kes=400))
    after = payment_of(decision)
    assert (after.amount_settled_kes, after.request.amount_kes) == (400, AMOUNT_KES)
    assert detail_of(decision) == {**DECIDED_BY, "amount": "400"}


@pytest.mark.parametrize(
    "payment",
    [
        *(a_flagged_payment(stage) for stage in OPEN),
        *(a_flagged_payment(Stage.FAILED, failure=f) for f in (SILENCE, REPORTED_FAILED)),
    ],
)
def test_paid_needs_an_amount_if_a_message_names_another_amount(
    payment: Payment,
) -> None:
    known = {"names_another_amount": True, "claims_success": True}
    assert "--amount" in refusal(payment, PAID, evidence=evidence_of(**known))
    for amount in (400, AMOUNT_KES):
        assert settle(payment, replace(PAID, amount_kes=amount), **known) == amount


@pytest.mark.parametrize("amount", [0, -1, 250_001])
def test_paid_rejects_an_amount_that_m_pesa_cannot_move(amount: int) -> None:
    assert "--amount" in refusal(a_flagged_payment(), replace(PAID, amount_kes=amount))


@pytest.mark.parametrize("decision", [UNPAID, REVIEWED])
def test_only_paid_accepts_an_amount(decision: Resolution) -> None:
    assert "--amount" in refusal(a_flagged_payment(), replace(decision, amount_kes=400))


@for_each("kind", Kind)
@for_each("reason", NEVER_SENT)
@for_each("outcomes", [(), (Outcome.NOT_ACTED,)])
def test_an_unsent_payment_cannot_be_resolved_as_paid(
    outcomes: tuple[Outcome, ...], reason: FailureReason, kind: Kind
) -> None:
    attempts = tuple(a_send(outcome, at=NOW) for outcome in outcomes)
    payment = a_flagged_payment(
        Stage.FAILED, kind=kind, failure=Failure(reason, True), attempts=attempts
    )
    message = refusal(payment, PAID)
    assert "never sent to Daraja" in message
    assert "Daraja said" not in message


@pytest.mark.parametrize("reason", NEVER_SENT)
@pytest.mark.parametrize(
    "known",
    [
        {"claims_success": True},
        {"unconfirmed_receipts": frozenset({"UC14KD82QZ"})},
        {"names_another_amount": True},
    ],
)
def test_an_unsent_payment_may_be_resolved_as_paid_if_a_message_claims_success(
    known: dict[str, Any], reason: FailureReason
) -> None:
    payment = a_flagged_payment(Stage.FAILED, failure=Failure(reason, True))
    assert settle(payment, replace(PAID, amount_kes=AMOUNT_KES), **known) == AMOUNT_KES


@pytest.mark.parametrize("reason", NEVER_SENT)
def test_an_unsent_payment_may_be_resolved_as_paid_if_daraja_answered_paid(
    reason: FailureReason,
) -> None:
    payment = a_flagged_payment(Stage.FAILED, failure=Failure(reason, True))
    evidence = evidence_of(an_inquiry(1, InquiryOutcome.PAID))
    after = payment_of(decide_resolution(payment, PAID, evidence=evidence))
    assert after.stage is Stage.SUCCEEDED


WINDOWS = {
    Kind.DEPOSIT: 3 * MINUTE,
    Kind.WITHDRAWAL: 5 * MINUTE,
    Kind.BILL_PAYMENT: 5 * MINUTE,
    Kind.POCHI_PAYMENT: 5 * MINUTE,
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_unpaid_is_rejected_until_the_result_window_of_the_kind_ends(
    stage: Stage, kind: Kind
) -> None:
    for since, is_over in (
        (timedelta(0), False),
        (WINDOWS[kind] - timedelta(seconds=1), False),
        (WINDOWS[kind], True),
    ):
        acknowledged, unknown = (
            a_flagged_payment(stage, kind=kind, attempts=(a_send(outcome, at=NOW - since),))
            for outcome in (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN)
        )
        if is_over:
            decide_resolution(acknowledged, UNPAID)
        else:
            message = refusal(acknowledged, UNPAID)
            assert f"Try again after {NOW - since + WINDOWS[kind]:%Y-%m-%d %H:%M:%S} UTC" in message
        decide_resolution(acknowledged, PAID)
        decide_resolution(unknown, UNPAID)


def test_the_window_of_a_deposit_under_way_is_longer() -> None:
    payment = a_flagged_payment(
        kind=Kind.DEPOSIT, attempts=(a_send(Outcome.ACKNOWLEDGED, at=NOW - 4 * MINUTE),)
    )
    decide_resolution(payment, UNPAID)
    under_way = evidence_of(an_inquiry(1, InquiryOutcome.UNDER_WAY, at=NOW - MINUTE))
    assert "Try again" in refusal(payment, UNPAID, evidence=under_way)


def test_the_result_window_follows_the_settings_of_the_worker() -> None:
    payment = a_flagged_payment(
        kind=Kind.DEPOSIT, attempts=(a_send(Outcome.ACKNOWLEDGED, at=NOW - 4 * MINUTE),)
    )
    longer = replace(TIMES, result_window=10 * MINUTE)
    change = resolution_change(
        payment.id, Resolution(decision=OperatorDecision.UNPAID, **DECIDED_BY), longer
    )
    with pytest.raises(Exception, match="Try again"):
        change.decide(payment, a_context())


def test_a_payment_that_did_not_succeed_has_no_amount_settled() -> None:
    assert {
        a_payment(stage=stage).amount_settled_kes for stage in Stage if stage is not Stage.SUCCEEDED
    } == {None}
