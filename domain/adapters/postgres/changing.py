"""Changes payments in batches: locks their rows, decides, writes and commits.

Every decision after acceptance goes through here, except the first claim. The rules for rows are
therefore in one place:

* Rows are locked in id order.
* A batch holds one change per payment.
* If a statement writes fewer rows than it must, the transaction is rolled back.
* The commit that stores a fact also stores the body of its event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import uuid_utils.compat as uuid_utils

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
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.writing import ConcurrentWrite, PreparedChange, write
from domain.attempts import IdKind, ProviderId, ProviderIds
from domain.changes import AnnounceEvent, Announcement, Change, ChangeResult, Context, Decided
from domain.errors import CommitOutcomeUnknown, PaymentServiceError, StoreUnavailable
from domain.evidence import Evidence
from domain.payment import Payment
from domain.stamp import stamp_change
from domain.views import event_body, json_text

# If the outcome of a COMMIT is unknown, the batch is written again. Every change is then decided
# anew on the current row, so writing it twice has the effect of writing it once.
_TRIES_MAX = 3

_LOCK = sql(
    "SELECT * FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"
)
ATTEMPTS = sql(
    "SELECT * FROM mkwanja.attempts WHERE payment_id = ANY(CAST(:ids AS uuid[])) ORDER BY number"
)
PROVIDER_IDS = sql("""
SELECT kind, value, payment_id, attempt_id FROM mkwanja.provider_ids
WHERE payment_id = ANY(CAST(:ids AS uuid[]))
   OR (kind, value) IN (
       SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:provider_values AS text[])))
""")
_PAYMENTS = sql("SELECT id FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[]))")
_RECEIPTS = sql(
    "SELECT receipt, id FROM mkwanja.payments WHERE receipt = ANY(CAST(:receipts AS text[]))"
)


class PostgresChangingStore:
    """Changes payments in batches. Satisfies `domain.changes.ChangingStore`."""

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
                if not is_about_rows(error) and not isinstance(error, ConcurrentWrite):
                    raise
                if len(batch) > 1:
                    raise RunAlone from error
                if is_last and sqlstate(error) in CONTENDED:
                    raise StoreUnavailable from error
                if is_last:
                    raise
                # After we had read the rows, another transaction stored an id or a receipt of ours,
                # or started a probe that we wanted to start. Read the rows again.
        raise AssertionError


async def change_in(
    transaction: Transaction, batch: Sequence[Change]
) -> list[ChangeResult | PaymentServiceError]:
    """Decides and writes `batch` in `transaction`.

    If a decision raises a refusal, the refusal is the result of its change. The other changes of
    the batch continue.
    """
    payments, id_owners = await _lock_and_load(transaction, batch)
    originators = await _find_originators(transaction, batch)
    evidence_by_payment = await load_evidence(transaction, batch)
    receipt_owners = await _load_receipt_owners(transaction, batch, evidence_by_payment)
    prepared: list[PreparedChange] = []
    results: list[ChangeResult | PaymentServiceError] = []
    for change in batch:
        before = payments.get(change.payment_id)
        evidence = evidence_by_payment.get(change.payment_id, Evidence())
        context = Context(
            now=transaction.now,
            ids_of_others=frozenset(
                provider_id
                for provider_id in change.ids
                if id_owners.get(provider_id, change.payment_id) != change.payment_id
                or originators.get(provider_id, change.payment_id) != change.payment_id
            ),
            is_receipt_of_other=receipt_owners.get(change.receipt or "", change.payment_id)
            != change.payment_id,
            receipts_of_others=frozenset(
                receipt
                for receipt in evidence.unconfirmed_receipts
                if receipt_owners.get(receipt, change.payment_id) != change.payment_id
            ),
            evidence=evidence,
        )
        try:
            decided = change.decide(before, context)
        except PaymentServiceError as refusal:
            results.append(refusal)
            continue
        new_ids = frozenset(
            provider_id for provider_id in decided.ids if provider_id not in id_owners
        )
        item = _prepare(change, before, decided, new_ids, transaction)
        prepared.append(item)
        results.append(ChangeResult(item.decided, item.announcement))
    effects = sort_effects([item.decided for item in prepared])
    repeated_ids = await write(transaction, prepared, effects)
    await change_breaker(transaction, effects)
    if not await change_operations(transaction, effects):
        raise ConcurrentWrite
    return [
        _mark_repeated(result, change, repeated_ids)
        for result, change in zip(results, batch, strict=True)
    ]


def _mark_repeated(
    result: ChangeResult | PaymentServiceError, change: Change, repeated_ids: frozenset[UUID]
) -> ChangeResult | PaymentServiceError:
    if (
        isinstance(result, ChangeResult)
        and change.callback is not None
        and change.callback.id in repeated_ids
    ):
        return replace(result, is_callback_repeated=True)
    return result


async def _lock_and_load(
    transaction: Transaction, batch: Sequence[Change]
) -> tuple[dict[UUID, Payment], dict[ProviderId, UUID]]:
    ids = sorted({change.payment_id for change in batch})
    incoming = sorted({provider_id for change in batch for provider_id in change.ids})
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
    id_owners = {(IdKind(row.kind), row.value): row.payment_id for row in id_rows}
    return payments, id_owners


async def _find_originators(
    transaction: Transaction, batch: Sequence[Change]
) -> dict[ProviderId, UUID]:
    """Finds other payments whose own id is an OriginatorConversationID in this batch.

    Such an id needs no row in `provider_ids`: if we send a payment's own id, Daraja knows the
    payment by that id, even before it has acknowledged the send.
    """
    foreign = {
        provider_id: payment_id
        for change in batch
        for provider_id in change.ids
        if provider_id[0] == IdKind.ORIGINATOR_CONVERSATION
        and (payment_id := _parse_uuid(provider_id[1])) not in (None, change.payment_id)
    }
    if not foreign:
        return {}
    existing_ids = {
        row.id for row in await transaction.rows(_PAYMENTS, {"ids": sorted(set(foreign.values()))})
    }
    return {
        provider_id: payment_id
        for provider_id, payment_id in foreign.items()
        if payment_id in existing_ids
    }


def _parse_uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


async def _load_receipt_owners(
    transaction: Transaction, batch: Sequence[Change], evidence_by_payment: Mapping[UUID, Evidence]
) -> dict[str, UUID]:
    """The receipts that this batch could store, each with the payment that already has it."""
    receipts = {change.receipt for change in batch if change.receipt}
    receipts.update(*(evidence.unconfirmed_receipts for evidence in evidence_by_payment.values()))
    if not receipts:
        return {}
    return {
        row.receipt: row.id
        for row in await transaction.rows(_RECEIPTS, {"receipts": sorted(receipts)})
    }


def _prepare(
    change: Change,
    before: Payment | None,
    decided: Decided,
    new_ids: ProviderIds,
    transaction: Transaction,
) -> PreparedChange:
    """Stamps the decided payment with the transaction's time, and builds its history and event."""
    after = decided.payment
    if before is None or after is None:
        return PreparedChange(change, before, decided, new_ids, None, None)
    after = stamp_change(
        before, after, attempt_id=decided.attempt_id, new_ids=new_ids, now=transaction.now
    )
    entry = decided.entry
    if entry is None:
        return PreparedChange(change, before, replace(decided, payment=after), new_ids, None, None)
    after = replace(after, sequence=before.sequence + 1, updated_at=transaction.now)
    history_id = uuid_utils.uuid7()
    body = None
    event = decided.effect(AnnounceEvent)
    if event is not None:
        after = replace(after, event_due=transaction.now)
        body = event_body(event.type, event_id=history_id, payment=after, at=transaction.now)
    history = {
        "id": history_id,
        "payment_id": after.id,
        "sequence": after.sequence,
        "what": entry.name.value,
        "previous_stage": before.stage.value,
        "stage": after.stage.value,
        "attempt_id": decided.attempt_id,
        "detail": json_text(dict(entry.detail)),
        "event_type": event.type.value if event else None,
        "event_body": body,
    }
    announcement = (
        Announcement(history_id=history_id, payment_id=after.id, body=body) if body else None
    )
    decided = replace(decided, payment=after)
    return PreparedChange(change, before, decided, new_ids, history, announcement)
