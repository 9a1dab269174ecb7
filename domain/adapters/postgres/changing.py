"""Changes payments in batches: locks their rows, decides, writes and commits.

Every decision after acceptance goes through here, except the first claim. The rules for rows are
therefore in one place:

* Rows are locked in id order.
* A batch holds one change per payment.
* If a statement writes fewer rows than it must, the transaction is rolled back.
* The commit that stores a fact also stores the body of its event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.adapters.batching import Lane, RunAlone
from domain.adapters.postgres.effects import sort_effects
from domain.adapters.postgres.engine import CONTENDED, Calls, Database, is_about_rows, sqlstate
from domain.adapters.postgres.evidence import change_breaker
from domain.adapters.postgres.loading import load_changes
from domain.adapters.postgres.operations import change_operations
from domain.adapters.postgres.writing import ConcurrentWrite, PreparedChange, write
from domain.attempts import ProviderIds
from domain.changes import AnnounceEvent, Announcement, Change, ChangeResult, Decided
from domain.errors import CommitOutcomeUnknown, PaymentServiceError, StoreUnavailable
from domain.payment import Payment
from domain.records import replace
from domain.stamp import stamp_change
from domain.views import event_body

# If the outcome of a COMMIT is unknown, the batch is written again. Every change is then decided
# anew on the current row, so writing it twice has the effect of writing it once.
_TRIES_MAX = 3


class PostgresChangingStore:
    """Changes payments in batches. Satisfies `domain.changes.ChangingStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # One batch at a time: the changes that wait meanwhile share the next transaction. One
        # transaction for many payments costs about as much as one for a few.
        self._lane: Lane[Change, ChangeResult] = Lane(
            self._change_batch, key=lambda change: change.payment_id, runs_beside_one=True
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
                async with self._database.calls() as transaction:
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
    transaction: Calls, batch: Sequence[Change]
) -> list[ChangeResult | PaymentServiceError]:
    """Decides and writes `batch` in `transaction`, whose first call this makes.

    If a decision raises a refusal, the refusal is the result of its change. The other changes of
    the batch continue.
    """
    loaded = await load_changes(transaction, batch)
    prepared: list[PreparedChange] = []
    results: list[ChangeResult | PaymentServiceError] = []
    for change in batch:
        before = loaded.payments.get(change.payment_id)
        try:
            decided = change.decide(before, loaded.context(change))
        except PaymentServiceError as refusal:
            results.append(refusal)
            continue
        new_ids = frozenset(
            provider_id for provider_id in decided.ids if provider_id not in loaded.id_owners
        )
        item = _prepare(change, before, decided, new_ids, loaded.now)
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


def _prepare(
    change: Change,
    before: Payment | None,
    decided: Decided,
    new_ids: ProviderIds,
    now: datetime,
) -> PreparedChange:
    """Stamps the decided payment with the transaction's time, and builds its history and event."""
    after = decided.payment
    if before is None or after is None:
        return PreparedChange(change, before, decided, new_ids, None, None)
    after = stamp_change(before, after, attempt_id=decided.attempt_id, new_ids=new_ids, now=now)
    entry = decided.entry
    if entry is None:
        return PreparedChange(change, before, replace(decided, payment=after), new_ids, None, None)
    history_id = uuid_utils.uuid7()
    event = decided.effect(AnnounceEvent)
    after = replace(after, sequence=before.sequence + 1, updated_at=now)
    body = (
        None
        if event is None
        else event_body(event.type, event_id=history_id, payment=after, at=now)
    )
    history = {
        "id": history_id,
        "payment_id": after.id,
        "sequence": after.sequence,
        "what": entry.name.value,
        "previous_stage": before.stage.value,
        "stage": after.stage.value,
        "attempt_id": decided.attempt_id,
        "detail": dict(entry.detail),
        "event_type": event.type.value if event else None,
        "event_body": body,
    }
    announcement = (
        Announcement(history_id=history_id, payment_id=after.id, body=body) if body else None
    )
    decided = replace(decided, payment=after)
    return PreparedChange(change, before, decided, new_ids, history, announcement)
