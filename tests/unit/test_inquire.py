"""Each due time gets one inquiry, stored before its send. Some payments get no inquiry."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.changes import Decided, HistoryEntry
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_change, postponement_change, watch_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import ACCOUNTS, NOW, PAYMENT_ID, TIMES, a_due_payment, a_send, an_inquiry
from tests.case_tables import for_each
from tests.decisions import entry_of, event_of, inquiry_of, payment_of
from tests.unit.deciding import SILENCE, decide, decide_inquiry

S = Stage
SECOND = timedelta(seconds=1)
SENT_AT = NOW - timedelta(minutes=20)
OPEN = (S.AWAITING_RESULT, S.IN_DOUBT)
WITHOUT_ID = (a_send(Outcome.UNKNOWN, at=SENT_AT),)
BEFORE, SINCE = SENT_AT - SECOND, SENT_AT + SECOND


def a_probe(number: int, at: Any = SENT_AT) -> Inquiry:
    return replace(an_inquiry(number, InquiryOutcome.NO_ANSWER, at=at), is_probe=True)


# --- inquiries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_due_payment_gets_a_numbered_inquiry_and_a_time_for_the_next(
    stage: Stage, kind: Kind
) -> None:
    payment = a_due_payment(kind, stage)
    decision = decide_inquiry(payment)
    assert inquiry_of(decision) == Inquiry(1, NOW)
    assert decision.payment == replace(payment, next_step_at=NOW + 30 * SECOND)
    assert (entry_of(decision), event_of(decision)) == (None, None)
    earlier = (an_inquiry(1, InquiryOutcome.NOT_FOUND, at=SENT_AT), an_inquiry(3, at=SENT_AT))
    assert inquiry_of(decide_inquiry(payment, *earlier)) == Inquiry(4, NOW)


@pytest.mark.parametrize(
    ("late", "expected"), [(0, True), (5, True), (5.000001, False), (30, False)]
)
def test_a_job_for_a_payment_that_is_not_due_stores_no_inquiry(late: float, expected: bool) -> None:
    """The sweeper moves the due time 5 s ahead when it queues the job.

    A later due time shows that another job has inquired meanwhile.
    """
    payment = a_due_payment(next_step_at=NOW + timedelta(seconds=late))
    decision = decide_inquiry(payment)
    assert (inquiry_of(decision) is not None) is expected
    assert (decision.payment == payment) is not expected


@pytest.mark.parametrize(
    ("first_after", "ago", "expected"),
    [
        (30 * SECOND, 0, False),
        (30 * SECOND, 4.999999, False),
        (30 * SECOND, 5, True),
        # a shorter first interval, as tests use it, shortens the pause
        (SECOND, 0.9, False),
        (SECOND, 1, True),
    ],
)
def test_no_inquiry_follows_another_within_five_seconds(
    first_after: timedelta, ago: float, expected: bool
) -> None:
    """Even ten callbacks within this time cause only one inquiry."""
    times = replace(TIMES, inquiry_first_after=first_after)
    earlier = an_inquiry(1, at=NOW - timedelta(seconds=ago))
    decision = decide(inquiry_change(PAYMENT_ID, times, ACCOUNTS), a_due_payment(), earlier)
    assert (inquiry_of(decision) is not None) is expected


@for_each(
    "payment",
    [
        None,
        *(a_due_payment(kind, stage) for kind in Kind for stage in (S.ACCEPTED, S.SUBMITTING)),
        a_due_payment(Kind.DEPOSIT, S.SUCCEEDED, next_step_at=None),
        a_due_payment(Kind.DEPOSIT, S.FAILED, next_step_at=None),
        a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID),
        a_due_payment(Kind.BILL_PAYMENT, attempts=WITHOUT_ID),
    ],
)
def test_a_payment_that_is_unsent_final_unknown_or_without_daraja_s_id_gets_no_inquiry(
    payment: Payment | None,
) -> None:
    assert decide_inquiry(payment) == Decided(payment=payment)
    if payment is None or payment.inquiry_step is None:
        assert decide_inquiry(payment, is_probe=True) == Decided(payment=payment)


@pytest.mark.parametrize("kind", Kind)
def test_while_the_breaker_is_open_no_inquiry_carries_the_credential(kind: Kind) -> None:
    """An STK query carries no credential. The kill switch alone stops no inquiry."""
    decision = decide_inquiry(a_due_payment(kind), breaker_is_open=True, payouts_are_stopped=True)
    assert (inquiry_of(decision) is not None) is (kind is Kind.DEPOSIT)
    assert inquiry_of(decide_inquiry(a_due_payment(kind), payouts_are_stopped=True)) is not None


@pytest.mark.parametrize("stage", [S.SUBMITTING, *OPEN, S.SUCCEEDED, S.FAILED])
def test_a_probe_is_stored_at_any_time_and_changes_nothing_else(stage: Stage) -> None:
    """The payment may be final. A probe only shows whether Daraja accepts the credential again."""
    payment = a_due_payment(
        stage=stage, next_step_at=None if stage.is_final else NOW + timedelta(hours=1)
    )
    decision = decide_inquiry(payment, an_inquiry(1, at=NOW), is_probe=True, breaker_is_open=True)
    assert (decision.payment, entry_of(decision)) == (payment, None)
    assert inquiry_of(decision) == Inquiry(2, NOW, is_probe=True)


@for_each("kind", Kind)
@for_each(
    ("inquiries", "wait"),
    [
        ([], 30),
        ([an_inquiry(1, at=BEFORE)], 30),  # about an earlier send
        ([a_probe(1, SINCE)], 30),
        ([an_inquiry(1, at=SENT_AT)], 60),
        ([*(an_inquiry(n, at=BEFORE) for n in range(1, 9)), an_inquiry(9, at=SINCE)], 60),
        ([*(a_probe(n, SINCE) for n in range(1, 11)), an_inquiry(11, at=SINCE)], 60),
        ([an_inquiry(n, InquiryOutcome.UNDER_WAY, at=SINCE) for n in range(1, 5)], 300),
    ],
)
def test_the_interval_counts_inquiries_since_the_last_send_and_no_probes(
    inquiries: list[Inquiry], wait: int, kind: Kind
) -> None:
    """Ten probes do not flag the payment."""
    decision = decide_inquiry(a_due_payment(kind), *inquiries)
    assert payment_of(decision).next_step_at == NOW + wait * SECOND
    assert entry_of(decision) is None


# --- postponed inquiries --------------------------------------------------------------------------


@for_each("kind", Kind)
@for_each("stage", Stage)
def test_a_postponed_inquiry_changes_only_the_due_time(stage: Stage, kind: Kind) -> None:
    payment = a_due_payment(kind, stage)
    decision = decide(postponement_change(PAYMENT_ID, 7 * SECOND), payment)
    is_postponed = stage not in (S.ACCEPTED, S.SUBMITTING)
    assert decision.payment == (
        replace(payment, next_step_at=NOW + 7 * SECOND) if is_postponed else payment
    )


@pytest.mark.parametrize(
    "payment",
    [
        None,
        a_due_payment(stage=S.SUCCEEDED, next_step_at=None),
        a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID),
    ],
)
def test_a_payment_without_an_inquiry_step_is_not_postponed(payment: Payment | None) -> None:
    assert decide(postponement_change(PAYMENT_ID, SECOND), payment).payment == payment


# --- watching -------------------------------------------------------------------------------------

WATCH = watch_change(PAYMENT_ID, TIMES)


def test_a_deposit_without_an_id_fails_for_silence_when_its_window_ends() -> None:
    """Until then, the deposit's due time is the end of the window."""
    payment = a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID)
    window_ends = SENT_AT + TIMES.result_window
    decision = decide(WATCH, payment, now=SENT_AT + SECOND)
    assert decision == Decided(payment=replace(payment, next_step_at=window_ends))
    decision = decide(WATCH, payment, now=window_ends)
    assert (payment_of(decision).failure, event_of(decision)) == (SILENCE, EventType.FAILED)
    unconfirmed = decide(WATCH, payment, now=window_ends, claims_success=True)
    assert payment_of(unconfirmed).stage is S.IN_DOUBT


def test_a_bill_payment_without_an_id_needs_a_person_when_its_result_is_overdue() -> None:
    payment = a_due_payment(Kind.BILL_PAYMENT, attempts=WITHOUT_ID)
    decision = decide(WATCH, payment)
    assert decision.payment == replace(
        payment, needs_review=True, next_step_at=NOW + TIMES.inquiry_interval_max
    )
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.NEEDS_A_PERSON, None)
    again = decide(WATCH, decision.payment)
    assert (entry_of(again), payment_of(again).stage) == (None, S.IN_DOUBT)


@pytest.mark.parametrize(
    "payment",
    [
        None,
        a_due_payment(Kind.DEPOSIT),  # a deposit with an id has an inquiry step
        a_due_payment(Kind.WITHDRAWAL),
        a_due_payment(Kind.DEPOSIT, S.SUBMITTING, attempts=WITHOUT_ID),
        a_due_payment(Kind.DEPOSIT, S.FAILED, attempts=WITHOUT_ID),
        a_due_payment(Kind.DEPOSIT, S.SUCCEEDED, attempts=WITHOUT_ID),
    ],
    ids=["none", "with an id", "withdrawal", "submitting", "failed", "succeeded"],
)
def test_a_watch_leaves_every_other_payment_unchanged(payment: Payment | None) -> None:
    assert decide(WATCH, payment) == Decided(payment=payment)
