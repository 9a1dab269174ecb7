"""The decisions of an operator from M-PESA's statement, and the evidence that forbids them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.attempts import Outcome
from domain.changes import HistoryEntry, Reads
from domain.events import EventType
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.resolve import Resolution, resolution_change
from domain.stages import Stage
from tests.builders import (
    NOW,
    PAYMENT_ID,
    RECEIPT,
    an_inquiry,
    attempts_with,
    evidence_of,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, entry_of, event_of, payment_of
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

S = Stage
SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)
FOUND_UNPAID = Failure(FailureReason.RESOLVED_BY_OPERATOR, safe_to_retry=True)


@for_each("kind", Kind)
@for_each("stage", OPEN)
@for_each("needs_review", [True, False])
def test_a_payment_that_the_statement_shows_as_paid_succeeds(
    kind: Kind, stage: Stage, needs_review: bool
) -> None:
    payment = a_flagged_payment(stage, kind=kind, needs_review=needs_review)
    decision = decide_resolution(payment, PAID)
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, False)
    assert entry_of(decision) is HistoryEntry.RESOLVED_PAID
    assert event_of(decision) is EventType.SUCCEEDED
    assert detail_of(decision) == DECIDED_BY


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_payment_that_the_statement_shows_as_unpaid_fails(kind: Kind, stage: Stage) -> None:
    decision = decide_resolution(a_flagged_payment(stage, kind=kind), UNPAID)
    after = payment_of(decision)
    assert (after.stage, after.failure, after.needs_review) == (S.FAILED, FOUND_UNPAID, False)
    assert entry_of(decision) is HistoryEntry.RESOLVED_UNPAID
    assert (event_of(decision), detail_of(decision)) == (EventType.FAILED, DECIDED_BY)


@pytest.mark.parametrize("stage", Stage)
def test_a_review_clears_the_flag_and_changes_nothing_else(stage: Stage) -> None:
    payment = a_flagged_payment(stage)
    decision = decide_resolution(payment, REVIEWED)
    assert decision.payment == replace(payment, needs_review=False)
    assert entry_of(decision) is HistoryEntry.REVIEWED
    assert (event_of(decision), detail_of(decision)) == (None, DECIDED_BY)


@pytest.mark.parametrize("failure", [SILENCE, FOUND_UNPAID])
def test_an_operator_may_correct_a_failure_that_daraja_did_not_report(failure: Failure) -> None:
    decision = decide_resolution(a_flagged_payment(S.FAILED, failure=failure), PAID)
    after = payment_of(decision)
    assert (after.stage, after.failure) == (S.SUCCEEDED, None)
    assert event_of(decision) is EventType.CORRECTED


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for reason in FailureReason
        if reason not in (SILENCE.reason, FOUND_UNPAID.reason, *NEVER_SENT)
    ],
)
def test_an_operator_cannot_correct_a_failure_that_daraja_reported(reason: FailureReason) -> None:
    payment = a_flagged_payment(S.FAILED, failure=Failure(reason, True, "1"))
    assert "Daraja said that the payment failed" in refusal(payment, PAID)


def test_an_operator_may_correct_a_failure_that_a_callback_disputes() -> None:
    """Inquiries are impossible or repeat the failure. Without an operator it would stay wrong."""
    payment = a_flagged_payment(
        S.FAILED, failure=Failure(FailureReason.SUBSCRIBER_BUSY, True, "500.001.1001")
    )
    decision = decide_resolution(
        payment, PAID, evidence=evidence_of(unconfirmed_receipts=frozenset({RECEIPT}))
    )
    assert (payment_of(decision).stage, event_of(decision)) == (S.SUCCEEDED, EventType.CORRECTED)


@pytest.mark.parametrize("receipt", [None, "", "UC14", "UC10000000", "TK61000000", "UC14KD82Q!"])
def test_paid_needs_a_valid_receipt(receipt: str | None) -> None:
    assert "--receipt" in refusal(a_flagged_payment(), replace(PAID, receipt=receipt))


def test_paid_rejects_a_receipt_of_another_payment() -> None:
    assert "another payment" in refusal(a_flagged_payment(), PAID, is_receipt_of_other=True)
    # the store looks up which payment has the receipt
    assert resolution_change(PAYMENT_ID, PAID).receipt == RECEIPT


@pytest.mark.parametrize("decision", [PAID, UNPAID])
def test_an_operator_cannot_decide_a_succeeded_payment(decision: Resolution) -> None:
    assert "succeeded. " in refusal(a_flagged_payment(S.SUCCEEDED), decision)


def test_an_operator_cannot_resolve_a_failed_payment_as_unpaid() -> None:
    assert "already failed" in refusal(a_flagged_payment(S.FAILED, failure=SILENCE), UNPAID)


@pytest.mark.parametrize("stage", OPEN)
def test_a_stored_message_of_success_forbids_unpaid(stage: Stage) -> None:
    assert "stored callback" in refusal(
        a_flagged_payment(stage), UNPAID, evidence=evidence_of(claims_success=True)
    )
    decide_resolution(a_flagged_payment(stage), UNPAID, evidence=evidence_of(has_message=True))


@pytest.mark.parametrize(
    ("kind", "denials"), [(Kind.DEPOSIT, 2), (Kind.WITHDRAWAL, 1), (Kind.BILL_PAYMENT, 1)]
)
def test_a_message_of_success_that_daraja_denied_does_not_forbid_unpaid(
    kind: Kind, denials: int
) -> None:
    """Daraja answered later inquiries with failed. A forged message must not forbid it for ever."""
    denied = [an_inquiry(number, InquiryOutcome.FAILED, at=NOW) for number in range(1, denials + 1)]
    unconfirmed = {
        "claims_success": True,
        "unconfirmed_receipts": frozenset({RECEIPT}),
        "unconfirmed_since": NOW,
    }
    payment = a_flagged_payment(kind=kind)
    decide_resolution(payment, UNPAID, evidence=evidence_of(*denied, **unconfirmed))
    for known in (
        evidence_of(*denied[1:], **unconfirmed),
        evidence_of(*denied, **{**unconfirmed, "unconfirmed_since": NOW + timedelta(seconds=1)}),
        evidence_of(*denied, claims_success=True),
    ):
        assert "stored callback" in refusal(payment, UNPAID, evidence=known)


@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_an_inquiry_answered_paid_forbids_unpaid(outcome: InquiryOutcome) -> None:
    evidence = evidence_of(an_inquiry(1, outcome))
    if outcome is InquiryOutcome.PAID:
        assert "answered an inquiry" in refusal(a_flagged_payment(), UNPAID, evidence=evidence)
    else:
        decide_resolution(a_flagged_payment(), UNPAID, evidence=evidence)
    assert resolution_change(PAYMENT_ID, UNPAID).reads is Reads.EVIDENCE


@pytest.mark.parametrize("decision", [PAID, UNPAID])
def test_an_operator_cannot_decide_a_payment_that_is_being_sent(decision: Resolution) -> None:
    assert "being sent right now" in refusal(a_flagged_payment(S.SUBMITTING), decision)


@pytest.mark.parametrize("decision", [PAID, UNPAID])
def test_an_operator_decides_an_unsent_payment_only_if_it_is_flagged(
    decision: Resolution,
) -> None:
    """A flag stops its send: Daraja reported on it, although our record proves it unsent."""
    unsent = a_flagged_payment(S.ACCEPTED, attempts=attempts_with(Outcome.NOT_ACTED))
    assert "is not sent yet" in refusal(replace(unsent, needs_review=False), decision)
    after = payment_of(decide_resolution(unsent, decision))
    assert after.stage.is_final


@pytest.mark.parametrize("stage", Stage)
def test_an_operator_reviews_only_flagged_payments(stage: Stage) -> None:
    assert "not flagged" in refusal(a_flagged_payment(stage, needs_review=False), REVIEWED)


@pytest.mark.parametrize("decision", [PAID, UNPAID, REVIEWED])
def test_an_operator_cannot_decide_an_unknown_payment(decision: Resolution) -> None:
    assert "no such payment" in refusal(None, decision)


def test_an_operator_may_correct_a_payment_that_was_resolved_as_unpaid() -> None:
    """Success outranks failure, whatever the source (rules.md §7)."""
    unpaid = decide_resolution(a_flagged_payment(), UNPAID).payment
    after = payment_of(decide_resolution(unpaid, PAID))
    assert (after.stage, after.receipt) == (S.SUCCEEDED, RECEIPT)
