"""The story of a payment has one line for each thing that happened, with the actor's name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.attempts import Attempt, Outcome
from domain.changes import Disposition, HistoryEntry
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.operations import Operation
from domain.report import ReportedOutcome
from domain.stages import Stage
from domain.story import (
    Actor,
    PaymentRecord,
    StoredEntry,
    StoredExchange,
    StoredInquiry,
    StoredMessage,
    story_view,
    tell_story,
)
from domain.story import sentences as tables
from tests import builders

START = datetime(2026, 3, 1, 7, 15, tzinfo=UTC)
ATTEMPT = uuid4()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def entry(sequence: int, seconds: float, name: str, stages: str, **more: Any) -> StoredEntry:
    before, _, after = stages.rpartition(" ")
    return StoredEntry(
        sequence=sequence,
        at=at(seconds),
        name=name,
        previous_stage=before or None,
        stage=after,
        **{"detail": {}, **more},
    )


def record(kind: Kind = Kind.DEPOSIT, **changes: Any) -> PaymentRecord:
    of_record = {name: changes.pop(name) for name in PaymentRecord.__slots__ if name in changes}
    payment = builders.a_payment(kind=kind, **changes)
    accepted = entry(1, 0, "accepted", "accepted")
    return PaymentRecord(
        **{"payment": payment, "read_at": at(60), "history": (accepted,), **of_record}
    )


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (tables.ENTRIES, HistoryEntry),
        (tables.DISPOSITIONS, Disposition),
        (tables.MESSAGE_OUTCOMES, ReportedOutcome),
        (tables.INQUIRY_OUTCOMES, InquiryOutcome),
        (tables.ATTEMPT_OUTCOMES, Outcome),
        (tables.OPERATIONS, Operation),
    ],
)
def test_each_name_that_is_stored_has_a_sentence(table: Any, names: Any) -> None:
    assert set(table) == set(names)
    assert all(table.values())


def test_the_cause_comes_before_its_effect_if_one_commit_stored_both() -> None:
    message = StoredMessage(
        id=uuid4(), operation="deposit", at=at(20), source_address="196.201.214.200",
        is_source_allowed=True, content_type=None, body=b"{}", disposition="finalized",
        is_flagged=False, outcome="success", receipt="UC14KD82QZ",
    )  # fmt: skip
    exchange = StoredExchange(
        id=uuid4(), attempt_id=ATTEMPT, operation="stk_push", at=at(2), request={},
        was_written=True, http_status=200, answer='{"ResponseCode": "0"}', outcome="acknowledged",
    )  # fmt: skip
    told = tell_story(
        record(
            stage=Stage.SUCCEEDED,
            receipt="UC14KD82QZ",
            attempts=(Attempt(ATTEMPT, 1, Outcome.ACKNOWLEDGED),),
            next_step_at=None,
            history=(
                entry(1, 0, "accepted", "accepted"),
                entry(2, 1, "claimed", "accepted submitting", attempt_id=ATTEMPT),
                entry(3, 2, "acknowledged", "submitting awaiting_result", attempt_id=ATTEMPT),
                entry(
                    4, 20, "success_reported", "awaiting_result succeeded",
                    event_type="mkwanja.payment.succeeded", is_published=True,
                ),
            ),
            messages=(message,),
            message_count=1,
            exchanges=(exchange,),
            exchange_count=1,
        )
    )  # fmt: skip
    assert [(line.actor, line.at) for line in told.lines] == [
        (Actor.CALLER, at(0)),
        (Actor.WORKER, at(1)),
        (Actor.DARAJA, at(2)),
        (Actor.DARAJA, at(2)),
        (Actor.CALLBACK_RECEIVER, at(20)),
        (Actor.DARAJA, at(20)),
    ]
    assert "HTTP 200" in told.lines[2].sentence
    assert told.lines[2].details["attempt"] == "1"
    assert told.lines[4].details["receipt"] == "UC14KD82QZ"
    assert told.lines[5].details["event"] == "mkwanja.payment.succeeded, published"
    assert told.lines[5].details["stage"] == "awaiting_result → succeeded"
    assert told.outlook == "The payment is final. Nothing more is planned."
    assert "it succeeded (UC14KD82QZ)" in told.summary


def test_an_inquiry_and_its_answer_are_two_lines() -> None:
    inquiry = StoredInquiry(
        number=1, operation="stk_query", asked_at=at(30), answered_at=at(31), outcome="under_way",
        code="4999",
    )  # fmt: skip
    waiting = replace(inquiry, number=2, asked_at=at(40), answered_at=None, outcome=None, code=None)
    told = tell_story(record(inquiries=(inquiry, waiting)))
    asked, answered, open_one = told.lines[1:]
    assert (asked.actor, answered.actor, open_one.actor) == (
        Actor.WORKER, Actor.DARAJA, Actor.WORKER,
    )  # fmt: skip
    assert "STK query" in asked.sentence
    assert "still under way" in answered.sentence
    assert answered.details["meaning"] == "The payment is still under way at M-PESA."
    assert open_one.details["answer"] == "none yet"


def test_a_failed_payment_is_explained() -> None:
    failure = Failure(FailureReason.CANCELLED_BY_CUSTOMER, safe_to_retry=True, provider_code="1032")
    told = tell_story(record(stage=Stage.FAILED, failure=failure, next_step_at=None))
    assert told.explanation is not None
    assert "cancelled" in told.explanation.meaning.english
    view = story_view(told)
    assert view["explanation"]["customer"]["sw"].startswith("Lipa tena")
    assert set(view) == {"payment_id", "summary", "outlook", "lines", "explanation"}
    assert set(view["lines"][0]) == {"at", "actor", "sentence", "details"}


@pytest.mark.parametrize(
    ("detail", "actor", "sentence"),
    [
        ({}, Actor.CALLER, "The caller cancelled the payment before it was sent."),
        (
            {"operator": "wanjiru", "reason": "ticket 9"},
            Actor.OPERATOR,
            "An operator cancelled the payment for its caller, before it was sent.",
        ),
    ],
)
def test_a_cancellation_names_who_cancelled(
    detail: dict[str, str], actor: Actor, sentence: str
) -> None:
    """The reason of the failure is the same, so its explanation is true for both."""
    failure = Failure(FailureReason.CANCELLED_BY_CALLER, safe_to_retry=True)
    cancelled = entry(2, 5, "cancelled_by_caller", "accepted failed", detail=detail)
    told = tell_story(
        record(stage=Stage.FAILED, failure=failure, next_step_at=None, history=(cancelled,))
    )
    [line] = told.lines
    assert (line.actor, line.sentence) == (actor, sentence)
    assert told.explanation is not None
    assert "or an operator for it, cancelled" in told.explanation.meaning.english
    assert "or an operator for the caller, cancelled" in failure.message


def test_a_correction_says_that_it_corrects() -> None:
    corrected = entry(9, 50, "success_reported", "failed succeeded")
    told = tell_story(record(history=(entry(1, 0, "accepted", "accepted"), corrected)))
    assert "corrects the failure" in told.lines[-1].sentence


def test_a_name_of_a_newer_release_is_quoted() -> None:
    told = tell_story(record(history=(entry(1, 0, "blessed", "accepted"),)))
    assert told.lines[0].sentence == "The service recorded blessed."


@pytest.mark.parametrize(
    ("kind", "changes", "outlook"),
    [
        (Kind.DEPOSIT, {"next_step_at": at(58)}, "sends the payment now."),
        (Kind.DEPOSIT, {"next_step_at": at(-60)}, "has been due for 2 minutes."),
        (Kind.DEPOSIT, {"next_step_at": at(69)}, "in 10 s, at 2026-03-01 07:16:09 UTC."),
        (
            Kind.WITHDRAWAL,
            {"next_step_at": at(60), "brakes": frozenset({"kill_switch", "b2c"})},
            "sends the payment later. It waits, because of the kill switch and a hold of B2C.",
        ),
        (
            Kind.DEPOSIT,
            {"next_step_at": at(60), "brakes": frozenset({"kill_switch"})},
            "sends the payment now.",
        ),
        (
            Kind.WITHDRAWAL,
            {"stage": Stage.IN_DOUBT, "next_step_at": at(60), "brakes": frozenset({"breaker"})},
            "Transaction Status later. It waits, because of the breaker.",
        ),
        (
            Kind.WITHDRAWAL,
            {"next_step_at": at(-60), "brakes": frozenset({"kill_switch"})},
            "payment later: it has been due for 2 minutes. It waits, because of the kill switch.",
        ),
        (
            Kind.WITHDRAWAL,
            {"next_step_at": at(69), "brakes": frozenset({"kill_switch"})},
            "at 2026-03-01 07:16:09 UTC, at the earliest. It waits, because of the kill switch.",
        ),
        (Kind.DEPOSIT, {"needs_review": True}, "no worker sends it"),
    ],
)
def test_the_outlook_says_what_happens_next_and_what_holds_it_up(
    kind: Kind, changes: dict[str, Any], outlook: str
) -> None:
    assert outlook in tell_story(record(kind, **changes)).outlook


def test_the_id_of_the_story_is_the_payments() -> None:
    told = record()
    assert tell_story(told).payment_id == told.payment.id
    assert isinstance(UUID(story_view(tell_story(told))["payment_id"]), UUID)


def test_the_outlook_of_a_restored_payment_has_no_end_without_a_person() -> None:
    """A restore postpones the step of a flagged payment for a lifetime."""
    step_at = datetime(2126, 2, 5, tzinfo=UTC)
    restored = record(stage=Stage.ACCEPTED, needs_review=True, next_step_at=step_at)
    assert tell_story(restored).outlook.endswith("Decide by `resolve`.")
