"""The decisions of an operator from M-PESA's statement, and the evidence that forbids them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.changes import Decided, HistoryEntry, Reads
from domain.errors import ResolutionRefused
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    AMOUNT_KES,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_payment,
    a_restored_payment,
    a_send,
    an_inquiry,
    attempts_with,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, entry_of, event_of, payment_of
from tests.unit.deciding import ACKNOWLEDGED, NOT_ACTED, SILENCE, decide

S, V = Stage, InquiryOutcome
MINUTE = timedelta(minutes=1)
OPEN = (S.AWAITING_RESULT, S.IN_DOUBT)
DECIDED_BY: dict[str, Any] = {"operator": "wanjiku", "reason": "statement of 1 March, page 2"}
PAID = Resolution(decision=OperatorDecision.PAID, receipt=RECEIPT, **DECIDED_BY)
UNPAID = Resolution(decision=OperatorDecision.UNPAID, **DECIDED_BY)
REVIEWED = Resolution(decision=OperatorDecision.REVIEWED, **DECIDED_BY)
FOUND_UNPAID = Failure(FailureReason.RESOLVED_BY_OPERATOR, safe_to_retry=True)
REPORTED_FAILED = Failure(FailureReason.CANCELLED_BY_CUSTOMER, True, "1032")
NEVER_SENT = {
    FailureReason.CANCELLED_BY_CALLER: "its caller, or an operator for its caller, cancelled it",
    FailureReason.NOT_SUBMITTED_IN_TIME: "it could not be sent in time",
}


def a_flagged_payment(stage: Stage = S.IN_DOUBT, **overrides: Any) -> Payment:
    """A payment whose result window is over."""
    fields = {"kind": Kind.BILL_PAYMENT, "needs_review": True, "created_at": NOW - 60 * MINUTE}
    return a_payment(stage=stage, **{**fields, **overrides})


def a_failed_payment(reason: FailureReason, **overrides: Any) -> Payment:
    return a_flagged_payment(S.FAILED, failure=Failure(reason, True, "1"), **overrides)


def resolve(
    payment: Payment | None, resolution: Resolution, *inquiries: Inquiry, **known: Any
) -> Decided:
    return decide(resolution_change(PAYMENT_ID, resolution), payment, *inquiries, **known)


def refusal(
    payment: Payment | None, resolution: Resolution, *inquiries: Inquiry, **known: Any
) -> str:
    with pytest.raises(ResolutionRefused) as caught:
        resolve(payment, resolution, *inquiries, **known)
    return caught.value.message


# --- decisions ------------------------------------------------------------------------------------


@for_each("kind", Kind)
@for_each("stage", OPEN)
@for_each("needs_review", [True, False])
@for_each("amount", [None, 400])
def test_a_payment_that_the_statement_shows_as_paid_succeeds(
    kind: Kind, stage: Stage, needs_review: bool, amount: int | None
) -> None:
    """The settled amount is that of the request, unless the operator gives another amount."""
    payment = a_flagged_payment(stage, kind=kind, needs_review=needs_review)
    decision = resolve(payment, replace(PAID, amount_kes=amount))
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, False)
    assert (after.amount_settled_kes, after.request) == (amount or AMOUNT_KES, payment.request)
    assert entry_of(decision) is HistoryEntry.RESOLVED_PAID
    assert event_of(decision) is EventType.SUCCEEDED
    assert detail_of(decision) == {**DECIDED_BY, **({"amount": "400"} if amount else {})}


@for_each("kind", Kind)
@for_each("stage", OPEN)
def test_a_payment_that_the_statement_shows_as_unpaid_fails(kind: Kind, stage: Stage) -> None:
    decision = resolve(a_flagged_payment(stage, kind=kind), UNPAID)
    after = payment_of(decision)
    assert (after.stage, after.failure, after.needs_review) == (S.FAILED, FOUND_UNPAID, False)
    assert entry_of(decision) is HistoryEntry.RESOLVED_UNPAID
    assert (event_of(decision), detail_of(decision)) == (EventType.FAILED, DECIDED_BY)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not S.ACCEPTED])
def test_a_review_clears_the_flag_and_changes_nothing_else(stage: Stage) -> None:
    payment = a_flagged_payment(stage)
    decision = resolve(payment, REVIEWED)
    assert decision.payment == replace(payment, needs_review=False)
    assert entry_of(decision) is HistoryEntry.REVIEWED
    assert (event_of(decision), detail_of(decision)) == (None, DECIDED_BY)
    assert "not flagged" in refusal(replace(payment, needs_review=False), REVIEWED)


@pytest.mark.parametrize(
    ("failure", "known"),
    [
        (SILENCE, {}),
        # success outranks failure, whatever the source (rules.md §7)
        (FOUND_UNPAID, {}),
        # if inquiries are impossible or repeat the failure, only an operator can correct it
        (
            Failure(FailureReason.SUBSCRIBER_BUSY, True, "500.001.1001"),
            {"unconfirmed_receipts": frozenset({RECEIPT})},
        ),
    ],
    ids=["Daraja was silent", "resolved as unpaid", "a callback disputes it"],
)
def test_an_operator_may_correct_a_failure_that_daraja_did_not_report_or_a_callback_disputes(
    failure: Failure, known: dict[str, Any]
) -> None:
    decision = resolve(a_flagged_payment(S.FAILED, failure=failure), PAID, **known)
    after = payment_of(decision)
    assert (after.stage, after.failure, after.receipt) == (S.SUCCEEDED, None, RECEIPT)
    assert event_of(decision) is EventType.CORRECTED


@pytest.mark.parametrize("decision", [PAID, UNPAID])
def test_an_operator_decides_an_unsent_payment_only_if_it_is_flagged(decision: Resolution) -> None:
    """A flag stops the send. Daraja reported on the payment, although our record shows no send."""
    unsent = a_flagged_payment(S.ACCEPTED, attempts=attempts_with(NOT_ACTED))
    assert "is not sent yet" in refusal(replace(unsent, needs_review=False), decision)
    assert payment_of(resolve(unsent, decision)).stage.is_final


# --- refusals -------------------------------------------------------------------------------------


PAID_OR_UNPAID = (PAID, UNPAID)
NOT_A_RECEIPT = (None, "", "UC14", "UC10000000", "TK61000000", "UC14KD82Q!")


@for_each(
    ("payment", "decision", "text"),
    [
        *((None, decision, "no such payment") for decision in (*PAID_OR_UNPAID, REVIEWED)),
        *((a_flagged_payment(S.SUCCEEDED), one, "succeeded. ") for one in PAID_OR_UNPAID),
        *((a_flagged_payment(S.SUBMITTING), one, "being sent right now") for one in PAID_OR_UNPAID),
        (a_flagged_payment(S.FAILED, failure=SILENCE), UNPAID, "already failed"),
        # M-PESA must be able to move the amount
        *((a_flagged_payment(), replace(PAID, amount_kes=n), "--amount") for n in (0, -1, 250_001)),
        *((a_flagged_payment(), replace(PAID, receipt=r), "--receipt") for r in NOT_A_RECEIPT),
    ],
)
def test_a_decision_that_does_not_fit_the_payment_or_is_incomplete_is_refused(
    payment: Payment | None, decision: Resolution, text: str
) -> None:
    assert text in refusal(payment, decision)


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for reason in FailureReason
        if reason not in (SILENCE.reason, FOUND_UNPAID.reason, *NEVER_SENT)
    ],
)
def test_an_operator_cannot_correct_a_failure_that_daraja_reported(reason: FailureReason) -> None:
    assert "Daraja said that the payment failed" in refusal(a_failed_payment(reason), PAID)


def test_paid_rejects_a_receipt_of_another_payment() -> None:
    assert "another payment" in refusal(a_flagged_payment(), PAID, is_receipt_of_other=True)
    # the store looks up which payment has the receipt
    assert resolution_change(PAYMENT_ID, PAID).receipt == RECEIPT


@pytest.mark.parametrize("stage", OPEN)
def test_a_stored_message_of_success_forbids_unpaid(stage: Stage) -> None:
    payment = a_flagged_payment(stage)
    assert "stored callback" in refusal(payment, UNPAID, claims_success=True)
    resolve(payment, UNPAID, has_message=True)


@pytest.mark.parametrize(
    ("kind", "denials"), [(Kind.DEPOSIT, 2), (Kind.WITHDRAWAL, 1), (Kind.BILL_PAYMENT, 1)]
)
def test_a_message_of_success_that_daraja_denied_does_not_forbid_unpaid(
    kind: Kind, denials: int
) -> None:
    """Daraja denied the success. A forged message must not forbid `unpaid` for ever."""
    denied = [an_inquiry(number, V.FAILED) for number in range(1, denials + 1)]
    known = {
        "claims_success": True,
        "unconfirmed_receipts": frozenset({RECEIPT}),
        "unconfirmed_since": NOW,
    }
    payment = a_flagged_payment(kind=kind)
    resolve(payment, UNPAID, *denied, **known)
    later = {**known, "unconfirmed_since": NOW + timedelta(seconds=1)}
    for message in (
        refusal(payment, UNPAID, *denied[1:], **known),
        refusal(payment, UNPAID, *denied, **later),
        refusal(payment, UNPAID, *denied, claims_success=True),
    ):
        assert "stored callback" in message


@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_an_inquiry_answered_paid_forbids_unpaid(outcome: InquiryOutcome) -> None:
    answered = an_inquiry(1, outcome)
    if outcome is V.PAID:
        assert "answered an inquiry" in refusal(a_flagged_payment(), UNPAID, answered)
    else:
        resolve(a_flagged_payment(), UNPAID, answered)
    assert resolution_change(PAYMENT_ID, UNPAID).reads is Reads.EVIDENCE


# --- amounts and unsent payments ------------------------------------------------------------------


def settled_amount(
    payment: Payment, decision: Resolution, *inquiries: Inquiry, **known: Any
) -> int | None:
    after = payment_of(resolve(payment, decision, *inquiries, **known))
    assert after.stage is S.SUCCEEDED
    return after.amount_settled_kes


@pytest.mark.parametrize(
    "payment",
    [
        *(a_flagged_payment(stage) for stage in OPEN),
        *(a_flagged_payment(S.FAILED, failure=one) for one in (SILENCE, REPORTED_FAILED)),
    ],
)
def test_paid_needs_an_amount_if_a_message_names_another_amount(payment: Payment) -> None:
    known = {"names_another_amount": True, "claims_success": True}
    assert "--amount" in refusal(payment, PAID, **known)
    for amount in (400, AMOUNT_KES):
        assert settled_amount(payment, replace(PAID, amount_kes=amount), **known) == amount


@for_each("kind", Kind)
@for_each("reason", NEVER_SENT)
@for_each("outcomes", [(), (NOT_ACTED,)])
def test_an_unsent_payment_cannot_be_resolved_as_paid(
    outcomes: tuple[Outcome, ...], reason: FailureReason, kind: Kind
) -> None:
    payment = a_failed_payment(reason, kind=kind, attempts=attempts_with(*outcomes))
    message = refusal(payment, PAID)
    assert f"never sent to Daraja: {NEVER_SENT[reason]}" in message
    assert "Daraja said" not in message


@for_each("reason", NEVER_SENT)
@for_each(
    ("inquiries", "known"),
    [
        ([], {"claims_success": True}),
        ([], {"unconfirmed_receipts": frozenset({RECEIPT})}),
        ([], {"names_another_amount": True}),
        ([an_inquiry(1, V.PAID)], {}),
    ],
)
def test_an_unsent_payment_may_be_resolved_as_paid_if_a_message_claims_success(
    inquiries: list[Inquiry], known: dict[str, Any], reason: FailureReason
) -> None:
    paid = replace(PAID, amount_kes=AMOUNT_KES)
    assert settled_amount(a_failed_payment(reason), paid, *inquiries, **known) == AMOUNT_KES


# --- the earliest time of `unpaid` ----------------------------------------------------------------


def sent_ago(since: timedelta, outcome: Outcome = ACKNOWLEDGED, **fields: Any) -> Payment:
    """A payment whose only send ended this long ago."""
    return a_flagged_payment(attempts=(a_send(outcome, at=NOW - since),), **fields)


@for_each("kind", Kind)
@for_each("stage", OPEN)
@for_each("outcome", [outcome for outcome in Outcome if not outcome.is_accounted_for])
def test_unpaid_is_rejected_until_the_result_window_of_the_kind_ends(
    outcome: Outcome, stage: Stage, kind: Kind
) -> None:
    """Daraja may pay a send whose answer was lost, like a send that it acknowledged."""
    window = (3 if kind is Kind.DEPOSIT else 5) * MINUTE
    for since in (timedelta(0), window - timedelta(seconds=1)):
        waiting = sent_ago(since, outcome, stage=stage, kind=kind)
        earliest = f"{NOW - since + window:%Y-%m-%d %H:%M:%S} UTC"
        assert f"Try again after {earliest}" in refusal(waiting, UNPAID)
        resolve(waiting, PAID)
        for known in (outcome for outcome in Outcome if outcome.is_accounted_for):
            resolve(sent_ago(since, known, stage=stage, kind=kind), UNPAID)
    resolve(sent_ago(window, outcome, stage=stage, kind=kind), UNPAID)


def test_the_window_of_a_deposit_under_way_is_longer() -> None:
    payment = sent_ago(4 * MINUTE, kind=Kind.DEPOSIT)
    resolve(payment, UNPAID)
    under_way = an_inquiry(1, V.UNDER_WAY, at=NOW - MINUTE)
    assert "Try again" in refusal(payment, UNPAID, under_way)


def test_the_result_window_follows_the_settings_of_the_worker() -> None:
    longer = replace(TIMES, result_window=10 * MINUTE)
    with pytest.raises(ResolutionRefused, match="Try again"):
        decide(
            resolution_change(PAYMENT_ID, UNPAID, longer), sent_ago(4 * MINUTE, kind=Kind.DEPOSIT)
        )


@pytest.mark.parametrize("resolution", [UNPAID, REVIEWED])
def test_soon_after_a_restore_no_decision_calls_an_unsent_payment_unpaid(
    resolution: Resolution,
) -> None:
    """It may have been sent just before, and its result may still come. The statement shows it."""
    assert "restored a moment ago" in refusal(a_restored_payment(ago=4 * MINUTE), resolution)
    resolve(a_restored_payment(ago=5 * MINUTE), resolution)
    resolve(a_restored_payment(), PAID)


def test_a_reviewed_payment_that_waits_to_be_sent_is_sent_at_once() -> None:
    """A restore has postponed its step for a lifetime."""
    settled = payment_of(resolve(a_restored_payment(ago=10 * MINUTE), REVIEWED))
    assert (settled.stage, settled.needs_review, settled.next_step_at) == (S.ACCEPTED, False, NOW)


def test_a_payment_that_is_too_old_to_be_sent_cannot_be_resolved_as_reviewed() -> None:
    """The sweeper would then fail it as safe to retry, although M-PESA may have paid it."""
    too_old = a_flagged_payment(S.ACCEPTED, expires_at=NOW - MINUTE)
    assert "too old to be sent" in refusal(too_old, REVIEWED)
