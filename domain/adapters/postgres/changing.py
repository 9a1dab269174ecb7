"""Changing payments: lock, decide, write, commit, for as many as wait.

Every change after acceptance but the claim goes through here, so that the rules of rows are in one place: rows are locked
in id order, a batch holds one change per payment, what is written is counted, and the event's body is fixed in the commit
that makes the fact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from domain.adapters.batching import Lane, RunAlone
from domain.adapters.postgres.engine import (
    CONTENDED,
    CommitOutcomeUnknown,
    Database,
    Transaction,
    is_about_rows,
    sqlstate,
)
from domain.adapters.postgres.rows import (
    CHANGED_COLUMNS,
    attempts_from,
    changed_values,
    columns,
    payment_from,
    unnest,
)
from domain.errors import PaymentServiceError, StoreUnavailable
from domain.events import event_body, json_text
from domain.payment import Attempt, Payment, Stage
from domain.ports import Announcement, Change, ChangeResult, Context, Decided

# A lost COMMIT is written again: every change is decided anew on the row as it then stands, so twice is once.
_TRIES_MAX = 3

_LOCK = text("SELECT * FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")
ATTEMPTS = text("SELECT * FROM mkwanja.attempts WHERE payment_id = ANY(CAST(:ids AS uuid[])) ORDER BY number")
PROVIDER_IDS = text("""
SELECT kind, value, payment_id, attempt_id FROM mkwanja.provider_ids
WHERE payment_id = ANY(CAST(:ids AS uuid[]))
   OR (kind, value) IN (SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:provider_values AS text[])))
""")
_RECEIPTS = text("SELECT receipt, id FROM mkwanja.payments WHERE receipt = ANY(CAST(:receipts AS text[]))")

_OUTCOME_COLUMNS = {"id": "uuid", "outcome": "text"}
_ID_COLUMNS = {"kind": "text", "value": "text", "payment_id": "uuid", "attempt_id": "uuid"}
_HISTORY_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "sequence": "int", "what": "text", "previous_stage": "text", "stage": "text",
    "attempt_id": "uuid", "detail": "text", "event_type": "text", "event_body": "text",
}  # fmt: skip
_CALLBACK_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "operation": "text", "source_address": "text", "source_allowed": "boolean",
    "content_type": "text", "body": "bytea", "body_sha256": "bytea", "disposition": "text", "is_flagged": "boolean",
}  # fmt: skip
_EXCHANGE_COLUMNS = {
    "id": "uuid", "payment_id": "uuid", "attempt_id": "uuid", "api": "text", "request": "text",
    "was_written": "boolean", "http_status": "int", "answer": "text", "meaning": "text",
}  # fmt: skip

# All that a batch writes, in one statement, because each costs two round trips. The tables do not read each other here;
# what was written is counted. A callback or an exchange that a lost COMMIT wrote already is not written twice.
_WRITE = text(f"""
WITH ids AS (
    INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)
    SELECT kind, value, payment_id, attempt_id, now() FROM {unnest(_ID_COLUMNS, "ids")} ORDER BY kind, value
    ON CONFLICT ON CONSTRAINT provider_id_belongs_to_one_payment DO NOTHING
    RETURNING kind
), changed AS (
    UPDATE mkwanja.payments AS payment
    SET {", ".join(f"{name} = sent.{name}" for name in CHANGED_COLUMNS if name != "id")}
    FROM {unnest(CHANGED_COLUMNS, "payments")} WHERE payment.id = sent.id
    RETURNING payment.id
), ended AS (
    UPDATE mkwanja.attempts AS attempt SET outcome = sent.outcome, ended_at = now()
    FROM {unnest(_OUTCOME_COLUMNS, "attempts")} WHERE attempt.id = sent.id
    RETURNING attempt.id
), noted AS (
    INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, previous_stage, stage, attempt_id,
        detail, event_type, event_body)
    SELECT id, payment_id, sequence, now(), what, previous_stage, stage, attempt_id, CAST(detail AS json), event_type,
        event_body
    FROM {unnest(_HISTORY_COLUMNS, "history")}
), stored AS (
    INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address, source_allowed, content_type,
        body, body_sha256, disposition, is_flagged)
    SELECT id, payment_id, operation, now(), source_address, source_allowed, content_type, body, body_sha256,
        disposition, is_flagged
    FROM {unnest(_CALLBACK_COLUMNS, "callbacks")}
    WHERE NOT EXISTS (SELECT FROM mkwanja.callbacks AS earlier WHERE earlier.id = sent.id)
), exchanged AS (
    INSERT INTO mkwanja.daraja_exchanges (id, payment_id, attempt_id, api, recorded_at, request, was_written,
        http_status, answer, meaning)
    SELECT id, payment_id, attempt_id, api, now(), CAST(request AS json), was_written, http_status, answer, meaning
    FROM {unnest(_EXCHANGE_COLUMNS, "exchanges")}
    ON CONFLICT (id) DO NOTHING
)
SELECT (SELECT count(*) FROM ids) AS ids, (SELECT count(*) FROM changed) AS payments, (SELECT count(*) FROM ended) AS attempts
""")


@dataclass(frozen=True, slots=True)
class _Written:
    """A decided change, ready to be written."""

    change: Change
    before: Payment | None
    decided: Decided
    new_ids: frozenset[tuple[str, str]]
    history: dict[str, Any] | None
    announcement: Announcement | None


class Changing:
    """Satisfies `domain.ports.ChangingStore`."""

    def __init__(self, database: Database, *, gate: asyncio.Semaphore | None = None) -> None:
        self._database = database
        self._lane: Lane[Change, ChangeResult] = Lane(
            self._change_batch, key=lambda change: change.payment_id, gate=gate
        )

    async def change(self, change: Change) -> ChangeResult:
        """See `domain.ports.ChangingStore.change`."""
        return await self._lane.submit(change)

    async def drain(self) -> None:
        await self._lane.drain()

    async def _change_batch(self, batch: Sequence[Change]) -> list[ChangeResult | PaymentServiceError]:
        for is_last in (*[False] * (_TRIES_MAX - 1), True):
            try:
                async with self._database.transaction() as transaction:
                    return await change_in(transaction, batch)
            except CommitOutcomeUnknown:
                if is_last:
                    raise
            except Exception as error:
                if not is_about_rows(error) and not isinstance(error, _TakenMeanwhile):
                    raise
                if len(batch) > 1:
                    raise RunAlone from error
                if is_last and sqlstate(error) in CONTENDED:
                    raise StoreUnavailable from error
                if is_last:
                    raise
                # Another transaction took an id or a receipt between our look and our write: looked at again.
        raise AssertionError


async def change_in(transaction: Transaction, batch: Sequence[Change]) -> list[ChangeResult | PaymentServiceError]:
    """Decides and writes `batch` in `transaction`. A decision that refuses is its own waiter's result, nobody else's."""
    payments, owners, receipts = await _lock_and_load(transaction, batch)
    written: list[_Written] = []
    results: list[ChangeResult | PaymentServiceError] = []
    for change in batch:
        before = payments.get(change.payment_id)
        context = Context(
            now=transaction.now,
            ids_of_others=frozenset(
                key for key in change.ids if owners.get(key, change.payment_id) != change.payment_id
            ),
            receipt_is_anothers=receipts.get(change.receipt or "", change.payment_id) != change.payment_id,
        )
        try:
            decided = change.decide(before, context)
        except PaymentServiceError as refusal:
            results.append(refusal)
            continue
        new_ids = frozenset(key for key in decided.ids if key not in owners)
        item = _prepare(change, before, decided, new_ids, transaction)
        written.append(item)
        results.append(ChangeResult(item.decided, item.announcement))
    await _write(transaction, written)
    return results


async def _lock_and_load(
    transaction: Transaction, batch: Sequence[Change]
) -> tuple[dict[UUID, Payment], dict[tuple[str, str], UUID], dict[str, UUID]]:
    ids = sorted({change.payment_id for change in batch})
    incoming = sorted({key for change in batch for key in change.ids})
    rows = await transaction.rows(_LOCK, {"ids": ids})
    attempt_rows = await transaction.rows(ATTEMPTS, {"ids": ids})
    parameters = {
        "ids": ids,
        "kinds": [kind for kind, _ in incoming],
        "provider_values": [value for _, value in incoming],
    }
    id_rows = await transaction.rows(PROVIDER_IDS, parameters)
    attempts = attempts_from(attempt_rows, id_rows)
    payments = {row.id: payment_from(row, attempts.get(row.id, ())) for row in rows}
    owners = {(row.kind, row.value): row.payment_id for row in id_rows}
    receipts = {}
    if wanted := [change.receipt for change in batch if change.receipt]:
        receipts = {row.receipt: row.id for row in await transaction.rows(_RECEIPTS, {"receipts": wanted})}
    return payments, owners, receipts


def _prepare(
    change: Change,
    before: Payment | None,
    decided: Decided,
    new_ids: frozenset[tuple[str, str]],
    transaction: Transaction,
) -> _Written:
    """Stamps what was decided with the transaction's time, and makes its history entry and event."""
    after = decided.payment
    if before is None or after is None or (decided.what is None and after == before):
        return _Written(change, before, decided, new_ids, None, None)
    after = replace(after, updated_at=transaction.now)
    if after.stage.is_final and after.finalized_at is None:
        after = replace(after, finalized_at=transaction.now)
    if after.stage.is_final and after.stage is not before.stage:
        after = replace(after, next_step_at=None)
    if after.stage is not Stage.SUBMITTING:
        after = replace(after, lease_until=None)
    if decided.what is None:
        return _Written(change, before, replace(decided, payment=after), new_ids, None, None)
    after = replace(after, sequence=before.sequence + 1)
    history_id = uuid_utils.uuid7()
    body = None
    if decided.event is not None:
        after = replace(after, event_due=transaction.now)
        body = event_body(decided.event, event_id=history_id, payment=after, at=transaction.now)
    history = {
        "id": history_id,
        "payment_id": after.id,
        "sequence": after.sequence,
        "what": decided.what,
        "previous_stage": before.stage.value,
        "stage": after.stage.value,
        "attempt_id": decided.attempt_id,
        "detail": json_text(dict(decided.detail)),
        "event_type": decided.event.value if decided.event else None,
        "event_body": body,
    }
    announcement = Announcement(history_id=history_id, payment_id=after.id, body=body) if body else None
    return _Written(change, before, replace(decided, payment=after), new_ids, history, announcement)


async def _write(transaction: Transaction, written: Sequence[_Written]) -> None:
    ids = [
        {"kind": kind, "value": value, "payment_id": item.change.payment_id, "attempt_id": item.decided.attempt_id}
        for item in written
        for kind, value in sorted(item.new_ids)
    ]
    changed = [
        changed_values(item.decided.payment)
        for item in written
        if item.before is not None and item.decided.payment is not None and item.decided.payment != item.before
    ]
    outcomes = [
        {"id": attempt.id, "outcome": attempt.outcome.value if attempt.outcome else None}
        for item in written
        for attempt in _changed_attempts(item)
    ]
    history = [item.history for item in written if item.history]
    callbacks = [_callback_values(item) for item in written if item.change.callback]
    exchanges = [values for item in written for values in _exchange_values(item.change)]
    if not (ids or changed or outcomes or history or callbacks or exchanges):
        return
    parameters = {
        **columns(ids, _ID_COLUMNS, "ids"),
        **columns(changed, CHANGED_COLUMNS, "payments"),
        **columns(outcomes, _OUTCOME_COLUMNS, "attempts"),
        **columns(history, _HISTORY_COLUMNS, "history"),
        **columns(callbacks, _CALLBACK_COLUMNS, "callbacks"),
        **columns(exchanges, _EXCHANGE_COLUMNS, "exchanges"),
    }
    [counted] = await transaction.rows(_WRITE, parameters)
    if counted.ids != len(ids):
        raise _TakenMeanwhile
    if (counted.payments, counted.attempts) != (len(changed), len(outcomes)):
        raise RuntimeError("a locked row was not written: two changes of one payment in a batch?")


def _changed_attempts(item: _Written) -> list[Attempt]:
    if item.before is None or item.decided.payment is None:
        return []
    earlier = {attempt.id: attempt.outcome for attempt in item.before.attempts}
    return [attempt for attempt in item.decided.payment.attempts if attempt.outcome != earlier.get(attempt.id)]


def _callback_values(item: _Written) -> dict[str, Any]:
    callback = item.change.callback
    assert callback is not None  # noqa: S101 - asked for by the caller
    return {
        "id": callback.id,
        "payment_id": item.change.payment_id,
        "operation": callback.operation,
        "source_address": callback.source_address,
        "source_allowed": callback.source_allowed,
        "content_type": callback.content_type,
        "body": callback.body,
        "body_sha256": callback.body_sha256,
        "disposition": item.decided.disposition,
        "is_flagged": item.decided.is_flagged,
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
            "meaning": exchange.meaning,
        }
        for exchange in change.exchanges
    ]


class _TakenMeanwhile(Exception):
    """Another transaction recorded one of our ids between the look and the write."""
