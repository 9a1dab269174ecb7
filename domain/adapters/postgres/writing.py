"""Writes a batch of decided changes, with everything that belongs to them, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from domain.adapters.postgres.brakes import RELEASE_OPERATIONS
from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Calls
from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.operations import working_operations
from domain.adapters.postgres.payment_columns import CHANGED_NAMES, CHANGED_TYPES, changed_record
from domain.adapters.postgres.rows import bytea_text, records, recordset
from domain.attempts import Attempt, ProviderIds
from domain.changes import Announcement, Change, Decided
from domain.evidence import Inquiry
from domain.payment import Payment

log = structlog.get_logger()

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
    "detail": "json",
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
    "request": "json",
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

# One call writes the whole batch. Each parameter of JSON has the rows of one table, or is NULL if
# there are none. The function returns how many rows it wrote. If a lost COMMIT already wrote a
# callback or an exchange, the function does not write it twice.
WRITE = Function(
    "write_changes",
    parameters={
        "claims": "json",
        "ids": "json",
        "payments": "json",
        "outcomes": "json",
        "inquiries": "json",
        "answers": "json",
        "history": "json",
        "callbacks": "json",
        # The first and the last payment of the callbacks. They select the partitions of the table.
        "first_called_back": "uuid",
        "last_called_back": "uuid",
        "exchanges": "json",
        "changes_breaker": "boolean",
        "operations": "text[]",
        "working": "json",
    },
    returns={
        "ids": "int",
        "payments": "int",
        "attempts": "int",
        "repeated": "uuid[]",
        "released": "text[]",
    },
    joins_tables=True,
    body=f"""
BEGIN
    -- New attempts come before the ids of these attempts.
    IF :claims IS NOT NULL THEN
        INSERT INTO mkwanja.attempts
            (id, payment_id, number, claimed_at, outcome, ended_at, account)
        SELECT id, payment_id, number, now(), outcome,
            CASE WHEN outcome IS NOT NULL THEN now() END, account
        FROM {recordset("claims", _ATTEMPT_COLUMNS)};
    END IF;
    IF :ids IS NOT NULL THEN
        INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)
        SELECT kind, value, payment_id, attempt_id, now()
        FROM {recordset("ids", _ID_COLUMNS)} ORDER BY kind, value
        ON CONFLICT ON CONSTRAINT provider_id_belongs_to_one_payment DO NOTHING;
        GET DIAGNOSTICS ids = ROW_COUNT;
    END IF;
    IF :payments IS NOT NULL THEN
        UPDATE mkwanja.payments AS payment
        SET {", ".join(f"{name} = batch.{name}" for name in CHANGED_NAMES)}
        FROM {recordset("payments", CHANGED_TYPES)} WHERE payment.id = batch.id;
        GET DIAGNOSTICS payments = ROW_COUNT;
    END IF;
    IF :outcomes IS NOT NULL THEN
        UPDATE mkwanja.attempts AS attempt SET outcome = batch.outcome, ended_at = now()
        FROM {recordset("outcomes", _OUTCOME_COLUMNS)} WHERE attempt.id = batch.id;
        GET DIAGNOSTICS attempts = ROW_COUNT;
    END IF;
    IF :inquiries IS NOT NULL THEN
        INSERT INTO mkwanja.inquiries
            (payment_id, number, api, is_probe, of_former_account, asked_at)
        SELECT payment_id, number, api, is_probe, of_former_account, now()
        FROM {recordset("inquiries", _INQUIRY_COLUMNS)};
    END IF;
    IF :answers IS NOT NULL THEN
        UPDATE mkwanja.inquiries AS inquiry
        SET answered_at = now(), verdict = batch.verdict, code = batch.code
        FROM {recordset("answers", _ANSWER_COLUMNS)}
        WHERE inquiry.payment_id = batch.payment_id AND inquiry.number = batch.number
            AND inquiry.answered_at IS NULL;
    END IF;
    IF :history IS NOT NULL THEN
        INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what,
            previous_stage, stage, attempt_id, detail, event_type, event_body)
        SELECT id, payment_id, sequence, now(), what,
            previous_stage, stage, attempt_id, detail, event_type, event_body
        FROM {recordset("history", _HISTORY_COLUMNS)};
    END IF;
    IF :callbacks IS NOT NULL THEN
        SELECT array_agg(batch.id) INTO repeated
        FROM {recordset("callbacks", _CALLBACK_COLUMNS)}
        WHERE {_COPIES_MAX} <= (
            SELECT count(*) FROM (
                SELECT operation, source_allowed, disposition, body_sha256
                FROM mkwanja.callbacks AS earlier
                WHERE earlier.payment_id = batch.payment_id
                    AND earlier.payment_id BETWEEN :first_called_back AND :last_called_back
                ORDER BY earlier.received_at DESC LIMIT {_COMPARED_MESSAGES_MAX}
            ) AS recent
            WHERE (recent.operation, recent.source_allowed, recent.disposition, recent.body_sha256)
                = (batch.operation, batch.source_allowed, batch.disposition, batch.body_sha256)
        );
        INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,
            source_allowed, content_type, body, body_sha256, disposition, is_flagged, word, receipt)
        SELECT id, payment_id, operation, now(), source_address,
            source_allowed, content_type, body, body_sha256, disposition, is_flagged, word, receipt
        FROM {recordset("callbacks", _CALLBACK_COLUMNS)}
        WHERE NOT EXISTS (
                SELECT FROM mkwanja.callbacks AS earlier
                WHERE earlier.id = batch.id AND earlier.payment_id = batch.payment_id
                    AND earlier.payment_id BETWEEN :first_called_back AND :last_called_back)
            AND batch.id <> ALL(coalesce(repeated, '{{}}'));
    END IF;
    IF :exchanges IS NOT NULL THEN
        INSERT INTO mkwanja.daraja_exchanges (id, payment_id, attempt_id, api, recorded_at,
            request, was_written, http_status, answer, meaning)
        SELECT id, payment_id, attempt_id, api, now(),
            request, was_written, http_status, answer, meaning
        FROM {recordset("exchanges", _EXCHANGE_COLUMNS)}
        ON CONFLICT (id) DO NOTHING;
    END IF;
    {RELEASE_OPERATIONS}
    RETURN NEXT;
END
""",
)


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
    transaction: Calls, prepared: Sequence[PreparedChange], effects: BatchEffects
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
        changed_record(item.decided.payment)
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
    rows: dict[str, list[dict[str, Any]]] = {
        "claims": claims,
        "ids": ids,
        "payments": changed,
        "outcomes": outcomes,
        "inquiries": inquiries,
        "answers": answers,
        "history": history,
        "callbacks": callbacks,
        "exchanges": exchanges,
        "working": working_operations(effects),
    }
    if not any(rows.values()):
        return frozenset()
    parameters: dict[str, Any] = {name: records(rows_) for name, rows_ in rows.items()}
    called_back = [item.change.payment_id for item in prepared if item.change.callback]
    parameters["first_called_back"] = min(called_back, default=None)
    parameters["last_called_back"] = max(called_back, default=None)
    parameters["changes_breaker"] = effects.changes_breaker
    parameters["operations"] = [operation.value for operation in effects.changed_operations]
    [written] = await transaction.call(WRITE, parameters)
    if (written["ids"] or 0) != len(ids):
        raise ConcurrentWrite
    if (written["payments"] or 0, written["attempts"] or 0) != (len(changed), len(outcomes)):
        raise RuntimeError("a locked row was not written: two changes of one payment in a batch?")
    for operation in written["released"] or ():
        log.warning("operation_released", operation=operation)
    return frozenset(written["repeated"] or ())


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
        "body": bytea_text(callback.body),
        "body_sha256": bytea_text(callback.body_sha256),
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
            "request": dict(exchange.request),
            "was_written": exchange.was_written,
            "http_status": exchange.http_status,
            "answer": exchange.answer,
            "meaning": exchange.outcome,
        }
        for exchange in change.exchanges
    ]
