"""Accepts payments: stores a payment, its key and its first history entry in one commit.

Requests that wait at the same time share a commit. The commit itself reserves the key. Two requests
with the same key can therefore not both create a payment, even if different processes receive them,
or if a process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.adapters.batching import Abandoned, Lane, RunAlone
from domain.adapters.postgres.engine import (
    CONTENDED,
    Database,
    Transaction,
    is_about_rows,
    sqlstate,
)
from domain.adapters.postgres.epoch import EPOCH
from domain.adapters.postgres.limiting import AllowanceContended, find_refusals
from domain.adapters.postgres.payment_columns import (
    ACCEPTED_TYPES,
    INSERTED_NAMES,
    INSERTED_VALUES,
    accepted_arrays,
)
from domain.adapters.postgres.rows import unnest
from domain.adapters.postgres.statements import sql
from domain.changes import HistoryEntry
from domain.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    RequestRefused,
    StoreUnavailable,
)
from domain.idempotency import KEY_LIFETIME, FirstAnswer
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.payment import Payment
from domain.stages import Stage
from domain.values import Caller

# A request waits this long for the first request with its key. If the first request has not ended
# by then, the waiting request gets IdempotencyKeyInFlight (rules.md §20).
_IN_FLIGHT_WAIT_SECONDS = 5

# How many waiting requests retry at the same time. Each of them can occupy a connection for as long
# as Postgres waits for a lock.
_RETRIES_AT_ONCE = 4

_KEY_LIFETIME_SQL = f"interval '{int(KEY_LIFETIME.total_seconds())} seconds'"

# A key is free again only if all of this is true:
# * The key has expired.
# * Its payment succeeded or failed, has no next step, and needs no review.
# * Its payment has not changed for the time of one key lifetime.
_IS_FREE = f"""(stored.expires_at <= now() AND coalesce((
    SELECT earlier.stage IN ('succeeded', 'failed') AND earlier.next_step_at IS NULL
        AND NOT earlier.needs_review AND earlier.updated_at <= now() - {_KEY_LIFETIME_SQL}
    FROM mkwanja.payments AS earlier WHERE earlier.id = stored.payment_id), false))"""

_ACCEPT = sql(f"""
WITH batch AS (SELECT * FROM {unnest(ACCEPTED_TYPES)}),
reserved AS (
    INSERT INTO mkwanja.idempotency_keys AS stored
        (caller_key, key, fingerprint, payment_id, answer_status, answer_body,
        created_at, expires_at)
    SELECT caller_key, idempotency_key, fingerprint, id, 202, answer_body,
        now(), now() + {_KEY_LIFETIME_SQL}
    FROM batch ORDER BY caller_key, idempotency_key
    ON CONFLICT ON CONSTRAINT one_payment_per_key DO UPDATE SET
        fingerprint = excluded.fingerprint, payment_id = excluded.payment_id,
        answer_status = excluded.answer_status, answer_body = excluded.answer_body,
        created_at = excluded.created_at, expires_at = excluded.expires_at
    WHERE {_IS_FREE}
    RETURNING payment_id
), created AS (
    INSERT INTO mkwanja.payments
        ({INSERTED_NAMES})
    SELECT {INSERTED_VALUES}
    FROM batch JOIN reserved ON reserved.payment_id = batch.id
    RETURNING id
)
INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, stage, detail)
SELECT history_id, batch.id, 1, now(), '{HistoryEntry.ACCEPTED}', '{Stage.ACCEPTED}', '{{}}'
FROM batch JOIN created ON created.id = batch.id
RETURNING payment_id, {EPOCH} AS epoch
""")

_STORED_KEYS = sql(f"""
SELECT caller_key, key, fingerprint, payment_id, answer_status, answer_body, expires_at,
    {_IS_FREE} AS is_free
FROM mkwanja.idempotency_keys AS stored
WHERE (caller_key, key) IN (
    SELECT * FROM unnest(CAST(:caller_keys AS text[]), CAST(:keys AS text[])))
""")


class PostgresAcceptingStore:
    """The store that accepts payments, in Postgres.

    Satisfies the protocol `domain.lifecycle.accept.AcceptingStore`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane: Lane[NewPayment, Acceptance] = Lane(
            self._accept_batch,
            key=_key_of,
            shared=_request_identity,
            # If the client disconnects after the batch has started, the request still continues,
            # because it has to wake a worker.
            abandoned=Abandoned.DROP_OR_FINISH,
            batches_at_once=2,
        )
        self._retries: Lane[NewPayment, Acceptance] = Lane(
            self._accept_batch,
            key=_key_of,
            shared=_request_identity,
            abandoned=Abandoned.DROP_OR_FINISH,
            batch_size_max=1,
            batches_at_once=_RETRIES_AT_ONCE,
        )
        self._reads: Lane[tuple[str, str], FirstAnswer | None] = Lane(
            self._load_first_answers,
            key=lambda key: key,
            shared=lambda key: key,
            abandoned=Abandoned.DROP,
        )

    async def accept(self, new: NewPayment) -> Acceptance:
        """See `domain.lifecycle.accept.AcceptingStore.accept`."""
        give_up_at = asyncio.get_running_loop().time() + _IN_FLIGHT_WAIT_SECONDS
        try:
            acceptance = await self._lane.submit(new)
        except Exception as error:
            if not _is_contended(error):
                raise
            # Another transaction holds the lock of the key's row, because it accepts the first
            # request with the key. Or another transaction holds the lock of a limit that this
            # payment counts against.
            acceptance = await self._retry_accept(new, error, give_up_at)
        if acceptance.answer.fingerprint != new.fingerprint:
            raise IdempotencyKeyReused
        # Identical requests that wait together share one acceptance. It is a replay for all of them
        # except the request whose payment was stored.
        return replace(acceptance, is_replay=acceptance.answer.payment_id != str(new.id))

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        """See `domain.lifecycle.accept.AcceptingStore.first_answer`."""
        return await self._reads.submit((caller_key, key))

    async def drain(self) -> None:
        await self._lane.drain()
        await self._retries.drain()
        await self._reads.drain()

    async def _load_first_answers(
        self, keys: Sequence[tuple[str, str]]
    ) -> list[FirstAnswer | None]:
        async with self._database.transaction() as transaction:
            rows = await _load_keys(transaction, keys)
        return [_first_answer_from(rows[key]) if key in rows else None for key in keys]

    async def _retry_accept(
        self, new: NewPayment, contention: Exception, give_up_at: float
    ) -> Acceptance:
        """Retries until `give_up_at`, in a separate lane that runs few items at once.

        A request that waits for a lock therefore does not delay the requests in the main lane.
        """
        loop = asyncio.get_running_loop()
        while loop.time() < give_up_at:
            try:
                async with asyncio.timeout_at(give_up_at):
                    return await self._retries.submit(new)
            except TimeoutError:
                break
            except Exception as error:
                if not _is_contended(error):
                    raise
                contention = error
        if isinstance(contention, AllowanceContended):
            raise StoreUnavailable from contention
        raise IdempotencyKeyInFlight from contention

    async def _accept_batch(self, batch: Sequence[NewPayment]) -> list[Acceptance | RequestRefused]:
        try:
            async with self._database.transaction() as transaction:
                return await self._accept_in(transaction, batch)
        except Exception as error:
            if len(batch) > 1 and is_about_rows(error):
                raise RunAlone from error
            raise

    async def _accept_in(
        self, transaction: Transaction, batch: Sequence[NewPayment]
    ) -> list[Acceptance | RequestRefused]:
        refusals = await find_refusals(
            transaction, batch, lambda: _find_ids_with_used_key(transaction, batch)
        )
        allowed = [new for new in batch if new.id not in refusals]
        acceptances = dict(
            zip((new.id for new in allowed), await self._store(transaction, allowed), strict=True)
        )
        return [refusals.get(new.id) or acceptances[new.id] for new in batch]

    async def _store(
        self, transaction: Transaction, batch: Sequence[NewPayment]
    ) -> list[Acceptance]:
        if not batch:
            return []
        bodies = [new.answer(build_payment(new, transaction.now)) for new in batch]
        rows = [(new, body, uuid_utils.uuid7()) for new, body in zip(batch, bodies, strict=True)]
        created_epochs = {
            row.payment_id: row.epoch
            for row in await transaction.rows(_ACCEPT, accepted_arrays(rows))
        }
        used_keys = [_key_of(new) for new in batch if new.id not in created_epochs]
        stored_keys = await _load_keys(transaction, used_keys) if used_keys else {}
        acceptances = []
        for new, body in zip(batch, bodies, strict=True):
            if new.id in created_epochs:
                answer = FirstAnswer(new.fingerprint, 202, body, str(new.id))
                expires_at, epoch = transaction.now + KEY_LIFETIME, created_epochs[new.id]
                acceptances.append(Acceptance(answer, False, expires_at, epoch))
            else:
                row = stored_keys[_key_of(new)]
                acceptances.append(Acceptance(_first_answer_from(row), True, row.expires_at, None))
        return acceptances


def _is_contended(error: Exception) -> bool:
    return isinstance(error, AllowanceContended) or sqlstate(error) in CONTENDED


def _key_of(new: NewPayment) -> tuple[str, str]:
    return new.caller.key, new.idempotency_key


def _request_identity(new: NewPayment) -> tuple[Caller, str, bytes]:
    """The values in which two requests must agree to share one answer.

    The caller includes the role, because the policy differs by role.
    """
    return new.caller, new.idempotency_key, new.fingerprint


async def _load_keys(
    transaction: Transaction, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    """The stored rows of `keys`."""
    parameters = {
        "caller_keys": [caller_key for caller_key, _ in keys],
        "keys": [key for _, key in keys],
    }
    return {
        (row.caller_key, row.key): row for row in await transaction.rows(_STORED_KEYS, parameters)
    }


async def _find_ids_with_used_key(
    transaction: Transaction, batch: Sequence[NewPayment]
) -> set[UUID]:
    """The ids of the requests in `batch` whose key is not free.

    These requests create no payment, so they do not count against any limit.
    """
    rows = await _load_keys(transaction, [_key_of(new) for new in batch])
    return {new.id for new in batch if _key_of(new) in rows and not rows[_key_of(new)].is_free}


def build_payment(new: NewPayment, now: Any) -> Payment:
    """The payment as the current transaction stores it."""
    return Payment(
        id=new.id,
        request=new.request,
        stage=Stage.ACCEPTED,
        caller_key=new.caller.key,
        idempotency_key=new.idempotency_key,
        created_at=now,
        expires_at=now + new.expires_after,
        updated_at=now,
    )


def _first_answer_from(row: Any) -> FirstAnswer:
    return FirstAnswer(
        bytes(row.fingerprint), row.answer_status, bytes(row.answer_body), str(row.payment_id)
    )
