"""Accepting a payment: the payment, its key and its first history entry in one commit, shared by
whoever waits.

The key is reserved by that commit itself, so that two requests with one key cannot both make a
payment, whatever process they reach and whenever one dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from domain.adapters.batching import Abandoned, Lane, RunAlone
from domain.adapters.postgres.engine import (
    CONTENDED,
    Database,
    Transaction,
    is_about_rows,
    sqlstate,
)
from domain.adapters.postgres.epoch import EPOCH
from domain.adapters.postgres.limiting import AllowanceContended, refused_by_limits
from domain.adapters.postgres.payment_columns import (
    ACCEPTED_TYPES,
    INSERTED_NAMES,
    INSERTED_VALUES,
    accepted_arrays,
)
from domain.adapters.postgres.rows import unnest
from domain.changes import HistoryEntry
from domain.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    RequestRefused,
    StoreUnavailable,
)
from domain.idempotency import KEY_HELD_FOR, FirstAnswer
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.payment import Payment
from domain.stages import Stage
from domain.values import Caller

# How long a request waits for the first one with its key, before it is told to come back
# (interface.md).
_IN_FLIGHT_WAIT_SECONDS = 5

# How many of those try at once: each may hold a connection for as long as Postgres waits for a
# lock.
_BESIDE_AT_ONCE = 4

_HELD = f"interval '{int(KEY_HELD_FOR.total_seconds())} seconds'"

# A key is free again only when its time is over *and* nothing about its payment can still change,
# for as long again.
_IS_FREE = f"""(held.expires_at <= now() AND coalesce((
    SELECT earlier.stage IN ('succeeded', 'failed') AND earlier.next_step_at IS NULL
        AND NOT earlier.needs_review AND earlier.updated_at <= now() - {_HELD}
    FROM mkwanja.payments AS earlier WHERE earlier.id = held.payment_id), false))"""

_ACCEPT = text(f"""
WITH sent AS (SELECT * FROM {unnest(ACCEPTED_TYPES)}),
reserved AS (
    INSERT INTO mkwanja.idempotency_keys AS held
        (caller_key, key, fingerprint, payment_id, answer_status, answer_body, created_at, expires_at)
    SELECT caller_key, idempotency_key, fingerprint, id, 202, answer_body, now(), now() + {_HELD}
    FROM sent ORDER BY caller_key, idempotency_key
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
    FROM sent JOIN reserved ON reserved.payment_id = sent.id
    RETURNING id
)
INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, stage, detail)
SELECT history_id, sent.id, 1, now(), '{HistoryEntry.ACCEPTED}', '{Stage.ACCEPTED}', '{{}}'
FROM sent JOIN created ON created.id = sent.id
RETURNING payment_id, {EPOCH} AS epoch
""")

_HELD_ANSWERS = text(f"""
SELECT caller_key, key, fingerprint, payment_id, answer_status, answer_body, expires_at, {_IS_FREE} AS is_free
FROM mkwanja.idempotency_keys AS held
WHERE (caller_key, key) IN (SELECT * FROM unnest(CAST(:caller_keys AS text[]), CAST(:keys AS text[])))
""")


class Accepting:
    """The ingress's writes. Satisfies `domain.lifecycle.accept.AcceptingStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane: Lane[NewPayment, Acceptance] = Lane(
            self._accept_batch,
            key=_key,
            shared=_asked_for,
            # Once the batch has started, the request goes on without its client: it has a worker to
            # wake.
            abandoned=Abandoned.DROP_OR_FINISH,
            batches_at_once=2,
        )
        self._beside: Lane[NewPayment, Acceptance] = Lane(
            self._accept_batch,
            key=_key,
            shared=_asked_for,
            abandoned=Abandoned.DROP_OR_FINISH,
            batch_size_max=1,
            batches_at_once=_BESIDE_AT_ONCE,
        )
        self._reads: Lane[tuple[str, str], FirstAnswer | None] = Lane(
            self._first_answers,
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
            # Somebody holds the key's row (the first request, being accepted elsewhere), or what we
            # would take of a limit.
            acceptance = await self._accept_beside(new, error, give_up_at)
        if acceptance.answer.fingerprint != new.fingerprint:
            raise IdempotencyKeyReused
        # Identical requests that wait together share one acceptance. It is new for the one whose
        # payment it made.
        return replace(acceptance, is_replay=acceptance.answer.payment_id != str(new.id))

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        """See `domain.lifecycle.accept.AcceptingStore.first_answer`."""
        return await self._reads.submit((caller_key, key))

    async def drain(self) -> None:
        await self._lane.drain()
        await self._beside.drain()
        await self._reads.drain()

    async def _first_answers(self, keys: Sequence[tuple[str, str]]) -> list[FirstAnswer | None]:
        async with self._database.transaction() as transaction:
            held = await _held(transaction, keys)
        return [_first_answer(held[key]) if key in held else None for key in keys]

    async def _accept_beside(
        self, new: NewPayment, held: Exception, give_up_at: float
    ) -> Acceptance:
        """Tries again until `give_up_at`, beside the lane and few at once: who waits for a lock
        holds up nobody else.
        """
        loop = asyncio.get_running_loop()
        while loop.time() < give_up_at:
            try:
                async with asyncio.timeout_at(give_up_at):
                    return await self._beside.submit(new)
            except TimeoutError:
                break
            except Exception as error:
                if not _is_contended(error):
                    raise
                held = error
        raise (
            StoreUnavailable if isinstance(held, AllowanceContended) else IdempotencyKeyInFlight
        ) from held

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
        refused = await refused_by_limits(
            transaction, batch, lambda: _taken_keys(transaction, batch)
        )
        wanted = [new for new in batch if new.id not in refused]
        accepted = dict(
            zip((new.id for new in wanted), await self._record(transaction, wanted), strict=True)
        )
        return [refused.get(new.id) or accepted[new.id] for new in batch]

    async def _record(
        self, transaction: Transaction, batch: Sequence[NewPayment]
    ) -> list[Acceptance]:
        if not batch:
            return []
        answers = [new.answer(as_accepted(new, transaction.now)) for new in batch]
        sent = [
            (new, answer, uuid_utils.uuid7()) for new, answer in zip(batch, answers, strict=True)
        ]
        created = {
            row.payment_id: row.epoch
            for row in await transaction.rows(_ACCEPT, accepted_arrays(sent))
        }
        late = [_key(new) for new in batch if new.id not in created]
        held = await _held(transaction, late) if late else {}
        acceptances = []
        for new, body in zip(batch, answers, strict=True):
            if new.id in created:
                answer = FirstAnswer(new.fingerprint, 202, body, str(new.id))
                acceptances.append(
                    Acceptance(answer, False, transaction.now + KEY_HELD_FOR, created[new.id])
                )
            else:
                row = held[_key(new)]
                acceptances.append(Acceptance(_first_answer(row), True, row.expires_at, None))
        return acceptances


def _is_contended(error: Exception) -> bool:
    return isinstance(error, AllowanceContended) or sqlstate(error) in CONTENDED


def _key(new: NewPayment) -> tuple[str, str]:
    return new.caller.key, new.idempotency_key


def _asked_for(new: NewPayment) -> tuple[Caller, str, bytes]:
    """Requests that agree in this get one answer.

    The caller's role is a part of it: policy differs by role.
    """
    return new.caller, new.idempotency_key, new.fingerprint


async def _held(
    transaction: Transaction, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    parameters = {
        "caller_keys": [caller_key for caller_key, _ in keys],
        "keys": [key for _, key in keys],
    }
    return {
        (row.caller_key, row.key): row for row in await transaction.rows(_HELD_ANSWERS, parameters)
    }


async def _taken_keys(transaction: Transaction, batch: Sequence[NewPayment]) -> set[UUID]:
    """Those of `batch` whose key is held: they make no payment, and so take nothing of any
    limit.
    """
    held = await _held(transaction, [_key(new) for new in batch])
    return {new.id for new in batch if _key(new) in held and not held[_key(new)].is_free}


def as_accepted(new: NewPayment, now: Any) -> Payment:
    """The payment as the commit under way will hold it."""
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


def _first_answer(row: Any) -> FirstAnswer:
    return FirstAnswer(
        bytes(row.fingerprint), row.answer_status, bytes(row.answer_body), str(row.payment_id)
    )
