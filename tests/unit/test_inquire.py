"""Inquiries: one at each due time, stored before it is sent, and the steps without an inquiry."""

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
WITHOUT_ID = (a_send(Outcome.UNKNOWN, at=SENT_AT),)


def decide_inquiry(
    payment: Payment | None, *inquiries: Inquiry, is_probe: bool = False, **evidence: Any
) -> Decided:
    change = inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS, is_breaker_probe=is_probe)
    return change.decide(payment, a_context(evidence=evidence_of(*inquiries, **evidence)))


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


def test_an_inquiry_has_the_next_number_and_the_interval_doubles() -> None:
    earlier = [an_inquiry(1, V.NOT_FOUND, at=SENT_AT), an_inquiry(3, at=SENT_AT + SECOND)]
    decision = decide_inquiry(a_due_payment(), *earlier)
    assert inquiry_of(decision) == Inquiry(4, NOW)
    assert payment_of(decision).next_step_at == NOW + 120 * SECOND


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


def test_a_second_job_for_the_same_due_time_stores_no_inquiry() -> None:
    first = decide_inquiry(a_due_payment())
    stored = inquiry_of(first)
    assert stored is not None
    again = decide_inquiry(first.payment, stored)
    assert (inquiry_of(again), again.payment) == (None, first.payment)


@pytest.mark.parametrize(("ago", "expected"), [(0, False), (4.999999, False), (5, True)])
def test_no_inquiry_follows_another_within_five_seconds(ago: float, expected: bool) -> None:
    """Also if a callback brought it forward: ten repeats of a callback cause one inquiry."""
    decision = decide_inquiry(a_due_payment(), an_inquiry(1, at=NOW - timedelta(seconds=ago)))
    assert (inquiry_of(decision) is not None) is expected


def test_a_shorter_first_interval_shortens_the_pause_between_inquiries() -> None:
    """Tests use such times."""
    change = inquiry_change(PAYMENT_ID, replace(TIMES, inquiry_first_after=SECOND), ACCOUNTS)
    for ago, expected in ((0.9, False), (1, True)):
        evidence = evidence_of(an_inquiry(1, at=NOW - timedelta(seconds=ago)))
        decision = change.decide(a_due_payment(), a_context(evidence=evidence))
        assert (inquiry_of(decision) is not None) is expected


@pytest.mark.parametrize("stage", [S.ACCEPTED, S.SUBMITTING])
@pytest.mark.parametrize("kind", Kind)
def test_an_accepted_or_submitting_payment_gets_no_inquiry(kind: Kind, stage: Stage) -> None:
    payment = a_due_payment(kind, stage)
    assert decide_inquiry(payment) == Decided(payment=payment)


def test_a_final_payment_without_a_due_time_gets_no_inquiry() -> None:
    for stage in (S.SUCCEEDED, S.FAILED):
        payment = a_due_payment(Kind.DEPOSIT, stage, next_step_at=None)
        assert decide_inquiry(payment) == Decided(payment=payment)


def test_an_unknown_payment_or_one_without_daraja_s_id_gets_no_inquiry() -> None:
    for kind in (Kind.DEPOSIT, Kind.BILL_PAYMENT):
        payment = a_due_payment(kind, attempts=WITHOUT_ID)
        assert decide_inquiry(payment) == Decided(payment=payment)
        assert decide_inquiry(payment, is_probe=True) == Decided(payment=payment)
    assert decide_inquiry(None) == Decided(payment=None)


@pytest.mark.parametrize("kind", Kind)
def test_while_the_breaker_is_open_no_inquiry_carries_the_credential(kind: Kind) -> None:
    """An STK query carries no credential."""
    decision = decide_inquiry(a_due_payment(kind), breaker_is_open=True, payouts_are_stopped=True)
    assert (inquiry_of(decision) is not None) is (kind is Kind.DEPOSIT)


def test_the_kill_switch_stops_no_inquiry() -> None:
    assert inquiry_of(decide_inquiry(a_due_payment(), payouts_are_stopped=True)) is not None


@pytest.mark.parametrize("stage", [S.SUBMITTING, *OPEN, S.SUCCEEDED, S.FAILED])
def test_a_probe_is_stored_at_any_time_and_changes_nothing_else(stage: Stage) -> None:
    """Its payment may be final: a probe only shows whether Daraja accepts the credential again."""
    payment = a_due_payment(
        stage=stage, next_step_at=None if stage.is_final else NOW + timedelta(hours=1)
    )
    decision = decide_inquiry(payment, an_inquiry(1, at=NOW), is_probe=True, breaker_is_open=True)
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
def test_the_interval_counts_inquiries_since_the_last_send_and_no_probes(
    inquiries: list[Inquiry], wait: int, kind: Kind
) -> None:
    decision = decide_inquiry(a_due_payment(kind), *inquiries)
    assert payment_of(decision).next_step_at == NOW + wait * SECOND


def test_ten_probes_do_not_flag_a_payment() -> None:
    probes = [
        replace(an_inquiry(number, V.NO_ANSWER, at=SENT_AT), is_probe=True)
        for number in range(1, 11)
    ]
    assert entry_of(decide_inquiry(a_due_payment(), *probes)) is None


def test_ten_inquiries_without_an_end_flag_a_payment_and_an_eleventh_follows() -> None:
    inquiries = [an_inquiry(number, V.NO_ANSWER, at=SENT_AT) for number in range(1, 11)]
    payment = a_due_payment()
    decision = decide_inquiry(payment, *inquiries)
    assert inquiry_of(decision) == Inquiry(11, NOW)
    assert decision.payment == replace(payment, needs_review=True, next_step_at=NOW + 300 * SECOND)
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.NEEDS_A_PERSON, None)
    again = decide_inquiry(replace(payment, needs_review=True), *inquiries)
    assert (entry_of(again), inquiry_of(again)) == (None, Inquiry(11, NOW))


def _unconfirmed_success(times: int, outcome: InquiryOutcome) -> dict[str, Any]:
    """A success came after the failure, an hour ago, and `times` inquiries had this outcome."""
    began_at = NOW - timedelta(minutes=30)
    times_asked = [began_at + timedelta(minutes=n) for n in range(1, times + 1)]
    inquiries = [an_inquiry(n, outcome, at=at) for n, at in enumerate(times_asked, 1)]
    return {"inquiries": inquiries, "unconfirmed_since": NOW - timedelta(hours=1)}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("times", "is_flagged"), [(9, False), (10, True), (11, False)])
def test_a_reviewed_payment_is_flagged_once_more_if_daraja_never_confirms_its_success(
    kind: Kind, times: int, is_flagged: bool
) -> None:
    """An operator who reviewed it at once could not know that no answer would come."""
    known = _unconfirmed_success(times, V.NO_ANSWER)
    decision = decide_inquiry(a_due_payment(kind, S.FAILED), *known.pop("inquiries"), **known)
    assert inquiry_of(decision) is not None
    assert payment_of(decision).needs_review is is_flagged


@pytest.mark.parametrize("kind", Kind)
def test_a_reviewed_payment_is_not_flagged_again_if_daraja_denied_its_success(kind: Kind) -> None:
    known = _unconfirmed_success(10, V.FAILED)
    decision = decide_inquiry(a_due_payment(kind, S.FAILED), *known.pop("inquiries"), **known)
    assert not payment_of(decision).needs_review


def test_a_deposit_that_failed_for_silence_gets_each_of_its_later_inquiries() -> None:
    failed_at = NOW - timedelta(minutes=10)
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE, finalized_at=failed_at)
    decision = decide_inquiry(payment)
    assert inquiry_of(decision) == Inquiry(1, NOW)
    assert decision.payment == replace(payment, next_step_at=failed_at + timedelta(hours=1))
    last = replace(payment, finalized_at=NOW - timedelta(hours=24))
    assert payment_of(decide_inquiry(last)).next_step_at is None


# --- postponed inquiries --------------------------------------------------------------------------


@pytest.mark.parametrize("stage", Stage)
def test_a_postponed_inquiry_changes_only_the_due_time(
    stage: Stage,
) -> None:
    for kind in Kind:
        payment = a_due_payment(kind, stage)
        decision = postponement_change(PAYMENT_ID, 7 * SECOND).decide(payment, a_context())
        is_postponed = stage not in (S.ACCEPTED, S.SUBMITTING)
        assert decision.payment == (
            replace(payment, next_step_at=NOW + 7 * SECOND) if is_postponed else payment
        )


def test_a_payment_without_an_inquiry_step_is_not_postponed() -> None:
    final = a_due_payment(stage=S.SUCCEEDED, next_step_at=None)
    without_id = a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID)
    for payment in (final, without_id, None):
        assert (
            postponement_change(PAYMENT_ID, SECOND).decide(payment, a_context()).payment == payment
        )


# --- watching -------------------------------------------------------------------------------------


def decide_watch(payment: Payment | None, *, now: Any = NOW, **evidence: Any) -> Decided:
    return watch_change(PAYMENT_ID, TIMES).decide(
        payment, a_context(now=now, evidence=evidence_of(**evidence))
    )


def test_a_deposit_without_an_id_fails_for_silence_when_its_window_ends() -> None:
    payment = a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID)
    decision = decide_watch(payment, now=SENT_AT + TIMES.result_window)
    assert (payment_of(decision).failure, event_of(decision)) == (SILENCE, EventType.FAILED)
    unconfirmed = decide_watch(payment, now=SENT_AT + TIMES.result_window, claims_success=True)
    assert payment_of(unconfirmed).stage is S.IN_DOUBT


def test_a_deposit_without_an_id_is_due_again_when_its_window_ends() -> None:
    payment = a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID)
    decision = decide_watch(payment, now=SENT_AT + SECOND)
    assert decision.payment == replace(payment, next_step_at=SENT_AT + TIMES.result_window)
    assert entry_of(decision) is None


def test_a_bill_payment_without_an_id_needs_a_person_when_its_result_is_overdue() -> None:
    payment = a_due_payment(Kind.BILL_PAYMENT, attempts=WITHOUT_ID)
    decision = decide_watch(payment)
    assert decision.payment == replace(
        payment, needs_review=True, next_step_at=NOW + TIMES.inquiry_interval_max
    )
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.NEEDS_A_PERSON, None)
    again = decide_watch(decision.payment)
    assert (entry_of(again), payment_of(again).stage) == (None, S.IN_DOUBT)


@pytest.mark.parametrize(
    "payment",
    [
        None,
        a_due_payment(Kind.DEPOSIT),  # its id came, so its step is an inquiry
        a_due_payment(Kind.WITHDRAWAL),
        a_due_payment(Kind.DEPOSIT, S.SUBMITTING, attempts=WITHOUT_ID),
        a_due_payment(Kind.DEPOSIT, S.FAILED, attempts=WITHOUT_ID),
        a_due_payment(Kind.DEPOSIT, S.SUCCEEDED, attempts=WITHOUT_ID),
    ],
    ids=["none", "with an id", "withdrawal", "submitting", "failed", "succeeded"],
)
def test_a_watch_leaves_every_other_payment_unchanged(payment: Payment | None) -> None:
    assert decide_watch(payment) == Decided(payment=payment)
