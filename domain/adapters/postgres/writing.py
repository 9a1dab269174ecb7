"""Writing a batch of decided changes: everything that belongs to them, in one statement, and
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Transaction
from domain.adapters.postgres.payment_columns import CHANGED_NAMES, CHANGED_TYPES, changed_arrays
from domain.adapters.postgres.rows import columns, unnest
from domain.attempts import Attempt, ProviderIds
from domain.changes import Announcement, Change, Decided
from domain.inquiry import Inquiry
from domain.payment import Payment
from domain.views import json_text

_OUTCOME_COLUMNS = {"id": "uuid", "outcome": "text"}
_ATTEMPT_COLUMNS = {
    "id": "uuid",
    "payment_id": "uuid",
    "number": "int",
    "outcome": "text",
    "account": "text",
}
_ASKED_COLUMNS = {
    "payment_id": "uuid", "number": "int", "api": "text", "is_probe": "boolean", "of_former_account": "boolean",
}  # fmt: skip
_ANSWERED_COLUMNS = {"payment_id": "uuid", "number": "int", "verdict": "text", "code": "text"}
_ID_COLUMNS = {"kind": "text", "value": "text", "payment_id": "uuid", "attempt_id": "uuid"}
_HISTORY_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "sequence": "int", "what": "text", "previous_stage": "text", "stage": "text",
    "attempt_id": "uuid", "detail": "text", "event_type": "text", "event_body": "text",
}  # fmt: skip
_CALLBACK_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "operation": "text", "source_address": "text", "source_allowed": "boolean",
    "content_type": "text", "body": "bytea", "body_sha256": "bytea", "disposition": "text", "is_flagged": "boolean",
    "word": "text", "receipt": "text",
}  # fmt: skip
_EXCHANGE_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "attempt_id": "uuid", "api": "text", "request": "text",
    "was_written": "boolean", "http_status": "int", "answer": "text", "meaning": "text",
}  # fmt: skip

# The same bytes for the same payment are kept so often, among the last of its messages: a copy more
# would tell nothing, and whoever knows an address could fill the disk with them. Counted under the
# payment's lock; what differs is always kept.
_COPIES_MAX = 200
_LOOKED_BACK_MAX = 1_000

# All that a batch writes, in one statement, because each costs two round trips. The tables do not
# read each other here; what was written is counted. A callback or an exchange that a lost COMMIT
# wrote already is not written twice.
_WRITE = text(f"""
WITH ids AS (
    INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)
    SELECT kind, value, payment_id, attempt_id, now() FROM {unnest(_ID_COLUMNS, "ids")} ORDER BY kind, value
    ON CONFLICT ON CONSTRAINT provider_id_belongs_to_one_payment DO NOTHING
    RETURNING kind
), changed AS (
    UPDATE mkwanja.payments AS payment
    SET {", ".join(f"{name} = sent.{name}" for name in CHANGED_NAMES)}
    FROM {unnest(CHANGED_TYPES, "payments")} WHERE payment.id = sent.id
    RETURNING payment.id
), ended AS (
    UPDATE mkwanja.attempts AS attempt SET outcome = sent.outcome, ended_at = now()
    FROM {unnest(_OUTCOME_COLUMNS, "attempts")} WHERE attempt.id = sent.id
    RETURNING attempt.id
), claimed AS (
    INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, outcome, ended_at, account)
    SELECT id, payment_id, number, now(), outcome, CASE WHEN outcome IS NOT NULL THEN now() END, account
    FROM {unnest(_ATTEMPT_COLUMNS, "claims")}
), asked AS (
    INSERT INTO mkwanja.inquiries (payment_id, number, api, is_probe, of_former_account, asked_at)
    SELECT payment_id, number, api, is_probe, of_former_account, now() FROM {unnest(_ASKED_COLUMNS, "asked")}
), answered AS (
    UPDATE mkwanja.inquiries AS inquiry SET answered_at = now(), verdict = sent.verdict, code = sent.code
    FROM {unnest(_ANSWERED_COLUMNS, "answered")}
    WHERE inquiry.payment_id = sent.payment_id AND inquiry.number = sent.number AND inquiry.answered_at IS NULL
), noted AS (
    INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, previous_stage, stage, attempt_id,
        detail, event_type, event_body)
    SELECT id, payment_id, sequence, now(), what, previous_stage, stage, attempt_id, CAST(detail AS json), event_type,
        event_body
    FROM {unnest(_HISTORY_COLUMNS, "history")}
), repeated AS (
    SELECT sent.id FROM {unnest(_CALLBACK_COLUMNS, "callbacks")}
    WHERE {_COPIES_MAX} <= (
        SELECT count(*) FROM (
            SELECT operation, source_allowed, disposition, body_sha256 FROM mkwanja.callbacks AS earlier
            WHERE earlier.payment_id = sent.payment_id ORDER BY earlier.received_at DESC LIMIT {_LOOKED_BACK_MAX}
        ) AS recent
        WHERE (recent.operation, recent.source_allowed, recent.disposition, recent.body_sha256)
            = (sent.operation, sent.source_allowed, sent.disposition, sent.body_sha256)
    )
), stored AS (
    INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address, source_allowed, content_type,
        body, body_sha256, disposition, is_flagged, word, receipt)
    SELECT id, payment_id, operation, now(), source_address, source_allowed, content_type, body, body_sha256,
        disposition, is_flagged, word, receipt
    FROM {unnest(_CALLBACK_COLUMNS, "callbacks")}
    WHERE NOT EXISTS (SELECT FROM mkwanja.callbacks AS earlier WHERE earlier.id = sent.id)
        AND sent.id NOT IN (SELECT id FROM repeated)
), exchanged AS (
    INSERT INTO mkwanja.daraja_exchanges (id, payment_id, attempt_id, api, recorded_at, request, was_written,
        http_status, answer, meaning)
    SELECT id, payment_id, attempt_id, api, now(), CAST(request AS json), was_written, http_status, answer, meaning
    FROM {unnest(_EXCHANGE_COLUMNS, "exchanges")}
    ON CONFLICT (id) DO NOTHING
)
SELECT (SELECT count(*) FROM ids) AS ids, (SELECT count(*) FROM changed) AS payments, (SELECT count(*) FROM ended) AS attempts,
    ARRAY(SELECT id FROM repeated) AS repeated
""")


@dataclass(frozen=True, slots=True)
class Written:
    """A decided change, ready to be written."""

    change: Change
    before: Payment | None
    decided: Decided
    new_ids: ProviderIds
    history: dict[str, Any] | None
    announcement: Announcement | None


class TakenMeanwhile(Exception):
    """Another transaction recorded one of our ids, or took our probe, between the look and the
    write.
    """


async def write(
    transaction: Transaction, written: Sequence[Written], effects: BatchEffects
) -> frozenset[UUID]:
    """Writes all of `written`; the ids of callbacks that are on record often enough and were not
    stored once more.
    """
    ids = [
        {
            "kind": kind,
            "value": value,
            "payment_id": item.change.payment_id,
            "attempt_id": item.decided.attempt_id,
        }
        for item in written
        for kind, value in sorted(item.new_ids)
    ]
    changed = [
        item.decided.payment
        for item in written
        if item.before is not None
        and item.decided.payment is not None
        and item.decided.payment != item.before
    ]
    outcomes = [
        {"id": attempt.id, "outcome": attempt.outcome.value if attempt.outcome else None}
        for item in written
        for attempt in _changed_attempts(item)
    ]
    claims = [
        {
            "id": attempt.id,
            "payment_id": item.change.payment_id,
            "number": attempt.number,
            "outcome": attempt.outcome.value if attempt.outcome else None,
            "account": attempt.account.as_text() if attempt.account else None,
        }
        for item in written
        for attempt in _new_attempts(item)
    ]
    asked = [_inquiry_values(payment, inquiry) for payment, inquiry in effects.inquiries]
    answered = [_answer_values(payment_id, inquiry) for payment_id, inquiry in effects.answers]
    history = [item.history for item in written if item.history]
    callbacks = [_callback_values(item) for item in written if item.change.callback]
    exchanges = [values for item in written for values in _exchange_values(item.change)]
    if not (
        ids
        or changed
        or outcomes
        or claims
        or asked
        or answered
        or history
        or callbacks
        or exchanges
    ):
        return frozenset()
    parameters = {
        **columns(ids, _ID_COLUMNS, "ids"),
        **changed_arrays(changed, "payments"),
        **columns(outcomes, _OUTCOME_COLUMNS, "attempts"),
        **columns(claims, _ATTEMPT_COLUMNS, "claims"),
        **columns(asked, _ASKED_COLUMNS, "asked"),
        **columns(answered, _ANSWERED_COLUMNS, "answered"),
        **columns(history, _HISTORY_COLUMNS, "history"),
        **columns(callbacks, _CALLBACK_COLUMNS, "callbacks"),
        **columns(exchanges, _EXCHANGE_COLUMNS, "exchanges"),
    }
    [counted] = await transaction.rows(_WRITE, parameters)
    if counted.ids != len(ids):
        raise TakenMeanwhile
    if (counted.payments, counted.attempts) != (len(changed), len(outcomes)):
        raise RuntimeError("a locked row was not written: two changes of one payment in a batch?")
    return frozenset(counted.repeated)


def _changed_attempts(item: Written) -> list[Attempt]:
    if item.before is None or item.decided.payment is None:
        return []
    earlier = {attempt.id: attempt.outcome for attempt in item.before.attempts}
    return [
        attempt
        for attempt in item.decided.payment.attempts
        if attempt.id in earlier and attempt.outcome != earlier[attempt.id]
    ]


def _new_attempts(item: Written) -> list[Attempt]:
    if item.before is None or item.decided.payment is None:
        return []
    known = {attempt.id for attempt in item.before.attempts}
    return [attempt for attempt in item.decided.payment.attempts if attempt.id not in known]


def _inquiry_values(payment: Payment, inquiry: Inquiry) -> dict[str, Any]:
    return {
        "payment_id": payment.id,
        "number": inquiry.number,
        "api": payment.question,
        "is_probe": inquiry.is_probe,
        "of_former_account": inquiry.of_former_account,
    }


def _answer_values(payment_id: UUID, inquiry: Inquiry) -> dict[str, Any]:
    return {
        "payment_id": payment_id,
        "number": inquiry.number,
        "verdict": inquiry.outcome,
        "code": inquiry.code,
    }


def _callback_values(item: Written) -> dict[str, Any]:
    callback, disposition = item.change.callback, item.decided.disposition
    assert callback is not None and disposition is not None  # noqa: S101, PT018 - every message is judged
    return {
        "id": callback.id,
        "payment_id": item.change.payment_id,
        "operation": callback.operation,
        "source_address": callback.source_address,
        "source_allowed": callback.source_allowed,
        "content_type": callback.content_type,
        "body": callback.body,
        "body_sha256": callback.body_sha256,
        "disposition": disposition.value,
        "is_flagged": item.decided.is_flagged,
        "word": callback.outcome,
        "receipt": callback.receipt,
    }


def _exchange_values(change: Change) -> list[dict[str, Any]]:
    return [
        {
            "id": exchange.id,
            "payment_id": change.payment_id,
            "attempt_id": exchange.attempt_id,
            "api": exchange.api,
            "request": json_text(dict(exchange.request)),
            "was_written": exchange.was_written,
            "http_status": exchange.http_status,
            "answer": exchange.answer,
            "meaning": exchange.outcome,
        }
        for exchange in change.exchanges
    ]
