"""What may be concluded from questions and their answers: each rule at its edges (rules.md §15)."""

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
    is_failure_confirmed,
    last_sent_at,
    needs_a_person,
    next_inquiry_after_silence_at,
    no_result_is_confirmed,
)
from domain.kinds import Kind
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    ASKED_BY,
    NOW,
    TIMES,
    a_payment,
    a_send,
    an_attempt,
    an_inquiry,
    evidence_of,
)
from tests.case_tables import for_each

V = InquiryOutcome
SECOND, INSTANT = timedelta(seconds=1), timedelta(microseconds=1)
SENT_AT = NOW - timedelta(minutes=20)
WINDOW_ENDS = SENT_AT + TIMES.result_window
FIRST_AFTER = TIMES.inquiry_first_after


def a_sent(
    kind: Kind, stage: Stage = Stage.AWAITING_RESULT, *, askable: bool = True, **overrides: Any
) -> Payment:
    """A payment that was sent twenty minutes ago."""
    ids: dict[str, Any] = ASKED_BY[kind] if askable else {}
    attempts = (a_send(Outcome.UNKNOWN, at=SENT_AT, **ids),)
    created_at = SENT_AT - SECOND
    return a_payment(
        **{
            "kind": kind,
            "stage": stage,
            "attempts": attempts,
            "created_at": created_at,
            **overrides,
        }
    )


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "is_silent", "has_it"),
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
def test_each_verdict_is_silence_or_a_sign_of_life_as_it_says(
    verdict: V, is_silent: bool, has_it: bool
) -> None:
    assert (verdict.is_silent, verdict.shows_that_daraja_has_it) == (is_silent, has_it)


def test_an_inquiry_counts_once_by_its_first_answer() -> None:
    asked = evidence_of(an_inquiry(1), an_inquiry(2))
    once = asked.with_answer(1, V.FAILED, "1032")
    assert once.inquiries == (an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2))
    assert once.with_answer(1, V.PAID, "0") == once
    assert (asked.awaits_answer(1), once.awaits_answer(1), once.awaits_answer(2)) == (
        True,
        False,
        True,
    )


def test_an_answer_to_what_was_never_asked_is_no_answer() -> None:
    asked = evidence_of(an_inquiry(1))
    assert asked.with_answer(7, V.PAID, "0") == asked
    assert not asked.awaits_answer(7)


# --- when to ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(0, 30), (1, 60), (2, 120), (3, 240), (4, 300), (5, 300), (20, 300), (10_000, 300)],
)
def test_the_wait_for_the_next_question_doubles_up_to_the_ceiling(asked: int, seconds: int) -> None:
    assert inquiry_interval(asked, TIMES) == timedelta(seconds=seconds)


@pytest.mark.parametrize("asked", [0, 1, 9])
def test_a_ceiling_below_the_first_wait_lowers_nothing(asked: int) -> None:
    """Settings may say so; asking more often than at first was meant by nobody."""
    assert inquiry_interval(asked, replace(TIMES, inquiry_interval_max=SECOND)) == FIRST_AFTER


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ((), NOW - timedelta(seconds=10)),  # its creation
        ((a_send(at=SENT_AT),), SENT_AT),
        ((a_send(None, at=SENT_AT, ended=False),), SENT_AT + TIMES.lease),
        ((a_send(at=SENT_AT), a_send(number=2, at=SENT_AT + SECOND)), SENT_AT + SECOND),
        ((a_send(at=SENT_AT + SECOND), a_send(number=2, at=SENT_AT)), SENT_AT + SECOND),
        (
            (a_send(at=SENT_AT), a_send(None, number=2, at=SENT_AT, ended=False)),
            SENT_AT + TIMES.lease,
        ),
        # nothing left with that one
        ((a_send(at=SENT_AT), a_send(Outcome.NOT_ACTED, number=2, at=NOW)), SENT_AT),
    ],
)
def test_the_last_send_left_before_its_attempt_or_its_lease_ended(
    attempts: Any, expected: datetime
) -> None:
    assert last_sent_at(a_payment(stage=Stage.IN_DOUBT, attempts=attempts), TIMES) == expected


# --- a deposit's silence --------------------------------------------------------------------------


def answers(
    *verdicts: InquiryOutcome | None, start: datetime = WINDOW_ENDS, gap: timedelta = FIRST_AFTER
) -> list[Inquiry]:
    """Questions asked from `start` on, `gap` apart."""
    return [
        an_inquiry(number, verdict, at=start + gap * (number - 1))
        for number, verdict in enumerate(verdicts, 1)
    ]


def is_confirmed(
    inquiries: list[Inquiry], payment: Payment | None = None, *, now: datetime = NOW, **more: Any
) -> bool:
    evidence = evidence_of(*inquiries, **more)
    return no_result_is_confirmed(payment or a_sent(Kind.DEPOSIT), evidence, now, TIMES)


SILENT = (V.NO_RESULT, V.NO_RESULT, V.NO_RESULT)


@for_each(
    ("verdicts", "expected"),
    [
        ((), False),
        (SILENT[:2], False),
        (SILENT, True),
        # 429, time-outs and other 5xx are no answers, and neither is none
        ((*SILENT[:2], V.NO_ANSWER), False),
        ((*SILENT[:2], None), False),
        ((V.NO_ANSWER, *SILENT, None), True),
        # a single failure, not agreed with, is no silence
        ((*SILENT[:2], V.FAILED), False),
        # five, if one was Daraja's vaguest code
        ((V.VAGUE, *SILENT[:2]), False),
        ((*SILENT, V.VAGUE), False),
        ((V.VAGUE,) * 4, False),
        ((*SILENT, V.VAGUE, V.NO_RESULT), True),
        ((V.VAGUE,) * 5, True),
    ],
)
def test_a_deposit_fails_for_silence_after_three_answers_without_a_result_or_five_if_one_was_vague(
    verdicts: tuple[InquiryOutcome | None, ...], expected: bool
) -> None:
    assert is_confirmed(answers(*verdicts)) is expected


def test_only_what_was_asked_after_the_window_counts() -> None:
    assert is_confirmed(answers(*SILENT, start=WINDOW_ENDS))
    assert not is_confirmed(answers(*SILENT, start=WINDOW_ENDS - INSTANT))
    assert is_confirmed(answers(V.NO_RESULT, *SILENT, start=WINDOW_ENDS - INSTANT))


def test_a_vague_answer_within_the_window_asks_for_no_more_of_those_after_it() -> None:
    assert is_confirmed(answers(V.VAGUE, *SILENT, start=WINDOW_ENDS - INSTANT))


def test_questions_asked_in_one_breath_count_as_one() -> None:
    assert is_confirmed(answers(*SILENT, gap=FIRST_AFTER))
    assert not is_confirmed(answers(*SILENT, gap=FIRST_AFTER - INSTANT))
    assert not is_confirmed(answers(*[V.NO_RESULT] * 50, gap=INSTANT))


def test_questions_are_put_in_the_order_of_their_times_whatever_their_numbers() -> None:
    late, early, middle = answers(*SILENT)
    shuffled = [
        replace(late, asked_at=WINDOW_ENDS + 2 * FIRST_AFTER),
        replace(early, asked_at=WINDOW_ENDS),
        replace(middle, asked_at=WINDOW_ENDS + FIRST_AFTER),
    ]
    assert is_confirmed(shuffled)


def test_a_stored_message_that_claims_success_holds_the_deposit_open() -> None:
    assert not is_confirmed(answers(*SILENT), claims_success=True)
    assert is_confirmed(answers(*SILENT), has_message=True)
    unaskable = a_sent(Kind.DEPOSIT, askable=False)
    assert not is_confirmed([], unaskable, claims_success=True)


@pytest.mark.parametrize(("early", "expected"), [(INSTANT, False), (timedelta(0), True)])
def test_a_deposit_that_cannot_be_asked_about_fails_when_its_window_ends(
    early: timedelta, expected: bool
) -> None:
    """Only its callback could have told, and it did not come."""
    unaskable = a_sent(Kind.DEPOSIT, Stage.IN_DOUBT, askable=False)
    assert is_confirmed([], unaskable, now=WINDOW_ENDS - early) is expected


def test_no_answer_ends_a_deposit_before_its_window_does() -> None:
    """Its clock may differ from the one that numbered them; the window is counted all the same."""
    assert not is_confirmed(answers(*SILENT), now=WINDOW_ENDS - INSTANT)


@for_each("stage", Stage)
@for_each("kind", Kind)
def test_only_a_deposit_that_is_awaited_or_in_doubt_fails_for_silence(
    kind: Kind, stage: Stage
) -> None:
    expected = kind is Kind.DEPOSIT and stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT)
    assert is_confirmed(answers(*SILENT), a_sent(kind, stage)) is expected


# --- two that agree -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inquiries", "expected"),
    [
        ([], False),
        ([an_inquiry(1, V.FAILED, code="1032")], False),
        ([an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2, V.FAILED, code="1032")], True),
        ([an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2, V.FAILED, code="1037")], False),
        ([an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2, V.NO_RESULT, code="1032")], False),
        # with another word between
        ([an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2, V.FAILED, code="1"), an_inquiry(3, V.FAILED, code="1032")],
         True),
    ],
)  # fmt: skip
def test_a_failure_that_only_queries_told_needs_two_that_agree(
    inquiries: list[Inquiry], expected: bool
) -> None:
    assert is_failure_confirmed(a_payment(), evidence_of(*inquiries), "1032") is expected


def test_one_inquiry_answered_twice_does_not_agree_with_itself() -> None:
    evidence = (
        evidence_of(an_inquiry(1)).with_answer(1, V.FAILED, "1032").with_answer(1, V.FAILED, "1032")
    )
    assert not is_failure_confirmed(a_payment(), evidence, "1032")


# --- a person -------------------------------------------------------------------------------------


def asked(times: int) -> list[Inquiry]:
    return [an_inquiry(number, V.NO_ANSWER) for number in range(1, times + 1)]


@for_each("kind", Kind)
@for_each(("times", "expected"), [(0, False), (9, False), (10, True), (50, True)])
def test_asked_ten_times_in_vain_a_payment_needs_a_person(
    kind: Kind, times: int, expected: bool
) -> None:
    assert needs_a_person(a_sent(kind), evidence_of(*asked(times)), NOW, TIMES) is expected


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
@pytest.mark.parametrize(("early", "expected"), [(INSTANT, False), (timedelta(0), True)])
def test_what_cannot_be_asked_about_needs_a_person_once_its_callback_should_have_come(
    kind: Kind, early: timedelta, expected: bool
) -> None:
    payment = a_sent(kind, Stage.IN_DOUBT, askable=False)
    assert (
        needs_a_person(payment, evidence_of(), SENT_AT + TIMES.inquiry_interval_max - early, TIMES)
        is expected
    )


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_awaited_or_in_doubt_and_not_flagged_yet_needs_a_person(stage: Stage) -> None:
    evidence = evidence_of(*asked(10))
    expected = stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT)
    assert needs_a_person(a_sent(Kind.WITHDRAWAL, stage), evidence, NOW, TIMES) is expected
    assert not needs_a_person(
        a_sent(Kind.WITHDRAWAL, stage, needs_review=True), evidence, NOW, TIMES
    )


# --- second looks ---------------------------------------------------------------------------------

SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)
MINUTES = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("since", "next_look"),
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
def test_a_deposit_that_failed_for_silence_is_looked_at_again_four_times_within_a_day(
    since: float, next_look: float | None
) -> None:
    """After 10 min, 1 h, 6 h and 24 h: M-PESA has been late before."""
    payment = a_sent(Kind.DEPOSIT, Stage.FAILED, failure=SILENCE, finalized_at=SENT_AT)
    expected = None if next_look is None else SENT_AT + MINUTES * next_look
    assert next_inquiry_after_silence_at(payment, SENT_AT + MINUTES * since) == expected


def test_a_deposit_that_fails_just_now_is_looked_at_again_ten_minutes_from_now() -> None:
    payment = a_sent(Kind.DEPOSIT, Stage.FAILED, failure=SILENCE, finalized_at=None)
    assert next_inquiry_after_silence_at(payment, NOW) == NOW + 10 * MINUTES


@for_each("reason", [reason for reason in FailureReason if reason is not SILENCE.reason])
def test_a_failure_that_somebody_told_needs_no_second_look(reason: FailureReason) -> None:
    payment = a_sent(Kind.DEPOSIT, Stage.FAILED, failure=Failure(reason, False), finalized_at=NOW)
    assert next_inquiry_after_silence_at(payment, NOW) is None


def test_what_cannot_be_asked_about_and_what_succeeded_gets_no_second_look() -> None:
    unaskable = a_sent(Kind.DEPOSIT, Stage.FAILED, askable=False, failure=SILENCE, finalized_at=NOW)
    assert next_inquiry_after_silence_at(unaskable, NOW) is None
    assert next_inquiry_after_silence_at(a_sent(Kind.DEPOSIT, Stage.SUCCEEDED), NOW) is None


def test_an_attempt_from_before_times_were_kept_counts_from_the_creation() -> None:
    payment = a_payment(stage=Stage.IN_DOUBT, attempts=(an_attempt(Outcome.UNKNOWN),))
    assert last_sent_at(payment, TIMES) == payment.created_at
