"""Claims payments: commits `submitting` before a worker sends anything.

One statement checks the brakes, the payment's age and whether it needs review, by the database's
clock. The same statement claims the payment, so nothing can change between the check and the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils

from domain.account import Account
from domain.adapters.batching import Lane, RunAlone
from domain.adapters.postgres.brakes import (
    CLAIM_PROBE,
    IS_HELD_BY_BRAKE,
    OPERATION_IS_FREE,
    OPERATION_OF_KIND_SQL,
    PAYOUTS_ARE_FREE,
    WAIT_FOR_BRAKES,
)
from domain.adapters.postgres.engine import (
    CONTENDED,
    Database,
    is_about_rows,
    is_unavailable,
    sqlstate,
)
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.rows import next_step_from, records, recordset
from domain.adapters.postgres.statements import sql
from domain.changes import HistoryEntry
from domain.errors import ClaimUnknown, CommitOutcomeUnknown
from domain.lifecycle.submit import NextStep
from domain.payment import Payment
from domain.records import replace
from domain.stages import Stage, Step
from domain.times import HANDOVER_RETRY_AFTER

# A function that is a transaction of its own. If the database refuses writes, no claim can succeed.
# The function then fails, so that the worker does not charge the limit of requests to Daraja.
_FIND_NEXT_STEPS = Function(
    "find_due",
    parameters={"lock_timeout": "text", "ids": "uuid[]", "soon": "interval"},
    returns={
        "id": "uuid",
        "kind": "text",
        "stage": "text",
        "next_step": "text",
        "is_expired": "boolean",
        "is_due": "boolean",
        "is_held": "boolean",
    },
    body=f"""
BEGIN
    {LIMITS}
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE read_only_sql_transaction;
    END IF;
    RETURN QUERY
    SELECT id, kind, stage, next_step, expires_at <= now(), next_step_at <= now() + :soon,
        needs_review
        OR {IS_HELD_BY_BRAKE}
    FROM mkwanja.payments WHERE id = ANY(:ids);
END
""",
)

_CLAIM_COLUMNS = {
    "id": "uuid",
    "attempt_id": "uuid",
    "history_id": "uuid",
    "lease": "interval",
    "account": "text",
}

# A function that is a transaction of its own. The claim skips rows that another transaction has
# locked. It does not wait for them, because the sweeper wakes these payments again. It locks rows
# in id order, like every batch. Then it waits for the brakes, if one of the payments is a payout.
# The last statement reads the payments and the brakes as they are after the locks.
_CLAIM = Function(
    "claim_payments",
    parameters={"lock_timeout": "text", "ids": "uuid[]", "claims": "json"},
    returns={"attempt_id": "uuid", "payment": "json", "is_probe": "boolean"},
    joins_tables=True,
    body=f"""
DECLARE
    free uuid[];
    has_payout boolean;
BEGIN
    {LIMITS}
    SELECT array_agg(id), bool_or(moves_money_out) INTO free, has_payout FROM (
        SELECT id, moves_money_out FROM mkwanja.payments AS payment
        WHERE id = ANY(:ids) AND payment.stage = '{Stage.ACCEPTED}'
        ORDER BY id FOR UPDATE SKIP LOCKED
    ) AS locked;
    IF has_payout THEN
        {WAIT_FOR_BRAKES}
    END IF;
    RETURN QUERY
    WITH allowed AS MATERIALIZED (
        SELECT payment.id, {OPERATION_OF_KIND_SQL} AS operation,
            batch.attempt_id, batch.history_id, batch.lease, batch.account
        FROM {recordset("claims", _CLAIM_COLUMNS)}
        JOIN mkwanja.payments AS payment ON payment.id = batch.id
        WHERE payment.id = ANY(free)
          AND NOT payment.needs_review
          AND payment.expires_at > now()
          AND {PAYOUTS_ARE_FREE}
    ), {CLAIM_PROBE}, claimed AS (
        UPDATE mkwanja.payments AS payment
        SET stage = '{Stage.SUBMITTING}', attempt_id = allowed.attempt_id,
            lease_until = now() + allowed.lease, next_step_at = now() + allowed.lease,
            next_step = '{Step.END_LEASE}', sequence = payment.sequence + 1, updated_at = now()
        FROM allowed WHERE payment.id = allowed.id AND payment.stage = '{Stage.ACCEPTED}'
          AND {OPERATION_IS_FREE}
        RETURNING payment.*, allowed.history_id, allowed.account
    ), attempted AS (
        INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, account)
        SELECT claimed.attempt_id, claimed.id,
            1 + (SELECT count(*) FROM mkwanja.attempts AS earlier
                WHERE earlier.payment_id = claimed.id),
            now(), claimed.account
        FROM claimed
    ), recorded AS (
        INSERT INTO mkwanja.payment_history
            (id, payment_id, sequence, recorded_at, what, previous_stage, stage, attempt_id, detail)
        SELECT claimed.history_id, claimed.id, claimed.sequence, now(),
            '{HistoryEntry.CLAIMED}', '{Stage.ACCEPTED}', claimed.stage, claimed.attempt_id, '{{}}'
        FROM claimed
    )
    SELECT claimed.attempt_id, row_to_json(claimed),
        claimed.id IN (SELECT payment_id FROM probe WHERE payment_id IS NOT NULL)
    FROM claimed;
END
""",
)

# Reads the payments of a claim whose COMMIT got no answer. If that COMMIT is still under way, this
# query waits for its row locks. `_read_back` also checks the stage, because a callback may have
# ended the payment meanwhile.
_LOCK_PAYMENTS = sql(
    "SELECT attempt_id, stage, row_to_json(payment) AS payment, false AS is_probe"
    " FROM mkwanja.payments AS payment WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"
)

# Not a flagged payment: it may have been flagged since the worker read it, and a restore has then
# postponed it for a person.
_POSTPONE = Function(
    "postpone_payments",
    parameters={"lock_timeout": "text", "ids": "uuid[]", "waits": "interval[]"},
    joins_tables=True,
    body=f"""
BEGIN
    {LIMITS}
    UPDATE mkwanja.payments AS payment SET next_step_at = now() + batch.wait
    FROM unnest(:ids, :waits) AS batch(id, wait)
    JOIN (
        SELECT id FROM mkwanja.payments AS payment
        WHERE id = ANY(:ids) AND payment.stage = '{Stage.ACCEPTED}' AND NOT payment.needs_review
        ORDER BY id FOR UPDATE SKIP LOCKED
    ) AS free ON free.id = batch.id
    WHERE payment.id = batch.id AND payment.stage = '{Stage.ACCEPTED}';
END
""",
)

CLAIMING_FUNCTIONS = (_FIND_NEXT_STEPS, _CLAIM, _POSTPONE)


@dataclass(frozen=True, slots=True)
class _Claim:
    payment_id: UUID
    attempt_id: UUID
    lease: timedelta
    account: Account | None


class PostgresClaimingStore:
    """Claims payments for workers. Satisfies `domain.lifecycle.submit.ClaimingStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lookups: Lane[UUID, NextStep | None] = Lane(
            self._find_next_steps, key=lambda item: item
        )
        self._postponements: Lane[tuple[UUID, timedelta], None] = Lane(
            self._postpone_batch, key=lambda item: item[0]
        )
        self._claims: Lane[_Claim, Payment | None] = Lane(
            self._claim_batch, key=lambda claim: claim.payment_id
        )

    async def find_next_step(self, payment_id: UUID) -> NextStep | None:
        """See `domain.lifecycle.submit.ClaimingStore.find_next_step`."""
        return await self._lookups.submit(payment_id)

    async def claim(
        self, payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account | None
    ) -> Payment | None:
        """See `domain.lifecycle.submit.ClaimingStore.claim`."""
        return await self._claims.submit(_Claim(payment_id, attempt_id, lease, account))

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """See `domain.lifecycle.submit.ClaimingStore.postpone`."""
        await self._postponements.submit((payment_id, wait))

    async def _find_next_steps(self, ids: Sequence[UUID]) -> list[NextStep | None]:
        parameters = {"ids": list(ids), "soon": HANDOVER_RETRY_AFTER}
        rows = await self._database.call_repeatable(_FIND_NEXT_STEPS, parameters)
        next_step_by_id = {
            row.id: replace(next_step_from(row), is_due=bool(row.is_due), is_held=row.is_held)
            for row in rows
        }
        return [next_step_by_id.get(payment_id) for payment_id in ids]

    async def _postpone_batch(self, batch: Sequence[tuple[UUID, timedelta]]) -> list[None]:
        parameters = {
            "ids": [payment_id for payment_id, _ in batch],
            "waits": [wait for _, wait in batch],
        }
        await self._database.call_repeatable(_POSTPONE, parameters)
        return [None] * len(batch)

    async def _claim_batch(self, batch: Sequence[_Claim]) -> list[Payment | None]:
        parameters = {
            "ids": [claim.payment_id for claim in batch],
            "claims": records([_claim_record(claim) for claim in batch]),
        }
        try:
            rows = await self._database.call(_CLAIM, parameters)
        except CommitOutcomeUnknown:
            rows = await self._read_back(batch)
        except Exception as error:
            if len(batch) > 1 and is_about_rows(error):
                raise RunAlone from error
            raise
        # A claim that was read back counts as no probe, because a payment's row does not show this.
        # If the claim was a probe and Daraja refuses the token, the worker fetches one new token.
        payment_by_attempt = {
            row.attempt_id: replace(payment_from(orjson.loads(row.payment)), is_probe=row.is_probe)
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


def _claim_record(claim: _Claim) -> dict[str, Any]:
    return {
        "id": claim.payment_id,
        "attempt_id": claim.attempt_id,
        "history_id": uuid_utils.uuid7(),
        "lease": f"{claim.lease.total_seconds()} seconds",
        "account": claim.account.as_text() if claim.account else None,
    }
