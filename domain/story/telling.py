"""Tells the story of a payment: one line for each thing that happened, oldest first.

Pure. `sentences.py` has the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.changes import HistoryEntry
from domain.explanations import Explanation, explain_code, explain_failure, explanation_view
from domain.payment import Payment
from domain.stages import Stage
from domain.story.outlook import describe_outlook
from domain.story.records import (
    PaymentRecord,
    StoredEntry,
    StoredExchange,
    StoredInquiry,
    StoredMessage,
)
from domain.story.sentences import (
    ATTEMPT_OUTCOMES,
    CANCELLED_BY_OPERATOR,
    DISPOSITIONS,
    ENTRIES,
    INQUIRY_OUTCOMES,
    MESSAGE_OUTCOMES,
    OPERATIONS,
    Actor,
)
from domain.values import split_caller_key
from domain.views import timestamp

# Of things that were stored in one commit, the cause comes before its effect.
_ORDER = (StoredInquiry, StoredExchange, StoredMessage, StoredEntry)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryLine:
    """One thing that happened: when (by the database's clock), who did it, and what."""

    at: datetime
    actor: Actor
    sentence: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The story of one payment. The package's docstring describes the members."""

    payment_id: UUID
    summary: str
    outlook: str
    lines: tuple[StoryLine, ...]
    explanation: Explanation | None


def tell_story(record: PaymentRecord) -> Story:
    """The story of the payment of `record`."""
    payment = record.payment
    failure = payment.failure
    return Story(
        payment_id=payment.id,
        summary=_summarize(payment),
        outlook=describe_outlook(record),
        lines=tuple(_tell_lines(record)),
        explanation=None if failure is None else explain_failure(failure, payment.kind),
    )


def story_view(story: Story) -> dict[str, Any]:
    """`story` as a JSON object. `explain --json` documents the members."""
    return {
        "payment_id": str(story.payment_id),
        "summary": story.summary,
        "outlook": story.outlook,
        "lines": [
            {
                "at": timestamp(line.at),
                "actor": line.actor.value,
                "sentence": line.sentence,
                "details": dict(line.details),
            }
            for line in story.lines
        ],
        "explanation": None if story.explanation is None else explanation_view(story.explanation),
    }


def _summarize(payment: Payment) -> str:
    request = payment.request
    name, party = next(
        (name.replace("_", " "), value)
        for name in payment.rules.parties
        if (value := getattr(request, name)) is not None
    )
    direction = "to" if payment.rules.moves_money_out else "from"
    account = f", account {request.account_reference}" if request.account_reference else ""
    what = (
        f"A {payment.kind.replace('_', ' ')} of KES {request.amount_kes:,} {direction} the"
        f" {name} {party}{account}"
    )
    flag = " A person should look at it." if payment.needs_review else ""
    match payment.stage:
        case Stage.SUCCEEDED:
            settled = payment.amount_settled_kes
            other = f", with KES {settled:,}" if settled not in (None, request.amount_kes) else ""
            receipt = payment.receipt or "no receipt yet"
            return f"{what}: it succeeded{other} ({receipt}).{flag}"
        case Stage.FAILED:
            assert payment.failure is not None  # noqa: S101 - the database guarantees it
            return f"{what}: it failed ({payment.failure.reason}).{flag}"
        case _:
            return f"{what}: it is {payment.stage.replace('_', ' ')}.{flag}"


def _tell_lines(record: PaymentRecord) -> Iterator[StoryLine]:
    number_of = {attempt.id: attempt.number for attempt in record.payment.attempts}
    events: list[tuple[datetime, Any, StoryLine]] = [
        *((entry.at, entry, _entry_line(entry, record, number_of)) for entry in record.history),
        *((message.at, message, _message_line(message, record)) for message in record.messages),
        *((each.at, each, _exchange_line(each, number_of)) for each in record.exchanges),
    ]
    for inquiry in record.inquiries:
        events.append((inquiry.asked_at, inquiry, _inquiry_line(inquiry)))
        if inquiry.answered_at is not None:
            # The answer comes after the message or the exchange that brought it.
            line = _answer_line(inquiry, inquiry.answered_at, record)
            events.append((inquiry.answered_at, None, line))
    events.sort(key=lambda event: (event[0], _order(event[1])))
    yield from (line for _, _, line in events)


def _order(item: object) -> float:
    return _ORDER.index(type(item)) if item is not None else len(_ORDER) - 1.5


def _entry_line(
    entry: StoredEntry, record: PaymentRecord, number_of: Mapping[UUID, int]
) -> StoryLine:
    actor, sentence = next(
        (told for name, told in ENTRIES.items() if name == entry.name),
        (Actor.WORKER, f"The service recorded {entry.name}."),
    )
    if entry.name == HistoryEntry.CANCELLED_BY_CALLER and "operator" in entry.detail:
        actor, sentence = CANCELLED_BY_OPERATOR
    if entry.previous_stage == Stage.FAILED and entry.stage == Stage.SUCCEEDED:
        sentence += " This corrects the failure that was announced before."
    details = {}
    if entry.previous_stage is None:
        details.update(_request_details(record.payment))
    if entry.previous_stage != entry.stage:
        before = f"{entry.previous_stage} → " if entry.previous_stage else ""
        details["stage"] = f"{before}{entry.stage}"
    if entry.attempt_id is not None and entry.attempt_id in number_of:
        attempt = record.payment.attempts[number_of[entry.attempt_id] - 1]
        details["attempt"] = str(attempt.number)
        if entry.name == "claimed" and attempt.account is not None:
            details["short code"] = attempt.account.shortcode
    details.update({name.replace("_", " "): text for name, text in entry.detail.items()})
    details.update(_meaning(entry.detail.get("provider_code"), record.payment))
    if entry.event_type is not None:
        state = "published" if entry.is_published else "not published yet"
        details["event"] = f"{entry.event_type}, {state}"
    return StoryLine(at=entry.at, actor=actor, sentence=sentence, details=details)


def _request_details(payment: Payment) -> dict[str, str]:
    issuer, subject = split_caller_key(payment.caller_key)
    details = {"caller": subject, "issuer": issuer, "idempotency key": payment.idempotency_key}
    if payment.request.owner is not None:
        details["owner"] = payment.request.owner
    return details


def _message_line(message: StoredMessage, record: PaymentRecord) -> StoryLine:
    said = next(
        (text for name, text in MESSAGE_OUTCOMES.items() if name == message.outcome),
        f"with the outcome {message.outcome}" if message.outcome else "which was not read",
    )
    did = next(
        (text for name, text in DISPOSITIONS.items() if name == message.disposition),
        f"The service recorded {message.disposition}.",
    )
    details = {"address": message.operation, "source": message.source_address}
    if message.receipt is not None:
        details["receipt"] = message.receipt
    details["bytes"] = str(len(message.body))
    if message.is_flagged:
        details["flagged"] = "a person should look at it"
    if len(record.messages) < record.message_count and message is record.messages[-1]:
        details["more"] = f"{record.message_count - len(record.messages)} later callbacks"
    return StoryLine(
        at=message.at,
        actor=Actor.CALLBACK_RECEIVER,
        sentence=f"The receiver stored a callback, {said}. {did}",
        details=details,
    )


def _exchange_line(exchange: StoredExchange, number_of: Mapping[UUID, int]) -> StoryLine:
    api = next(
        (text for name, text in OPERATIONS.items() if name == exchange.operation),
        exchange.operation,
    )
    what = "an inquiry" if exchange.attempt_id is None else "the payment"
    details = {"outcome": exchange.outcome}
    if exchange.attempt_id is not None and exchange.attempt_id in number_of:
        details["attempt"] = str(number_of[exchange.attempt_id])
    if exchange.http_status is not None:
        actor = Actor.DARAJA
        sentence = f"Daraja answered the request of {what} by {api}: HTTP {exchange.http_status}."
        details["answer"] = " ".join((exchange.answer or "").split())
    elif exchange.was_written:
        actor = Actor.DARAJA
        sentence = f"Daraja gave no answer to the request of {what} by {api}."
    else:
        actor = Actor.WORKER
        sentence = f"The worker could not write the request of {what} by {api}. Nothing was sent."
    return StoryLine(at=exchange.at, actor=actor, sentence=sentence, details=details)


def _inquiry_line(inquiry: StoredInquiry) -> StoryLine:
    api = next(
        (text for name, text in OPERATIONS.items() if name == inquiry.operation),
        inquiry.operation,
    )
    details = {"inquiry": str(inquiry.number)}
    if inquiry.is_probe:
        details["probe"] = "it tests whether Daraja accepts our credential"
    if inquiry.is_of_former_account:
        details["account"] = "a former account"
    if inquiry.answered_at is None:
        details["answer"] = "none yet"
    return StoryLine(
        at=inquiry.asked_at,
        actor=Actor.WORKER,
        sentence=f"A worker inquired about the payment by {api}.",
        details=details,
    )


def _answer_line(inquiry: StoredInquiry, at: datetime, record: PaymentRecord) -> StoryLine:
    said = next(
        (text for name, text in INQUIRY_OUTCOMES.items() if name == inquiry.outcome),
        inquiry.outcome or "nothing",
    )
    details = {"inquiry": str(inquiry.number)}
    if inquiry.code is not None:
        details["code"] = inquiry.code
    details.update(_meaning(inquiry.code, record.payment))
    return StoryLine(
        at=at,
        actor=Actor.DARAJA,
        sentence=f"Daraja's answer to the inquiry says: {said}.",
        details=details,
    )


def _meaning(code: str | None, payment: Payment) -> dict[str, str]:
    """What a result code of Daraja means, as a detail."""
    meaning = explain_code(code, payment.kind) if code is not None else None
    return {} if meaning is None else {"meaning": meaning.english}


def attempt_outcome(outcome: str | None) -> str:
    """What the outcome of an attempt means. None: its worker recorded no outcome."""
    if outcome is None:
        return "not known: the send is under way, or its worker died"
    return next((text for name, text in ATTEMPT_OUTCOMES.items() if name == outcome), outcome)
