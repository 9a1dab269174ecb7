"""Above an amount in the policy, a callback's success waits until Daraja confirms it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.changes import Decided, Disposition, HistoryEntry, Reads
from domain.errors import Unreachable
from domain.events import EventType
from domain.kinds import Kind
from domain.lifecycle.judge_report import judge_report
from domain.lifecycle.record_answer import answer_change
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    AMOUNT_KES,
    INQUIRY_IDS,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_callback,
    a_context,
    a_due_payment,
    a_payment,
    a_report,
    an_attempt,
    an_attempt_id,
    an_inquiry,
    an_open_attempt,
    evidence_of,
)
from tests.case_tables import for_each
from tests.decisions import entry_of, event_of, payment_of
from tests.unit.unconfirmed import MINUTE, STATUS_PAID, unconfirmed

D, S = Disposition, Stage
OPEN = [S.AWAITING_RESULT, S.IN_DOUBT]


def decide_callback(
    payment: Payment,
    report: Report | None = None,
    *,
    above: int | None = AMOUNT_KES - 1,
    **known: Any,
) -> Decided:
    """Decides about a callback. Successes over `above` need a confirmation."""
    context = {
        name: known.pop(name) for name in ("is_receipt_of_other", "ids_of_others") if name in known
    }
    return judge_report(
        payment,
        a_context(evidence=evidence_of(*known.pop("inquiries", ()), **known), **context),
        report or a_report(),
        confirm_above_kes=above,
    )


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_success_above_the_limit_waits_and_brings_the_inquiry_forward(
    stage: Stage, kind: Kind
) -> None:
    payment = a_payment(stage=stage, kind=kind)
    decision = decide_callback(payment)
    assert decision.payment == replace(payment, next_step_at=NOW)
    assert decision.disposition == D.AWAITS_CONFIRMATION
    assert entry_of(decision) is HistoryEntry.AWAITS_CONFIRMATION
    assert not decision.is_message_flagged
    assert event_of(decision) is None


@for_each("above", [None, AMOUNT_KES, AMOUNT_KES + 1])
@for_each("stage", [*OPEN, S.SUBMITTING, S.ACCEPTED])
def test_a_success_up_to_the_limit_finalizes(stage: Stage, above: int | None) -> None:
    decision = decide_callback(a_payment(stage=stage), above=above)
    assert (payment_of(decision).stage, decision.disposition) == (S.SUCCEEDED, D.FINALIZED)


def test_an_unconfirmed_success_stores_the_ids_for_an_inquiry() -> None:
    """The message may be the first with these ids, because Daraja's answer to the send was lost."""
    ids = frozenset(INQUIRY_IDS[Kind.DEPOSIT].items())
    decision = decide_callback(a_payment(stage=S.IN_DOUBT), a_report(ids=ids))
    assert (decision.ids, decision.attempt_id) == (ids, an_attempt_id())


def test_an_unconfirmed_success_during_a_send_is_inquired_about_after_the_lease() -> None:
    payment = a_payment(stage=S.SUBMITTING)
    assert payment.lease_until is not None
    decision = decide_callback(payment)
    assert decision.payment == replace(
        payment, next_step_at=payment.lease_until - timedelta(microseconds=1)
    )
    assert decision.disposition is D.AWAITS_CONFIRMATION


def test_an_unconfirmed_success_of_an_unsent_payment_flags_it() -> None:
    """Otherwise a worker would send it, and it would be paid twice."""
    payment = a_payment(stage=S.ACCEPTED, attempts=(an_attempt(Outcome.NOT_ACTED),))
    decision = decide_callback(payment)
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (D.CONTRADICTION, True)


@pytest.mark.parametrize("stage", [S.SUBMITTING, S.IN_DOUBT])
def test_a_payment_proved_unsent_is_flagged_if_a_stored_message_claims_success(
    stage: Stage,
) -> None:
    """Otherwise a worker's late proof that it wrote nothing would cause a second payment."""
    change = answer_change(
        PAYMENT_ID, an_open_attempt(), frozenset(), Unreachable(), TIMES, ACCOUNTS
    )
    payment = a_payment(stage=stage)
    for claims_success in (True, False):
        context = a_context(
            evidence=evidence_of(has_message=claims_success, claims_success=claims_success)
        )
        after = payment_of(change.decide(payment, context))
        assert (after.stage, after.needs_review) == (S.ACCEPTED, claims_success)


def test_a_correction_flags_the_payment_at_once_and_needs_confirmation() -> None:
    """Subscribers got an event of the failure, so an operator should look at it in any case."""
    payment = a_payment(stage=S.FAILED)
    decision = decide_callback(payment)
    assert decision.payment == replace(payment, needs_review=True, next_step_at=NOW)
    assert decision.disposition == D.AWAITS_CONFIRMATION
    assert (decision.is_message_flagged, event_of(decision)) == (True, None)


def test_a_succeeded_payment_gets_its_receipt_without_confirmation() -> None:
    decision = decide_callback(a_payment(stage=S.SUCCEEDED, receipt=None))
    assert (payment_of(decision).receipt, event_of(decision)) == (RECEIPT, EventType.RECEIPT_ADDED)
    assert decide_callback(a_payment(stage=S.SUCCEEDED)).disposition is D.DUPLICATE


@pytest.mark.parametrize(
    ("report", "known", "disposition"),
    [
        (a_report(amount=Decimal(AMOUNT_KES + 1)), {}, D.AMOUNT_DIFFERS),
        (a_report(receipt=None), {}, D.SUCCESS_WITHOUT_RECEIPT),
        (a_report(has_amount=False, amount=None), {}, D.SUCCESS_WITHOUT_RECEIPT),
        (a_report(), {"is_receipt_of_other": True}, D.RECEIPT_OF_ANOTHER_PAYMENT),
        (a_report(), {"ids_of_others": frozenset({("checkout_request_id", "x")})}, D.IDS_DIFFER),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_success_that_is_not_believed_below_the_limit_does_not_wait_above_it(
    report: Report, known: dict[str, Any], disposition: Disposition
) -> None:
    decision = decide_callback(a_payment(stage=S.AWAITING_RESULT), report, **known)
    assert (decision.disposition, decision.is_message_flagged) == (disposition, True)


def test_a_success_from_a_wrong_source_does_not_wait_for_confirmation() -> None:
    context = a_context()
    decision = judge_report(
        a_payment(stage=S.IN_DOUBT), context, a_report(), source_allowed=False, confirm_above_kes=0
    )
    assert decision.disposition is D.WRONG_SOURCE


@pytest.mark.parametrize("stage", [*OPEN, S.FAILED, S.SUBMITTING])
def test_an_answer_to_an_inquiry_is_the_confirmation(stage: Stage) -> None:
    change = callback_change(
        PAYMENT_ID, a_callback(operation="status-1"), STATUS_PAID, confirm_above_kes=0
    )
    context = a_context(evidence=evidence_of(an_inquiry(1, at=NOW - MINUTE)))
    payment = a_due_payment(stage=stage)
    assert payment_of(change.decide(payment, context)).stage is S.SUCCEEDED


def test_a_callback_reads_the_evidence_if_unconfirmed_successes_matter() -> None:
    assert (
        callback_change(PAYMENT_ID, a_callback(), a_report(), confirm_above_kes=0).reads
        is Reads.EVIDENCE
    )
    assert callback_change(PAYMENT_ID, a_callback(), a_report()).reads is Reads.PAYMENT
    assert (
        callback_change(PAYMENT_ID, a_callback(), a_report(ReportedOutcome.FAILURE)).reads
        is Reads.EVIDENCE
    )


# --- repeated messages ----------------------------------------------------------------------------


def test_the_history_shows_a_repeated_unconfirmed_success_once() -> None:
    decision = decide_callback(a_payment(stage=S.AWAITING_RESULT), **unconfirmed())
    assert (decision.disposition, entry_of(decision)) == (D.AWAITS_CONFIRMATION, None)


@for_each(
    ("reminders", "seconds"),
    [(0, 0), (1, 25), (2, 55), (3, 115), (4, 235), (5, 295), (50, 295), (10_000, 295)],
)
@for_each("outcome", [ReportedOutcome.SUCCESS, ReportedOutcome.TIMEOUT, ReportedOutcome.UNDECIDED])
def test_repeated_messages_bring_inquiries_forward_less_and_less(
    outcome: ReportedOutcome, reminders: int, seconds: int
) -> None:
    """Five seconds after an inquiry, a message moves the next one to `seconds` from now."""
    payment = a_payment(stage=S.IN_DOUBT, next_step_at=NOW + timedelta(hours=1))
    decision = decide_callback(
        payment,
        a_report(outcome),
        reminder_count=reminders,
        inquiries=[an_inquiry(1, at=NOW - timedelta(seconds=5))],
    )
    assert payment_of(decision).next_step_at == NOW + timedelta(seconds=seconds)


def test_a_message_never_postpones_an_inquiry() -> None:
    inquiries = [an_inquiry(1, at=NOW)]
    for due in (NOW - MINUTE, NOW, NOW + timedelta(seconds=1)):
        payment = a_payment(stage=S.IN_DOUBT, next_step_at=due)
        decision = decide_callback(payment, reminder_count=9, inquiries=inquiries)
        assert payment_of(decision).next_step_at == due


@pytest.mark.parametrize("stage", [*OPEN, S.SUBMITTING])
def test_a_callback_of_failed_only_flags_a_payment_with_an_unconfirmed_success(
    stage: Stage,
) -> None:
    """A success outranks a failure even before it is confirmed."""
    payment = a_payment(stage=stage)
    decision = decide_callback(payment, a_report(ReportedOutcome.FAILURE), **unconfirmed())
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (D.CONTRADICTION, True)
