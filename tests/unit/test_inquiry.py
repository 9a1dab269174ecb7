"""The conclusions from inquiries and their answers: each rule at its edges (rules.md §15)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.inquiry import (
    inquiry_interval,
    last_sent_at,
    needs_a_person,
    next_inquiry_after_silence_at,
    no_result_is_confirmed,
)
from domain.kinds import Kind
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    NOW,
    TIMES,
    a_due_payment,
    a_payment,
    a_send,
    an_attempt,
    an_inquiry,
    evidence_of,
)
from tests.case_tables import for_each
from tests.unit.deciding import SILENCE

V = InquiryOutcome
SECOND, INSTANT = timedelta(seconds=1), timedelta(microseconds=1)
SENT_AT = NOW - timedelta(minutes=20)
WINDOW_ENDS = SENT_AT + TIMES.result_window
FIRST_AFTER = TIMES.inquiry_first_after
OPEN = (Stage.AWAITING_RESULT, Stage.IN_DOUBT)
WITHOUT_ID = (a_send(Outcome.UNKNOWN, at=SENT_AT),)


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "is_silent", "is_at_daraja"),
    [
        (V.PAID, False, True),
        (V.FAILED, False, True),
        (V.UNDER_WAY, True, True),
        (V.NOT_FOUND, False, False),
        (V.NO_RESULT, True, False),
        (V.VAGUE, True, False),
        (V.NO_ANSWER, False, False),
    ],
)
def test_each_inquiry_outcome_is_silence_or_shows_that_daraja_has_the_payment(
    outcome: V, is_silent: bool, is_at_daraja: bool
) -> None:
    assert (outcome.is_silent, outcome.shows_that_daraja_has_it) == (is_silent, is_at_daraja)


def test_only_the_first_answer_to_an_inquiry_counts() -> None:
    unanswered = evidence_of(an_inquiry(1), an_inquiry(2))
    once = unanswered.with_answer(1, V.FAILED, "1032")
    assert once.inquiries == (an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2))
    assert once.with_answer(1, V.PAID, "0") == once
    assert unanswered.awaits_answer(1)
    assert (once.awaits_answer(1), once.awaits_answer(2)) == (False, True)


# --- when to inquire ------------------------------------------------------------------------------


@for_each(
    ("count", "seconds"),
    [(0, 30), (1, 60), (2, 120), (3, 240), (4, 300), (5, 300), (10_000, 300)],
)
def test_the_interval_between_inquiries_doubles_up_to_the_maximum(count: int, seconds: int) -> None:
    assert inquiry_interval(count, TIMES) == timedelta(seconds=seconds)
    # A maximum below the first interval, which the settings allow, does not lower the interval.
    assert inquiry_interval(count, replace(TIMES, inquiry_interval_max=SECOND)) == FIRST_AFTER


@for_each(
    ("attempts", "expected"),
    [
        ((), NOW - timedelta(seconds=10)),  # the payment's creation
        ((an_attempt(Outcome.UNKNOWN),), NOW - timedelta(seconds=10)),  # without stored times
        ((a_send(at=SENT_AT),), SENT_AT),
        ((a_send(None, at=SENT_AT, ended=False),), SENT_AT + TIMES.lease),
        ((a_send(at=SENT_AT), a_send(number=2, at=SENT_AT + SECOND)), SENT_AT + SECOND),
        ((a_send(at=SENT_AT + SECOND), a_send(number=2, at=SENT_AT)), SENT_AT + SECOND),
        (
            (a_send(at=SENT_AT), a_send(None, number=2, at=SENT_AT, ended=False)),
            SENT_AT + TIMES.lease,
        ),
        # the second attempt sent nothing
        ((a_send(at=SENT_AT), a_send(Outcome.NOT_ACTED, number=2, at=NOW)), SENT_AT),
    ],
)
def test_the_last_send_has_the_time_of_the_end_of_its_attempt_or_lease(
    attempts: Any, expected: datetime
) -> None:
    assert last_sent_at(a_payment(stage=Stage.IN_DOUBT, attempts=attempts), TIMES) == expected


# --- a deposit's silence --------------------------------------------------------------------------


def answers(
    *outcomes: InquiryOutcome | None, start: datetime = WINDOW_ENDS, gap: timedelta = FIRST_AFTER
) -> list[Inquiry]:
    """One inquiry for each outcome: the first at `start`, the others `gap` apart."""
    return [
        an_inquiry(number, outcome, at=start + gap * (number - 1))
        for number, outcome in enumerate(outcomes, 1)
    ]


def is_confirmed(
    inquiries: list[Inquiry], payment: Payment | None = None, *, now: datetime = NOW, **more: Any
) -> bool:
    evidence = evidence_of(*inquiries, **more)
    return no_result_is_confirmed(payment or a_due_payment(Kind.DEPOSIT), evidence, now, TIMES)


SILENT = (V.NO_RESULT, V.NO_RESULT, V.NO_RESULT)


@for_each(
    ("outcomes", "expected"),
    [
        ((), False),
        (SILENT[:2], False),
        (SILENT, True),
        # 429, time-outs, other 5xx and a missing answer do not count as answers
        ((*SILENT[:2], V.NO_ANSWER), False),
        ((*SILENT[:2], None), False),
        ((V.NO_ANSWER, *SILENT, None), True),
        # a failure is no silence, even if no second failure confirms it
        ((*SILENT[:2], V.FAILED), False),
        # five answers are needed if one of them was vague
        ((V.VAGUE, *SILENT[:2]), False),
        ((*SILENT, V.VAGUE), False),
        ((V.VAGUE,) * 4, False),
        ((*SILENT, V.VAGUE, V.NO_RESULT), True),
        ((V.VAGUE,) * 5, True),
    ],
)
def test_a_deposit_fails_for_silence_after_three_answers_without_a_result_or_five_if_one_was_vague(
    outcomes: tuple[InquiryOutcome | None, ...], expected: bool
) -> None:
    assert is_confirmed(answers(*outcomes)) is expected


def test_only_inquiries_after_the_window_count_as_silence() -> None:
    early = WINDOW_ENDS - INSTANT
    assert not is_confirmed(answers(*SILENT, start=early))
    assert is_confirmed(answers(V.NO_RESULT, *SILENT, start=early))
    # A vague answer within the window does not raise the number of answers.
    assert is_confirmed(answers(V.VAGUE, *SILENT, start=early))
    # The clock that times the inquiries may differ from the clock that ends the window.
    assert not is_confirmed(answers(*SILENT), now=early)


def test_inquiries_shortly_after_each_other_count_as_one() -> None:
    assert not is_confirmed(answers(*SILENT, gap=FIRST_AFTER - INSTANT))
    assert not is_confirmed(answers(*[V.NO_RESULT] * 50, gap=INSTANT))


def test_inquiries_are_ordered_by_time_and_not_by_number() -> None:
    first, second, third = answers(*SILENT)
    assert is_confirmed([third, first, second])


def test_a_stored_message_that_claims_success_holds_the_deposit_open() -> None:
    assert not is_confirmed(answers(*SILENT), claims_success=True)
    assert is_confirmed(answers(*SILENT), has_message=True)
    without_id = a_due_payment(Kind.DEPOSIT, attempts=WITHOUT_ID)
    assert not is_confirmed([], without_id, claims_success=True)


@for_each("stage", Stage)
@for_each("kind", Kind)
def test_only_a_deposit_that_awaits_its_result_or_is_in_doubt_fails_for_silence(
    kind: Kind, stage: Stage
) -> None:
    expected = kind is Kind.DEPOSIT and stage in OPEN
    assert is_confirmed(answers(*SILENT), a_due_payment(kind, stage)) is expected


# --- a person -------------------------------------------------------------------------------------


def unanswered(times: int) -> list[Inquiry]:
    return [an_inquiry(number, V.NO_ANSWER) for number in range(1, times + 1)]


@for_each("kind", Kind)
@for_each("stage", Stage)
@for_each("times", [0, 9, 10, 50])
@for_each("needs_review", [False, True])
def test_an_open_payment_needs_a_person_after_ten_inquiries_without_an_end(
    needs_review: bool, times: int, stage: Stage, kind: Kind
) -> None:
    """A payment that is flagged already is not flagged again."""
    payment = a_due_payment(kind, stage, needs_review=needs_review)
    expected = stage in OPEN and times >= 10 and not needs_review
    assert needs_a_person(payment, evidence_of(*unanswered(times)), NOW, TIMES) is expected


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
@pytest.mark.parametrize(("early", "expected"), [(INSTANT, False), (timedelta(0), True)])
def test_a_payment_without_a_possible_inquiry_needs_a_person_when_its_callback_is_overdue(
    kind: Kind, early: timedelta, expected: bool
) -> None:
    payment = a_due_payment(kind, attempts=WITHOUT_ID)
    now = SENT_AT + TIMES.inquiry_interval_max - early
    assert needs_a_person(payment, evidence_of(), now, TIMES) is expected


# --- later inquiries ------------------------------------------------------------------------------

MINUTE = timedelta(minutes=1)


@for_each(
    ("since", "next_at"),
    [
        (0, 10),
        (9.9, 10),
        (10, 60),
        (59.9, 60),
        (60, 360),
        (360, 1440),
        (1439.9, 1440),
        (1440, None),
        (100_000, None),
    ],
)
def test_a_deposit_that_failed_for_silence_gets_four_more_inquiries_within_a_day(
    since: float, next_at: float | None
) -> None:
    """The inquiries follow after 10 min, 1 h, 6 h and 24 h, because M-PESA has been late before."""
    payment = a_due_payment(Kind.DEPOSIT, Stage.FAILED, failure=SILENCE, finalized_at=SENT_AT)
    expected = None if next_at is None else SENT_AT + MINUTE * next_at
    assert next_inquiry_after_silence_at(payment, SENT_AT + MINUTE * since) == expected


@for_each(
    "fields",
    [
        *({"failure": Failure(one, False)} for one in FailureReason if one is not SILENCE.reason),
        {"stage": Stage.SUCCEEDED, "failure": None},
        {"attempts": WITHOUT_ID},
    ],
)
def test_a_reported_failure_a_success_and_a_payment_without_an_id_get_no_further_inquiry(
    fields: dict[str, Any],
) -> None:
    silent = {"stage": Stage.FAILED, "failure": SILENCE, "finalized_at": NOW}
    payment = a_due_payment(Kind.DEPOSIT, **{**silent, **fields})
    assert next_inquiry_after_silence_at(payment, NOW) is None
