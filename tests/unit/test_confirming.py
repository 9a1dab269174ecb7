"""Above an amount that policy names, a callback's success is believed only once Daraja has
confirmed it.
"""

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
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
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
from tests.decisions import entry_of, event_of, inquiry_of, payment_of

D, S, V = Disposition, Stage, InquiryOutcome
OPEN = [S.AWAITING_RESULT, S.IN_DOUBT]
MINUTE = timedelta(minutes=1)
OTHER_RECEIPT = "UC1OTHER22"

# Daraja's own word: STK query names no receipt, Transaction Status does.
QUERY_PAID = a_report(code="0", inquiry_outcome=V.PAID, receipt=None, has_amount=False, amount=None)
STATUS_PAID = a_report(code="Completed", inquiry_outcome=V.PAID)
SAYS_FAILED = a_report(ReportedOutcome.FAILURE, code="1032", inquiry_outcome=V.FAILED)


def told(
    payment: Payment,
    report: Report | None = None,
    *,
    above: int | None = AMOUNT_KES - 1,
    **known: Any,
) -> Decided:
    """What a callback does to `payment`, where policy wants successes over `above` confirmed."""
    context = {
        name: known.pop(name) for name in ("is_receipt_of_other", "ids_of_others") if name in known
    }
    return judge_report(
        payment,
        a_context(evidence=evidence_of(*known.pop("inquiries", ()), **known), **context),
        report or a_report(),
        confirm_above_kes=above,
    )


def answered(
    payment: Payment,
    report: Report,
    *,
    receipts_of_others: frozenset[str] = frozenset(),
    **known: Any,
) -> Decided:
    """What Daraja's answer to our first question does to `payment`."""
    asked = an_inquiry(1, at=NOW - MINUTE)
    evidence = evidence_of(asked, has_message=True, claims_success=True, **known)
    change = inquiry_answer_change(PAYMENT_ID, 1, report, (), TIMES)
    return change.decide(
        payment, a_context(evidence=evidence, receipts_of_others=receipts_of_others)
    )


def waiting(*receipts: str, since: timedelta = MINUTE) -> dict[str, Any]:
    """What is known while successes with these receipts wait to be confirmed."""
    return {
        "unconfirmed_receipts": frozenset(receipts or (RECEIPT,)),
        "unconfirmed_since": NOW - since,
    }


# --- a success that is told -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_success_above_the_limit_waits_and_brings_the_inquiry_forward(
    stage: Stage, kind: Kind
) -> None:
    payment = a_payment(stage=stage, kind=kind)
    decision = told(payment)
    assert decision.payment == replace(payment, next_step_at=NOW)
    assert (decision.disposition, entry_of(decision), decision.is_message_flagged) == (
        D.AWAITS_CONFIRMATION,
        HistoryEntry.AWAITS_CONFIRMATION,
        False,
    )
    assert event_of(decision) is None


@for_each("above", [None, AMOUNT_KES, AMOUNT_KES + 1])
@for_each("stage", [*OPEN, S.SUBMITTING, S.ACCEPTED])
def test_a_success_up_to_the_limit_finalizes(stage: Stage, above: int | None) -> None:
    decision = told(a_payment(stage=stage), above=above)
    assert (payment_of(decision).stage, decision.disposition) == (S.SUCCEEDED, D.FINALIZED)


def test_an_unconfirmed_success_stores_the_ids_for_an_inquiry() -> None:
    """The message may be the first to name them: Daraja's own answer was lost."""
    ids = frozenset(INQUIRY_IDS[Kind.DEPOSIT].items())
    decision = told(a_payment(stage=S.IN_DOUBT), a_report(ids=ids))
    assert (decision.ids, decision.attempt_id) == (ids, an_attempt_id())


def test_an_unconfirmed_success_during_a_send_is_inquired_about_after_the_lease() -> None:
    payment = a_payment(stage=S.SUBMITTING)
    assert payment.lease_until is not None
    decision = told(payment)
    assert decision.payment == replace(
        payment, next_step_at=payment.lease_until - timedelta(microseconds=1)
    )
    assert decision.disposition is D.AWAITS_CONFIRMATION


def test_an_unconfirmed_success_of_an_unsent_payment_flags_it() -> None:
    """Else it would be sent, and paid twice."""
    payment = a_payment(stage=S.ACCEPTED, attempts=(an_attempt(Outcome.NOT_ACTED),))
    decision = told(payment)
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (D.CONTRADICTION, True)


@pytest.mark.parametrize("stage", [S.SUBMITTING, S.IN_DOUBT])
def test_a_payment_proved_unsent_is_flagged_if_a_stored_message_claims_success(
    stage: Stage,
) -> None:
    """A worker's late proof that nothing was written must not have it sent: somebody says that
    it was paid.
    """
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
    """Its subscribers were told that it failed: somebody should see it, whatever Daraja answers."""
    payment = a_payment(stage=S.FAILED)
    decision = told(payment)
    assert decision.payment == replace(payment, needs_review=True, next_step_at=NOW)
    assert (decision.disposition, decision.is_message_flagged, event_of(decision)) == (
        D.AWAITS_CONFIRMATION,
        True,
        None,
    )


def test_a_succeeded_payment_gets_its_receipt_without_confirmation() -> None:
    decision = told(a_payment(stage=S.SUCCEEDED, receipt=None))
    assert (payment_of(decision).receipt, event_of(decision)) == (RECEIPT, EventType.RECEIPT_ADDED)
    assert told(a_payment(stage=S.SUCCEEDED)).disposition is D.DUPLICATE


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
    decision = told(a_payment(stage=S.AWAITING_RESULT), report, **known)
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


# --- told again -----------------------------------------------------------------------------------


def test_the_history_shows_a_repeated_unconfirmed_success_once() -> None:
    decision = told(a_payment(stage=S.AWAITING_RESULT), **waiting())
    assert (decision.disposition, entry_of(decision)) == (D.AWAITS_CONFIRMATION, None)


@for_each(
    ("reminders", "seconds"),
    [(0, 0), (1, 25), (2, 55), (3, 115), (4, 235), (5, 295), (50, 295), (10_000, 295)],
)
@for_each("word", [ReportedOutcome.SUCCESS, ReportedOutcome.TIMEOUT, ReportedOutcome.UNDECIDED])
def test_repeated_messages_bring_inquiries_forward_less_and_less(
    word: ReportedOutcome, reminders: int, seconds: int
) -> None:
    """Five seconds after a question the next may be brought forward to so much later, and no
    sooner.
    """
    payment = a_payment(stage=S.IN_DOUBT, next_step_at=NOW + timedelta(hours=1))
    decision = told(
        payment,
        a_report(word),
        reminder_count=reminders,
        inquiries=[an_inquiry(1, at=NOW - timedelta(seconds=5))],
    )
    assert payment_of(decision).next_step_at == NOW + timedelta(seconds=seconds)


def test_a_message_never_postpones_an_inquiry() -> None:
    asked = [an_inquiry(1, at=NOW)]
    for due in (NOW - MINUTE, NOW, NOW + timedelta(seconds=1)):
        payment = a_payment(stage=S.IN_DOUBT, next_step_at=due)
        assert payment_of(told(payment, reminder_count=9, inquiries=asked)).next_step_at == due


# --- Daraja's answer ------------------------------------------------------------------------------


def test_a_query_answered_paid_finalizes_with_the_unconfirmed_receipt() -> None:
    decision = answered(a_due_payment(Kind.DEPOSIT), QUERY_PAID, **waiting())
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, False)
    assert (event_of(decision), decision.is_message_flagged) == (EventType.SUCCEEDED, False)


@pytest.mark.parametrize(
    ("known", "others"),
    [(waiting(RECEIPT, OTHER_RECEIPT), frozenset()), (waiting(), frozenset({RECEIPT}))],
    ids=["two receipts", "another payment's"],
)  # fmt: skip
def test_a_disputed_receipt_is_not_used_and_flags_the_payment(
    known: dict[str, Any], others: frozenset[str]
) -> None:
    """That it was paid is Daraja's own word; whose receipt it is, nobody's."""
    decision = answered(a_due_payment(Kind.DEPOSIT), QUERY_PAID, receipts_of_others=others, **known)
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
    decision = answered(a_due_payment(), STATUS_PAID, **waiting(*receipts))
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, RECEIPT, is_flagged)
    assert decision.is_message_flagged is is_flagged


def test_a_receipt_that_another_payment_has_by_now_does_not_finalize_a_payout() -> None:
    change = inquiry_answer_change(PAYMENT_ID, 1, STATUS_PAID, (), TIMES)
    context = a_context(evidence=evidence_of(an_inquiry(1), **waiting()), is_receipt_of_other=True)
    decision = change.decide(a_due_payment(), context)
    assert (payment_of(decision).stage, decision.disposition) == (
        S.IN_DOUBT,
        D.RECEIPT_OF_ANOTHER_PAYMENT,
    )


def test_a_confirmed_correction_is_announced() -> None:
    decision = answered(a_due_payment(stage=S.FAILED, needs_review=True), STATUS_PAID, **waiting())
    after = payment_of(decision)
    assert (after.stage, after.receipt, event_of(decision)) == (
        S.SUCCEEDED,
        RECEIPT,
        EventType.CORRECTED,
    )


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", [*OPEN, S.FAILED])
def test_an_answer_of_failed_only_flags_a_payment_with_an_unconfirmed_success(
    stage: Stage, kind: Kind
) -> None:
    payment = a_due_payment(kind, stage)
    decision = answered(payment, SAYS_FAILED, **waiting())
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, event_of(decision)) == (D.CONTRADICTION, None)


@pytest.mark.parametrize("stage", [*OPEN, S.SUBMITTING])
def test_a_callback_of_failed_only_flags_a_payment_with_an_unconfirmed_success(
    stage: Stage,
) -> None:
    """Success outranks failure also where it is not yet confirmed."""
    payment = a_payment(stage=stage)
    decision = told(payment, a_report(ReportedOutcome.FAILURE), **waiting())
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (D.CONTRADICTION, True)


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


# --- no answer ------------------------------------------------------------------------------------


def next_question(payment: Payment, *inquiries: Inquiry, **known: Any) -> timedelta | None:
    """How long after this question the next one comes, or None where this is the last."""
    decision = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS).decide(
        payment, a_context(evidence=evidence_of(*inquiries, **known))
    )
    assert inquiry_of(decision) is not None
    due = payment_of(decision).next_step_at
    return None if due is None else due - NOW


def ago(*minutes: int, outcome: InquiryOutcome | None = None) -> list[Inquiry]:
    return [an_inquiry(n, outcome, at=NOW - n_ago * MINUTE) for n, n_ago in enumerate(minutes, 1)]


@pytest.mark.parametrize("kind", Kind)
def test_inquiries_about_a_failed_payment_continue_until_daraja_answers(kind: Kind) -> None:
    """What was asked before the success came says nothing about it."""
    payment = a_due_payment(kind, S.FAILED)
    since = waiting(since=timedelta(minutes=30))
    assert next_question(payment) is None
    assert next_question(payment, **since) == timedelta(seconds=30)
    assert next_question(payment, *ago(90, 80, outcome=V.FAILED), **since) == timedelta(seconds=30)
    assert next_question(payment, *ago(20), **since) == timedelta(seconds=60)
    assert next_question(payment, *ago(20, 10, outcome=V.NO_ANSWER), **since) == timedelta(
        seconds=120
    )
    assert next_question(payment, *ago(20, 10, outcome=V.FAILED), **since) is None
    assert next_question(payment, *ago(*range(29, 19, -1)), **since) is None  # a person was told


def test_one_query_answered_failed_does_not_end_the_inquiries_about_a_deposit() -> None:
    """Queries have contradicted callbacks (daraja.md §3)."""
    denied = ago(10, outcome=V.FAILED)
    assert (
        next_question(
            a_due_payment(Kind.DEPOSIT, S.FAILED), *denied, **waiting(since=timedelta(minutes=30))
        )
        is not None
    )
    assert (
        next_question(
            a_due_payment(Kind.WITHDRAWAL, S.FAILED),
            *denied,
            **waiting(since=timedelta(minutes=30)),
        )
        is None
    )


def test_an_open_payment_is_inquired_about_as_usual_and_flagged_in_the_end() -> None:
    since = waiting(since=timedelta(minutes=30))
    payment = a_due_payment()
    assert next_question(payment, *ago(20), **since) == timedelta(seconds=60)
    asked = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS)
    decision = asked.decide(
        payment, a_context(evidence=evidence_of(*ago(*range(19, 9, -1)), **since))
    )
    assert payment_of(decision).needs_review
