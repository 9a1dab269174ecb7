"""Claims payments: commits `submitting` before a worker sends anything.

One statement checks the brakes, the payment's age and whether it needs review, by the database's
clock. The same statement claims the payment, so nothing can change between the check and the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.account import Account
from domain.adapters.batching import Lane, RunAlone
from domain.adapters.postgres.brakes import (
    CLAIM_BRAKES,
    CLAIM_PROBE,
    IS_HELD_BY_BRAKE,
    OPERATION_IS_FREE,
    OPERATION_OF_KIND_SQL,
    PAYOUTS_ARE_FREE,
)
from domain.adapters.postgres.engine import (
    CONTENDED,
    Database,
    is_about_rows,
    is_unavailable,
    sqlstate,
)
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.rows import columns, due_from, unnest
from domain.adapters.postgres.statements import sql
from domain.changes import HistoryEntry
from domain.errors import ClaimUnknown, CommitOutcomeUnknown, StoreUnavailable
from domain.lifecycle.submit import Due
from domain.payment import Payment
from domain.stages import Stage, Step
from domain.times import HANDOVER_RETRY_AFTER

_FIND_DUE = sql(f"""
SELECT id, kind, stage, next_step, expires_at <= now() AS is_expired,
    next_step_at <= now() + CAST(:soon AS interval) AS is_due,
    needs_review
        OR {IS_HELD_BY_BRAKE} AS is_held
FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[]))
""")

_CLAIM_COLUMNS = {
    "id": "uuid",
    "attempt_id": "uuid",
    "history_id": "uuid",
    "lease": "interval",
    "account": "text",
}

# The claim skips rows that another transaction has locked. It does not wait for them, because the
# sweeper wakes these payments again. It locks rows in id order, like every batch.
_CLAIM = sql(f"""
WITH batch AS (SELECT * FROM {unnest(_CLAIM_COLUMNS)}),
free AS (
    SELECT payment.id, payment.moves_money_out, payment.needs_review, payment.expires_at,
        {OPERATION_OF_KIND_SQL} AS operation
    FROM mkwanja.payments AS payment JOIN batch ON batch.id = payment.id
    WHERE payment.stage = '{Stage.ACCEPTED}'
    ORDER BY payment.id FOR UPDATE OF payment SKIP LOCKED
), {CLAIM_BRAKES}, allowed AS MATERIALIZED (
    SELECT payment.id, payment.operation FROM free AS payment
    WHERE NOT payment.needs_review
      AND payment.expires_at > now()
      AND {PAYOUTS_ARE_FREE}
), {CLAIM_PROBE}, claimed AS (
    UPDATE mkwanja.payments AS payment
    SET stage = '{Stage.SUBMITTING}', attempt_id = batch.attempt_id,
        lease_until = now() + batch.lease, next_step_at = now() + batch.lease,
        next_step = '{Step.END_LEASE}', sequence = payment.sequence + 1, updated_at = now()
    FROM batch JOIN allowed ON allowed.id = batch.id
    WHERE payment.id = batch.id AND payment.stage = '{Stage.ACCEPTED}'
      AND {OPERATION_IS_FREE}
    RETURNING payment.*
), attempted AS (
    INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, account)
    SELECT claimed.attempt_id, claimed.id,
        1 + (SELECT count(*) FROM mkwanja.attempts AS earlier
            WHERE earlier.payment_id = claimed.id),
        now(), batch.account
    FROM claimed JOIN batch ON batch.id = claimed.id
), recorded AS (
    INSERT INTO mkwanja.payment_history
        (id, payment_id, sequence, recorded_at, what, previous_stage, stage, attempt_id, detail)
    SELECT batch.history_id, claimed.id, claimed.sequence, now(),
        '{HistoryEntry.CLAIMED}', '{Stage.ACCEPTED}', claimed.stage, claimed.attempt_id, '{{}}'
    FROM claimed JOIN batch ON batch.id = claimed.id
)
SELECT claimed.*, claimed.id IN (SELECT payment_id FROM probe) AS is_probe FROM claimed
""")

# Reads the payments of a claim whose COMMIT got no answer. If that COMMIT is still under way, this
# query waits for its row locks. `_read_back` also checks the stage, because a callback may have
# ended the payment meanwhile.
_LOCK_PAYMENTS = sql(
    "SELECT * FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"
)

_WAIT_COLUMNS = {"id": "uuid", "wait": "interval"}
_POSTPONE = sql(f"""
WITH batch AS (SELECT * FROM {unnest(_WAIT_COLUMNS)}),
free AS (
    SELECT payment.id FROM mkwanja.payments AS payment JOIN batch ON batch.id = payment.id
    WHERE payment.stage = '{Stage.ACCEPTED}'
    ORDER BY payment.id FOR UPDATE OF payment SKIP LOCKED
)
UPDATE mkwanja.payments AS payment SET next_step_at = now() + batch.wait
FROM batch JOIN free ON free.id = batch.id
WHERE payment.id = batch.id AND payment.stage = '{Stage.ACCEPTED}'
""")


@dataclass(frozen=True, slots=True)
class _Claim:
    payment_id: UUID
    attempt_id: UUID
    lease: timedelta
    account: Account | None


class PostgresClaimingStore:
    """Claims payments for workers. Satisfies `domain.lifecycle.submit.ClaimingStore`."""

    def __init__(self, database: Database, *, gate: asyncio.Semaphore | None = None) -> None:
        self._database = database
        self._lookups: Lane[UUID, Due | None] = Lane(
            self._find_due_batch, key=lambda item: item, gate=gate
        )
        self._postponements: Lane[tuple[UUID, timedelta], None] = Lane(
            self._postpone_batch, key=lambda item: item[0], gate=gate
        )
        self._claims: Lane[_Claim, Payment | None] = Lane(
            self._claim_batch, key=lambda claim: claim.payment_id, gate=gate
        )

    async def find_due(self, payment_id: UUID) -> Due | None:
        """See `domain.lifecycle.submit.ClaimingStore.find_due`."""
        return await self._lookups.submit(payment_id)

    async def claim(
        self, payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account | None
    ) -> Payment | None:
        """See `domain.lifecycle.submit.ClaimingStore.claim`."""
        return await self._claims.submit(_Claim(payment_id, attempt_id, lease, account))

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """See `domain.lifecycle.submit.ClaimingStore.postpone`."""
        await self._postponements.submit((payment_id, wait))

    async def _find_due_batch(self, ids: Sequence[UUID]) -> list[Due | None]:
        async with self._database.transaction() as transaction:
            if transaction.is_read_only:
                # The database refuses writes, so no claim can succeed. Raise before the worker
                # charges the limit of requests to Daraja.
                raise StoreUnavailable
            rows = await transaction.rows(
                _FIND_DUE, {"ids": list(ids), "soon": HANDOVER_RETRY_AFTER}
            )
        due_by_id = {
            row.id: replace(due_from(row), is_due=bool(row.is_due), is_held=row.is_held)
            for row in rows
        }
        return [due_by_id.get(payment_id) for payment_id in ids]

    async def _postpone_batch(self, batch: Sequence[tuple[UUID, timedelta]]) -> list[None]:
        rows = [{"id": payment_id, "wait": wait} for payment_id, wait in batch]
        async with self._database.transaction() as transaction:
            await transaction.run(_POSTPONE, columns(rows, _WAIT_COLUMNS))
        return [None] * len(batch)

    async def _claim_batch(self, batch: Sequence[_Claim]) -> list[Payment | None]:
        try:
            async with self._database.transaction() as transaction:
                rows = await transaction.rows(_CLAIM, _claim_parameters(batch))
        except CommitOutcomeUnknown:
            rows = await self._read_back(batch)
        except Exception as error:
            if len(batch) > 1 and is_about_rows(error):
                raise RunAlone from error
            raise
        # A claim that was read back counts as no probe, because a payment's row does not show this.
        # If the claim was a probe and Daraja refuses the token, the worker fetches one new token.
        payment_by_attempt = {
            row.attempt_id: replace(payment_from(row), is_probe=getattr(row, "is_probe", False))
            for row in rows
        }
        return [payment_by_attempt.get(claim.attempt_id) for claim in batch]

    async def _read_back(self, batch: Sequence[_Claim]) -> list[Any]:
        """The rows of the batch that are in `submitting`.

        If a row has the attempt id of its claim, the lost COMMIT took effect. Raises `ClaimUnknown`
        if the rows cannot be read. The worker then sends nothing.
        """
        for wait_seconds in (0.1, 0.5, 1.0):
            await asyncio.sleep(wait_seconds)
            try:
                async with self._database.transaction() as transaction:
                    rows = await transaction.rows(
                        _LOCK_PAYMENTS, {"ids": sorted(claim.payment_id for claim in batch)}
                    )
            except Exception as error:
                if not is_unavailable(error) and sqlstate(error) not in CONTENDED:
                    raise
            else:
                return [row for row in rows if row.stage == Stage.SUBMITTING]
        raise ClaimUnknown


def _claim_parameters(batch: Sequence[_Claim]) -> dict[str, list[Any]]:
    rows = [
        {
            "id": claim.payment_id,
            "attempt_id": claim.attempt_id,
            "history_id": uuid_utils.uuid7(),
            "lease": claim.lease,
            "account": claim.account.as_text() if claim.account else None,
        }
        for claim in batch
    ]
    return columns(rows, _CLAIM_COLUMNS)
