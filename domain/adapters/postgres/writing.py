"""Writes a batch of decided changes, with everything that belongs to them, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Transaction
from domain.adapters.postgres.payment_columns import CHANGED_NAMES, CHANGED_TYPES, changed_arrays
from domain.adapters.postgres.rows import columns, unnest
from domain.adapters.postgres.statements import sql
from domain.attempts import Attempt, ProviderIds
from domain.changes import Announcement, Change, Decided
from domain.evidence import Inquiry
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
_INQUIRY_COLUMNS = {
    "payment_id": "uuid",
    "number": "int",
    "api": "text",
    "is_probe": "boolean",
    "of_former_account": "boolean",
}
_ANSWER_COLUMNS = {"payment_id": "uuid", "number": "int", "verdict": "text", "code": "text"}
_ID_COLUMNS = {"kind": "text", "value": "text", "payment_id": "uuid", "attempt_id": "uuid"}
_HISTORY_COLUMNS = {
    "id": "uuid",
    "payment_id": "uuid",
    "sequence": "int",
    "what": "text",
    "previous_stage": "text",
    "stage": "text",
    "attempt_id": "uuid",
    "detail": "text",
    "event_type": "text",
    "event_body": "text",
}
_CALLBACK_COLUMNS = {
    "id": "uuid",
    "payment_id": "uuid",
    "operation": "text",
    "source_address": "text",
    "source_allowed": "boolean",
    "content_type": "text",
    "body": "bytea",
    "body_sha256": "bytea",
    "disposition": "text",
    "is_flagged": "boolean",
    "word": "text",
    "receipt": "text",
}
_EXCHANGE_COLUMNS = {
    "id": "uuid",
    "payment_id": "uuid",
    "attempt_id": "uuid",
    "api": "text",
    "request": "text",
    "was_written": "boolean",
    "http_status": "int",
    "answer": "text",
    "meaning": "text",
}

# If this many of a payment's latest messages are copies of a new message, the new message is not
# stored. It would add no information, and an attacker who knows a callback address could fill the
# disk with copies. The payment's row is locked while the copies are counted.
_COPIES_MAX = 200
_COMPARED_MESSAGES_MAX = 1_000

# One statement writes the whole batch, because each statement costs two round trips. No part of the
# statement reads rows that another part writes. The statement returns how many rows it wrote. If a
# lost COMMIT already wrote a callback or an exchange, the statement does not write it twice.
_WRITE = sql(f"""
WITH ids AS (
    INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)
    SELECT kind, value, payment_id, attempt_id, now()
    FROM {unnest(_ID_COLUMNS, "ids")} ORDER BY kind, value
    ON CONFLICT ON CONSTRAINT provider_id_belongs_to_one_payment DO NOTHING
    RETURNING kind
), changed AS (
    UPDATE mkwanja.payments AS payment
    SET {", ".join(f"{name} = batch.{name}" for name in CHANGED_NAMES)}
    FROM {unnest(CHANGED_TYPES, "payments")} WHERE payment.id = batch.id
    RETURNING payment.id
), ended AS (
    UPDATE mkwanja.attempts AS attempt SET outcome = batch.outcome, ended_at = now()
    FROM {unnest(_OUTCOME_COLUMNS, "attempts")} WHERE attempt.id = batch.id
    RETURNING attempt.id
), claimed AS (
    INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, outcome, ended_at, account)
    SELECT id, payment_id, number, now(), outcome,
        CASE WHEN outcome IS NOT NULL THEN now() END, account
    FROM {unnest(_ATTEMPT_COLUMNS, "claims")}
), inquired AS (
    INSERT INTO mkwanja.inquiries (payment_id, number, api, is_probe, of_former_account, asked_at)
    SELECT payment_id, number, api, is_probe, of_former_account, now()
    FROM {unnest(_INQUIRY_COLUMNS, "inquiries")}
), answered AS (
    UPDATE mkwanja.inquiries AS inquiry
    SET answered_at = now(), verdict = batch.verdict, code = batch.code
    FROM {unnest(_ANSWER_COLUMNS, "answers")}
    WHERE inquiry.payment_id = batch.payment_id AND inquiry.number = batch.number
        AND inquiry.answered_at IS NULL
), recorded AS (
    INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what,
        previous_stage, stage, attempt_id, detail, event_type, event_body)
    SELECT id, payment_id, sequence, now(), what,
        previous_stage, stage, attempt_id, CAST(detail AS json), event_type, event_body
    FROM {unnest(_HISTORY_COLUMNS, "history")}
), repeated AS (
    SELECT batch.id FROM {unnest(_CALLBACK_COLUMNS, "callbacks")}
    WHERE {_COPIES_MAX} <= (
        SELECT count(*) FROM (
            SELECT operation, source_allowed, disposition, body_sha256
            FROM mkwanja.callbacks AS earlier
            WHERE earlier.payment_id = batch.payment_id
            ORDER BY earlier.received_at DESC LIMIT {_COMPARED_MESSAGES_MAX}
        ) AS recent
        WHERE (recent.operation, recent.source_allowed, recent.disposition, recent.body_sha256)
            = (batch.operation, batch.source_allowed, batch.disposition, batch.body_sha256)
    )
), stored AS (
    INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,
        source_allowed, content_type, body, body_sha256, disposition, is_flagged, word, receipt)
    SELECT id, payment_id, operation, now(), source_address,
        source_allowed, content_type, body, body_sha256, disposition, is_flagged, word, receipt
    FROM {unnest(_CALLBACK_COLUMNS, "callbacks")}
    WHERE NOT EXISTS (SELECT FROM mkwanja.callbacks AS earlier WHERE earlier.id = batch.id)
        AND batch.id NOT IN (SELECT id FROM repeated)
), exchanged AS (
    INSERT INTO mkwanja.daraja_exchanges (id, payment_id, attempt_id, api, recorded_at, request,
        was_written, http_status, answer, meaning)
    SELECT id, payment_id, attempt_id, api, now(), CAST(request AS json),
        was_written, http_status, answer, meaning
    FROM {unnest(_EXCHANGE_COLUMNS, "exchanges")}
    ON CONFLICT (id) DO NOTHING
)
SELECT (SELECT count(*) FROM ids) AS ids, (SELECT count(*) FROM changed) AS payments,
    (SELECT count(*) FROM ended) AS attempts, ARRAY(SELECT id FROM repeated) AS repeated
""")


@dataclass(frozen=True, slots=True)
class PreparedChange:
    """A decided change that is ready to be written."""

    change: Change
    before: Payment | None
    decided: Decided
    new_ids: ProviderIds
    history: dict[str, Any] | None
    announcement: Announcement | None


class ConcurrentWrite(Exception):
    """After our read, another transaction stored one of our ids or started our probe."""


async def write(
    transaction: Transaction, prepared: Sequence[PreparedChange], effects: BatchEffects
) -> frozenset[UUID]:
    """Writes all prepared changes and their effects.

    Returns the ids of the callbacks that were not stored, because enough copies are stored already.
    """
    ids = [
        {
            "kind": kind,
            "value": value,
            "payment_id": item.change.payment_id,
            "attempt_id": item.decided.attempt_id,
        }
        for item in prepared
        for kind, value in sorted(item.new_ids)
    ]
    changed = [
        item.decided.payment
        for item in prepared
        if item.before is not None
        and item.decided.payment is not None
        and item.decided.payment != item.before
    ]
    outcomes = [
        {"id": attempt.id, "outcome": attempt.outcome.value if attempt.outcome else None}
        for item in prepared
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
        for item in prepared
        for attempt in _new_attempts(item)
    ]
    inquiries = [_inquiry_values(payment, inquiry) for payment, inquiry in effects.inquiries]
    answers = [_answer_values(payment_id, inquiry) for payment_id, inquiry in effects.answers]
    history = [item.history for item in prepared if item.history]
    callbacks = [_callback_values(item) for item in prepared if item.change.callback]
    exchanges = [values for item in prepared for values in _exchange_values(item.change)]
    if not (
        ids
        or changed
        or outcomes
        or claims
        or inquiries
        or answers
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
        **columns(inquiries, _INQUIRY_COLUMNS, "inquiries"),
        **columns(answers, _ANSWER_COLUMNS, "answers"),
        **columns(history, _HISTORY_COLUMNS, "history"),
        **columns(callbacks, _CALLBACK_COLUMNS, "callbacks"),
        **columns(exchanges, _EXCHANGE_COLUMNS, "exchanges"),
    }
    [written] = await transaction.rows(_WRITE, parameters)
    if written.ids != len(ids):
        raise ConcurrentWrite
    if (written.payments, written.attempts) != (len(changed), len(outcomes)):
        raise RuntimeError("a locked row was not written: two changes of one payment in a batch?")
    return frozenset(written.repeated)


def _changed_attempts(item: PreparedChange) -> list[Attempt]:
    if item.before is None or item.decided.payment is None:
        return []
    old_outcomes = {attempt.id: attempt.outcome for attempt in item.before.attempts}
    return [
        attempt
        for attempt in item.decided.payment.attempts
        if attempt.id in old_outcomes and attempt.outcome != old_outcomes[attempt.id]
    ]


def _new_attempts(item: PreparedChange) -> list[Attempt]:
    if item.before is None or item.decided.payment is None:
        return []
    old_ids = {attempt.id for attempt in item.before.attempts}
    return [attempt for attempt in item.decided.payment.attempts if attempt.id not in old_ids]


def _inquiry_values(payment: Payment, inquiry: Inquiry) -> dict[str, Any]:
    return {
        "payment_id": payment.id,
        "number": inquiry.number,
        "api": payment.inquiry_step,
        "is_probe": inquiry.is_probe,
        "of_former_account": inquiry.is_of_former_account,
    }


def _answer_values(payment_id: UUID, inquiry: Inquiry) -> dict[str, Any]:
    return {
        "payment_id": payment_id,
        "number": inquiry.number,
        "verdict": inquiry.outcome,
        "code": inquiry.code,
    }


def _callback_values(item: PreparedChange) -> dict[str, Any]:
    callback, disposition = item.change.callback, item.decided.disposition
    # Every message has a disposition.
    assert callback is not None and disposition is not None  # noqa: S101, PT018
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
        "is_flagged": item.decided.is_message_flagged,
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
