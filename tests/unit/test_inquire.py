"""Asking about a payment: each due time one question, numbered before it is asked; and what is
done where none can be.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.changes import Decided, HistoryEntry
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_change, postponement_change, watch_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_context,
    a_due_payment,
    a_send,
    an_inquiry,
    evidence_of,
)
from tests.case_tables import for_each
from tests.decisions import entry_of, event_of, inquiry_of, payment_of

V, S = InquiryOutcome, Stage
SECOND = timedelta(seconds=1)
SENT_AT = NOW - timedelta(minutes=20)
OPEN = (S.AWAITING_RESULT, S.IN_DOUBT)
SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)


UNASKABLE = (a_send(Outcome.UNKNOWN, at=SENT_AT),)


def asked(
    payment: Payment | None, *inquiries: Inquiry, is_probe: bool = False, **evidence: Any
) -> Decided:
    change = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS, is_breaker_probe=is_probe)
    return change.decide(payment, a_context(evidence=evidence_of(*inquiries, **evidence)))


# --- asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", OPEN)
def test_a_due_question_is_numbered_and_stored_and_the_next_one_has_its_time(
    stage: Stage, kind: Kind
) -> None:
    payment = a_due_payment(kind, stage)
    decision = asked(payment)
    assert inquiry_of(decision) == Inquiry(1, NOW)
    assert decision.payment == replace(payment, next_step_at=NOW + 30 * SECOND)
    assert (entry_of(decision), event_of(decision)) == (None, None)


def test_a_question_has_the_next_number_and_leaves_twice_the_time_to_the_next() -> None:
    earlier = [an_inquiry(1, V.NOT_FOUND, at=SENT_AT), an_inquiry(3, at=SENT_AT + SECOND)]
    decision = asked(a_due_payment(), *earlier)
    assert inquiry_of(decision) == Inquiry(4, NOW)
    assert payment_of(decision).next_step_at == NOW + 120 * SECOND


@pytest.mark.parametrize(
    ("late", "expected"), [(0, True), (5, True), (5.000001, False), (30, False)]
)
def test_a_job_that_comes_when_nothing_is_due_asks_nothing(late: float, expected: bool) -> None:
    """A sweep gave the payment its next time, 5 s ahead, when it handed it over; later than that
    it was asked meanwhile.
    """
    payment = a_due_payment(next_step_at=NOW + timedelta(seconds=late))
    decision = asked(payment)
    assert (inquiry_of(decision) is not None) is expected
    assert (decision.payment == payment) is not expected


def test_a_second_job_for_the_same_due_time_asks_nothing() -> None:
    first = asked(a_due_payment())
    stored = inquiry_of(first)
    assert stored is not None
    again = asked(first.payment, stored)
    assert (inquiry_of(again), again.payment) == (None, first.payment)


@pytest.mark.parametrize(("ago", "expected"), [(0, False), (4.999999, False), (5, True)])
def test_a_question_that_was_asked_a_moment_ago_is_not_asked_again(
    ago: float, expected: bool
) -> None:
    """Also where something brought it forward: a callback that comes ten times is no reason to
    ask ten times.
    """
    decision = asked(a_due_payment(), an_inquiry(1, at=NOW - timedelta(seconds=ago)))
    assert (inquiry_of(decision) is not None) is expected


def test_the_moment_is_shorter_where_questions_come_faster() -> None:
    """Compressed times, as tests use them."""
    change = inquiry_change(PAYMENT_ID, replace(TIMES, inquiry_first_after=SECOND), ACCOUNTS)
    for ago, expected in ((0.9, False), (1, True)):
        evidence = evidence_of(an_inquiry(1, at=NOW - timedelta(seconds=ago)))
        assert (
            inquiry_of(change.decide(a_due_payment(), a_context(evidence=evidence))) is not None
        ) is expected


@pytest.mark.parametrize("stage", [S.ACCEPTED, S.SUBMITTING])
@pytest.mark.parametrize("kind", Kind)
def test_a_payment_that_is_not_out_yet_is_not_asked_about(kind: Kind, stage: Stage) -> None:
    payment = a_due_payment(kind, stage)
    assert asked(payment) == Decided(payment=payment)


def test_a_final_payment_without_a_due_time_is_not_asked_about() -> None:
    for stage in (S.SUCCEEDED, S.FAILED):
        payment = a_due_payment(Kind.DEPOSIT, stage, next_step_at=None)
        assert asked(payment) == Decided(payment=payment)


def test_what_cannot_be_asked_about_is_not() -> None:
    for kind in (Kind.DEPOSIT, Kind.BILL_PAYMENT):
        payment = a_due_payment(kind, attempts=UNASKABLE)
        assert asked(payment) == Decided(payment=payment)
        assert asked(payment, is_probe=True) == Decided(payment=payment)
    assert asked(None) == Decided(payment=None)


@pytest.mark.parametrize("kind", Kind)
def test_while_the_breaker_is_open_no_question_carries_the_credential(kind: Kind) -> None:
    """STK query carries none."""
    decision = asked(a_due_payment(kind), breaker_is_open=True, payouts_are_stopped=True)
    assert (inquiry_of(decision) is not None) is (kind is Kind.DEPOSIT)


def test_the_kill_switch_stops_no_question() -> None:
    assert inquiry_of(asked(a_due_payment(), payouts_are_stopped=True)) is not None


@pytest.mark.parametrize("stage", [S.SUBMITTING, *OPEN, S.SUCCEEDED, S.FAILED])
def test_a_probe_is_asked_whatever_is_due_and_changes_nothing_else(stage: Stage) -> None:
    """Its payment may be long final: it is asked only to see whether Daraja takes the credential
    again.
    """
    payment = a_due_payment(
        stage=stage, next_step_at=None if stage.is_final else NOW + timedelta(hours=1)
    )
    decision = asked(payment, an_inquiry(1, at=NOW), is_probe=True, breaker_is_open=True)
    assert (decision.payment, inquiry_of(decision), entry_of(decision)) == (
        payment, Inquiry(2, NOW, is_probe=True), None,
    )  # fmt: skip


BEFORE, SINCE = SENT_AT - SECOND, SENT_AT + SECOND


@for_each("kind", Kind)
@for_each(
    ("inquiries", "wait"),
    [
        ([], 30),
        ([an_inquiry(1, at=BEFORE)], 30),  # about an earlier send
        ([replace(an_inquiry(1, at=SINCE), is_probe=True)], 30),
        ([an_inquiry(1, at=SENT_AT)], 60),
        ([an_inquiry(1, at=SINCE)], 60),
        ([*(an_inquiry(n, at=BEFORE) for n in range(1, 9)), an_inquiry(9, at=SINCE)], 60),
        (
            [
                *(replace(an_inquiry(n, at=SINCE), is_probe=True) for n in range(1, 9)),
                an_inquiry(9, at=SINCE),
            ],
            60,
        ),
        ([an_inquiry(n, V.UNDER_WAY, at=SINCE) for n in range(1, 5)], 300),
    ],
)
def test_the_back_off_counts_questions_since_the_last_send_and_no_probes(
    inquiries: list[Inquiry], wait: int, kind: Kind
) -> None:
    assert payment_of(asked(a_due_payment(kind), *inquiries)).next_step_at == NOW + wait * SECOND


def test_ten_probes_call_no_person() -> None:
    probes = [
        replace(an_inquiry(number, V.NO_ANSWER, at=SENT_AT), is_probe=True)
        for number in range(1, 11)
    ]
    assert entry_of(asked(a_due_payment(), *probes)) is None


def test_after_ten_questions_in_vain_a_person_is_called_and_daraja_asked_all_the_same() -> None:
    inquiries = [an_inquiry(number, V.NO_ANSWER, at=SENT_AT) for number in range(1, 11)]
    payment = a_due_payment()
    decision = asked(payment, *inquiries)
    assert inquiry_of(decision) == Inquiry(11, NOW)
    assert decision.payment == replace(payment, needs_review=True, next_step_at=NOW + 300 * SECOND)
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.NEEDS_A_PERSON, None)
    again = asked(replace(payment, needs_review=True), *inquiries)
    assert (entry_of(again), inquiry_of(again)) == (None, Inquiry(11, NOW))


def _unconfirmed(times: int, verdict: InquiryOutcome) -> dict[str, Any]:
    """A success came after the failure an hour ago, and Daraja was asked so often about it."""
    began_at = NOW - timedelta(minutes=30)
    times_asked = [began_at + timedelta(minutes=n) for n in range(1, times + 1)]
    asked_before = [an_inquiry(n, verdict, at=at) for n, at in enumerate(times_asked, 1)]
    return {"inquiries": asked_before, "unconfirmed_since": NOW - timedelta(hours=1)}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("times", "is_flagged"), [(9, False), (10, True), (11, False)])
def test_a_reviewed_payment_is_flagged_once_more_if_daraja_never_confirms_its_success(
    kind: Kind, times: int, is_flagged: bool
) -> None:
    """An operator who reviewed it at once could not know that no answer would come."""
    known = _unconfirmed(times, V.NO_ANSWER)
    decision = asked(a_due_payment(kind, S.FAILED), *known.pop("inquiries"), **known)
    assert inquiry_of(decision) is not None
    assert payment_of(decision).needs_review is is_flagged


@pytest.mark.parametrize("kind", Kind)
def test_a_reviewed_payment_is_not_flagged_again_if_daraja_denied_its_success(kind: Kind) -> None:
    known = _unconfirmed(10, V.FAILED)
    decision = asked(a_due_payment(kind, S.FAILED), *known.pop("inquiries"), **known)
    assert not payment_of(decision).needs_review


def test_a_deposit_that_failed_for_silence_is_asked_about_at_each_of_its_second_looks() -> None:
    ended = NOW - timedelta(minutes=10)
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE, finalized_at=ended)
    decision = asked(payment)
    assert inquiry_of(decision) == Inquiry(1, NOW)
    assert decision.payment == replace(payment, next_step_at=ended + timedelta(hours=1))
    last = replace(payment, finalized_at=NOW - timedelta(hours=24))
    assert payment_of(asked(last)).next_step_at is None


# --- waiting for a turn ---------------------------------------------------------------------------


@pytest.mark.parametrize("stage", Stage)
def test_a_question_that_must_wait_for_its_turn_has_another_time_and_nothing_else_has(
    stage: Stage,
) -> None:
    for kind in Kind:
        payment = a_due_payment(kind, stage)
        decision = postponement_change(PAYMENT_ID, 7 * SECOND).decide(payment, a_context())
        is_question = stage not in (S.ACCEPTED, S.SUBMITTING)
        assert decision.payment == (
            replace(payment, next_step_at=NOW + 7 * SECOND) if is_question else payment
        )


def test_what_has_no_question_is_not_postponed() -> None:
    final = a_due_payment(stage=S.SUCCEEDED, next_step_at=None)
    unaskable = a_due_payment(Kind.DEPOSIT, attempts=UNASKABLE)
    for payment in (final, unaskable, None):
        assert (
            postponement_change(PAYMENT_ID, SECOND).decide(payment, a_context()).payment == payment
        )


# --- watching -------------------------------------------------------------------------------------


def watched(payment: Payment | None, *, now: Any = NOW, **evidence: Any) -> Decided:
    return watch_change(PAYMENT_ID, TIMES).decide(
        payment, a_context(now=now, evidence=evidence_of(**evidence))
    )


def test_a_deposit_without_an_id_fails_for_silence_when_its_window_is_over() -> None:
    payment = a_due_payment(Kind.DEPOSIT, attempts=UNASKABLE)
    decision = watched(payment, now=SENT_AT + TIMES.result_window)
    assert (payment_of(decision).failure, event_of(decision)) == (SILENCE, EventType.FAILED)
    held = watched(payment, now=SENT_AT + TIMES.result_window, claims_success=True)
    assert payment_of(held).stage is S.IN_DOUBT


def test_a_deposit_without_an_id_waits_for_its_window_and_is_then_looked_at() -> None:
    payment = a_due_payment(Kind.DEPOSIT, attempts=UNASKABLE)
    decision = watched(payment, now=SENT_AT + SECOND)
    assert decision.payment == replace(payment, next_step_at=SENT_AT + TIMES.result_window)
    assert entry_of(decision) is None


def test_a_bill_payment_without_an_id_needs_a_person_once_its_result_should_have_come() -> None:
    payment = a_due_payment(Kind.BILL_PAYMENT, attempts=UNASKABLE)
    decision = watched(payment)
    assert decision.payment == replace(
        payment, needs_review=True, next_step_at=NOW + TIMES.inquiry_interval_max
    )
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.NEEDS_A_PERSON, None)
    again = watched(decision.payment)
    assert (entry_of(again), payment_of(again).stage) == (None, S.IN_DOUBT)


@pytest.mark.parametrize(
    "payment",
    [
        None,
        a_due_payment(Kind.DEPOSIT),  # an id came: it is asked about now
        a_due_payment(Kind.WITHDRAWAL),
        a_due_payment(Kind.DEPOSIT, S.SUBMITTING, attempts=UNASKABLE),
        a_due_payment(Kind.DEPOSIT, S.FAILED, attempts=UNASKABLE),
        a_due_payment(Kind.DEPOSIT, S.SUCCEEDED, attempts=UNASKABLE),
    ],
    ids=["none", "askable", "withdrawal", "submitting", "failed", "succeeded"],
)
def test_what_is_not_to_be_watched_is_left_alone(payment: Payment | None) -> None:
    assert watched(payment) == Decided(payment=payment)
