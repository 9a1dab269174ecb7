"""Changing payments: lock, decide, write, commit, for as many as wait.

Every decision after acceptance but the first claim goes through here, so that the rules of rows are
in one place: rows are locked in id order, a batch holds one change per payment, what is written is
counted, and the event's body is fixed in the commit that makes the fact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from domain.adapters.batching import Lane, RunAlone
from domain.adapters.postgres.effects import sort_effects
from domain.adapters.postgres.engine import (
    CONTENDED,
    Database,
    Transaction,
    is_about_rows,
    sqlstate,
)
from domain.adapters.postgres.evidence import change_breaker, load_evidence
from domain.adapters.postgres.operations import change_operations
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.rows import attempts_from
from domain.adapters.postgres.writing import TakenMeanwhile, Written, write
from domain.attempts import IdKind, ProviderId, ProviderIds
from domain.changes import AnnounceEvent, Announcement, Change, ChangeResult, Context, Decided
from domain.errors import CommitOutcomeUnknown, PaymentServiceError, StoreUnavailable
from domain.inquiry import Evidence
from domain.payment import Payment
from domain.stamp import stamped
from domain.views import event_body, json_text

# A lost COMMIT is written again: every change is decided anew on the row as it then stands, so
# twice is once.
_TRIES_MAX = 3

_LOCK = text(
    "SELECT * FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"
)
ATTEMPTS = text(
    "SELECT * FROM mkwanja.attempts WHERE payment_id = ANY(CAST(:ids AS uuid[])) ORDER BY number"
)
PROVIDER_IDS = text("""
SELECT kind, value, payment_id, attempt_id FROM mkwanja.provider_ids
WHERE payment_id = ANY(CAST(:ids AS uuid[]))
   OR (kind, value) IN (SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:provider_values AS text[])))
""")
_PAYMENTS = text("SELECT id FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[]))")
_RECEIPTS = text(
    "SELECT receipt, id FROM mkwanja.payments WHERE receipt = ANY(CAST(:receipts AS text[]))"
)


class Changing:
    """Satisfies `domain.changes.ChangingStore`."""

    def __init__(self, database: Database, *, gate: asyncio.Semaphore | None = None) -> None:
        self._database = database
        self._lane: Lane[Change, ChangeResult] = Lane(
            self._change_batch, key=lambda change: change.payment_id, gate=gate
        )

    async def change(self, change: Change) -> ChangeResult:
        """See `domain.changes.ChangingStore.change`."""
        return await self._lane.submit(change)

    async def drain(self) -> None:
        await self._lane.drain()

    async def _change_batch(
        self, batch: Sequence[Change]
    ) -> list[ChangeResult | PaymentServiceError]:
        for is_last in (*[False] * (_TRIES_MAX - 1), True):
            try:
                async with self._database.transaction() as transaction:
                    return await change_in(transaction, batch)
            except CommitOutcomeUnknown:
                if is_last:
                    raise
            except Exception as error:
                if not is_about_rows(error) and not isinstance(error, TakenMeanwhile):
                    raise
                if len(batch) > 1:
                    raise RunAlone from error
                if is_last and sqlstate(error) in CONTENDED:
                    raise StoreUnavailable from error
                if is_last:
                    raise
                # Another transaction took an id, a receipt or a probe between our look and our
                # write: looked at again.
        raise AssertionError


async def change_in(
    transaction: Transaction, batch: Sequence[Change]
) -> list[ChangeResult | PaymentServiceError]:
    """Decides and writes `batch` in `transaction`.

    A decision that refuses is its own waiter's result, nobody else's.
    """
    payments, owners = await _lock_and_load(transaction, batch)
    named = await _payments_named(transaction, batch)
    evidence = await load_evidence(transaction, batch)
    receipts = await _receipt_owners(transaction, batch, evidence)
    written: list[Written] = []
    results: list[ChangeResult | PaymentServiceError] = []
    for change in batch:
        before = payments.get(change.payment_id)
        known = evidence.get(change.payment_id, Evidence())
        context = Context(
            now=transaction.now,
            ids_of_others=frozenset(
                key
                for key in change.ids
                if owners.get(key, change.payment_id) != change.payment_id
                or named.get(key, change.payment_id) != change.payment_id
            ),
            receipt_is_anothers=receipts.get(change.receipt or "", change.payment_id)
            != change.payment_id,
            receipts_of_others=frozenset(
                receipt
                for receipt in known.receipts_to_confirm
                if receipts.get(receipt, change.payment_id) != change.payment_id
            ),
            evidence=known,
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
    effects = sort_effects([item.decided for item in written])
    repeated = await write(transaction, written, effects)
    await change_breaker(transaction, effects)
    if not await change_operations(transaction, effects):
        raise TakenMeanwhile
    return [
        _marked(result, change, repeated) for result, change in zip(results, batch, strict=True)
    ]


def _marked(
    result: ChangeResult | PaymentServiceError, change: Change, repeated: frozenset[UUID]
) -> ChangeResult | PaymentServiceError:
    if (
        isinstance(result, ChangeResult)
        and change.callback is not None
        and change.callback.id in repeated
    ):
        return replace(result, is_repeated=True)
    return result


async def _lock_and_load(
    transaction: Transaction, batch: Sequence[Change]
) -> tuple[dict[UUID, Payment], dict[ProviderId, UUID]]:
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
    owners = {(IdKind(row.kind), row.value): row.payment_id for row in id_rows}
    return payments, owners


async def _payments_named(
    transaction: Transaction, batch: Sequence[Change]
) -> dict[ProviderId, UUID]:
    """Other payments that this batch's messages name by our own ids.

    A payment with a key is known to Daraja by its own id, also before Daraja has acknowledged it.
    """
    foreign = {
        key: payment_id
        for change in batch
        for key in change.ids
        if key[0] == IdKind.ORIGINATOR_CONVERSATION
        and (payment_id := _payment_id(key[1])) not in (None, change.payment_id)
    }
    if not foreign:
        return {}
    found = {
        row.id for row in await transaction.rows(_PAYMENTS, {"ids": sorted(set(foreign.values()))})
    }
    return {key: payment_id for key, payment_id in foreign.items() if payment_id in found}


def _payment_id(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


async def _receipt_owners(
    transaction: Transaction, batch: Sequence[Change], evidence: Mapping[UUID, Evidence]
) -> dict[str, UUID]:
    """Whose the receipts are that this batch may record."""
    wanted = {change.receipt for change in batch if change.receipt}
    wanted.update(*(known.receipts_to_confirm for known in evidence.values()))
    if not wanted:
        return {}
    return {
        row.receipt: row.id
        for row in await transaction.rows(_RECEIPTS, {"receipts": sorted(wanted)})
    }


def _prepare(
    change: Change,
    before: Payment | None,
    decided: Decided,
    new_ids: ProviderIds,
    transaction: Transaction,
) -> Written:
    """Stamps what was decided with the transaction's time, and makes its history entry and
    event.
    """
    after = decided.payment
    if before is None or after is None:
        return Written(change, before, decided, new_ids, None, None)
    after = stamped(
        before, after, attempt_id=decided.attempt_id, new_ids=new_ids, now=transaction.now
    )
    entry = decided.entry
    if entry is None:
        return Written(change, before, replace(decided, payment=after), new_ids, None, None)
    after = replace(after, sequence=before.sequence + 1, updated_at=transaction.now)
    history_id = uuid_utils.uuid7()
    body = None
    announced = decided.effect(AnnounceEvent)
    if announced is not None:
        after = replace(after, event_due=transaction.now)
        body = event_body(announced.type, event_id=history_id, payment=after, at=transaction.now)
    history = {
        "id": history_id,
        "payment_id": after.id,
        "sequence": after.sequence,
        "what": entry.what.value,
        "previous_stage": before.stage.value,
        "stage": after.stage.value,
        "attempt_id": decided.attempt_id,
        "detail": json_text(dict(entry.detail)),
        "event_type": announced.type.value if announced else None,
        "event_body": body,
    }
    announcement = (
        Announcement(history_id=history_id, payment_id=after.id, body=body) if body else None
    )
    return Written(change, before, replace(decided, payment=after), new_ids, history, announcement)
