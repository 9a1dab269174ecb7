"""Accepts payments: stores a payment, its key and its first history entry in one commit.

Requests that wait at the same time share a commit. The commit itself reserves the key. Two requests
with the same key can therefore not both create a payment, even if different processes receive them,
or if a process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.adapters.batching import Abandoned, Lane, RunAlone
from domain.adapters.postgres.engine import CONTENDED, Database, is_about_rows, sqlstate
from domain.adapters.postgres.epoch import EPOCH
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.limiting import (
    FIND_USED,
    LIMIT_PARAMETERS,
    LIMIT_VARIABLES,
    LOCK_LIMITS,
    RETURN_USED,
    AllowanceContended,
    Ceilings,
    find_refusals,
    usages_from,
)
from domain.adapters.postgres.locks import waited_for_an_advisory_lock
from domain.adapters.postgres.meters import MAINTAIN_METERS
from domain.adapters.postgres.payment_columns import (
    ACCEPTED_TYPES,
    INSERTED_NAMES,
    INSERTED_VALUES,
    accepted_arrays,
    as_uuid,
)
from domain.adapters.postgres.pool import Row
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
from domain.records import replace
from domain.stages import Stage
from domain.values import Caller
from domain.views import timestamp

# A request waits this long for the first request with its key. If the first request has not ended
# by then, the waiting request gets IdempotencyKeyInFlight (rules.md §20).
_IN_FLIGHT_WAIT_SECONDS = 5

# How many waiting requests retry at the same time. Each of them can occupy a connection for as long
# as Postgres waits for a lock.
_RETRIES_AT_ONCE = 4

# How many times the policy decides about one batch. It decides again if another process used up
# more of the same limits meanwhile.
_DECISIONS_MAX = 3

_KEY_LIFETIME_SQL = f"interval '{int(KEY_LIFETIME.total_seconds())} seconds'"

# A key is free again only if all of this is true:
# * The key has expired.
# * Its payment succeeded or failed, has no next step, and needs no review.
# * Its payment has not changed for as long as a key lives.
IS_SETTLED_SINCE = """coalesce((
    SELECT earlier.stage IN ('succeeded', 'failed') AND earlier.next_step_at IS NULL
        AND NOT earlier.needs_review AND earlier.updated_at <= {since}
    FROM mkwanja.payments AS earlier WHERE earlier.id = stored.payment_id), false)"""
_SETTLED_FOR_A_LIFETIME = IS_SETTLED_SINCE.format(since=f"now() - {_KEY_LIFETIME_SQL}")
_IS_FREE = f"(stored.expires_at <= now() AND {_SETTLED_FOR_A_LIFETIME})"

# Only the database knows the time of the acceptance. So the answer is rendered with this character
# in place of each time, and the database replaces it. No JSON text contains this character.
_HOLE = "\x01"
_ANSWER_TIMES = 2  # created_at and updated_at
_NO_TIME = datetime(1, 1, 1, tzinfo=UTC)

# Stores the whole batch. If a limit is exceeded, it stores nothing, and returns what is used of
# each limit. A key that is not free creates no payment and returns no row.
ACCEPT = Function(
    "accept_payments",
    parameters={"lock_timeout": "text", **LIMIT_PARAMETERS}
    | {name: f"{type_}[]" for name, type_ in ACCEPTED_TYPES.items()},
    returns={
        "payment_id": "uuid",
        "limit_name": "text",
        "subject": "text",
        "amount": "bigint",
        "oldest": "timestamptz",
        "accepted_at": "timestamptz",
        "epoch": "text",
        "stamp": "text",
    },
    body=f"""
DECLARE
    stamp_of_now text := to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
    {LIMIT_VARIABLES}
BEGIN
    {LIMITS}
    IF cardinality(:lock_numbers) > 0 THEN
        {LOCK_LIMITS}
        {FIND_USED}
        IF busy IS NOT NULL THEN
            {MAINTAIN_METERS}
        END IF;
        {RETURN_USED}
    END IF;
    RETURN QUERY
    WITH batch AS (SELECT * FROM {unnest(ACCEPTED_TYPES)}),
    reserved AS (
        INSERT INTO mkwanja.idempotency_keys AS stored
            (caller_key, key, fingerprint, payment_id, answer_status, answer_body,
            created_at, expires_at)
        SELECT caller_key, idempotency_key, fingerprint, id, 202,
            convert_to(replace(answer_body, chr({ord(_HOLE)}), stamp_of_now), 'UTF8'),
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
    ), recorded AS (
        INSERT INTO mkwanja.payment_history
            (id, payment_id, sequence, recorded_at, what, stage, detail)
        SELECT history_id, batch.id, 1, now(), '{HistoryEntry.ACCEPTED}', '{Stage.ACCEPTED}', '{{}}'
        FROM batch JOIN created ON created.id = batch.id
    )
    SELECT created.id, NULL::text, NULL::text, NULL::bigint, NULL::timestamptz, now(),
        {EPOCH}, stamp_of_now
    FROM created;
END
""",
)

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
        is_replay = acceptance.answer.payment_id != str(new.id)
        if is_replay == acceptance.is_replay:
            return acceptance
        return replace(acceptance, is_replay=is_replay)

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
        rows = await self._read_keys(keys)
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
            return await self._accept_within_limits(batch)
        except Exception as error:
            if len(batch) > 1 and (is_about_rows(error) or isinstance(error, AllowanceContended)):
                raise RunAlone from error
            raise

    async def _accept_within_limits(
        self, batch: Sequence[NewPayment]
    ) -> list[Acceptance | RequestRefused]:
        bodies = {new.id: render_with_holes(new) for new in batch}
        allowed, refusals = batch, dict[UUID, RequestRefused]()
        ceilings = Ceilings.of_policy(batch)
        for _ in range(_DECISIONS_MAX):
            rows = await self._call_accept(allowed, bodies, ceilings)
            if not rows or rows[0].payment_id is not None:
                acceptances = await self._read_acceptances(allowed, bodies, rows)
                return [refusals.get(new.id) or acceptances[new.id] for new in batch]
            usages = usages_from(rows)
            replayed_ids = await self._find_ids_with_used_key(batch)
            refusals = find_refusals(batch, usages, replayed_ids, rows[0].accepted_at)
            allowed = [new for new in batch if new.id not in refusals]
            if not allowed:
                return [refusals[new.id] for new in batch]
            is_new = [new for new in allowed if new.id not in replayed_ids]
            ceilings = Ceilings.above(usages, is_new)
        # Each time, another process used more of a limit before we could store our payments.
        raise AllowanceContended

    async def _call_accept(
        self, batch: Sequence[NewPayment], bodies: Mapping[UUID, str], ceilings: Ceilings
    ) -> list[Row]:
        rows = [(new, bodies[new.id], uuid_utils.uuid7()) for new in batch]
        try:
            # If the answer to the first call was lost, but the call stored the batch, the second
            # call finds the keys used by the same payments, and stores nothing.
            return await self._database.call_repeatable(
                ACCEPT, accepted_arrays(rows) | ceilings.parameters()
            )
        except Exception as error:
            if sqlstate(error) in CONTENDED and waited_for_an_advisory_lock(error):
                raise AllowanceContended from error
            raise

    async def _read_acceptances(
        self, batch: Sequence[NewPayment], bodies: Mapping[UUID, str], rows: Sequence[Row]
    ) -> dict[UUID, Acceptance]:
        """The acceptance of each payment in `batch`. `rows` are those that were stored now."""
        acceptances = {}
        for row in rows:
            body = bodies[row.payment_id].replace(_HOLE, row.stamp).encode()
            new_id = as_uuid(row.payment_id)
            acceptances[new_id] = (body, row.accepted_at + KEY_LIFETIME, row.epoch)
        used_keys = [_key_of(new) for new in batch if new.id not in acceptances]
        stored_keys = await self._read_keys(used_keys) if used_keys else {}
        found = {}
        for new in batch:
            if new.id in acceptances:
                body, expires_at, epoch = acceptances[new.id]
                answer = FirstAnswer(new.fingerprint, 202, body, str(new.id))
                found[new.id] = Acceptance(answer, False, expires_at, epoch)
            else:
                row = stored_keys[_key_of(new)]
                found[new.id] = Acceptance(_first_answer_from(row), True, row.expires_at, None)
        return found

    async def _find_ids_with_used_key(self, batch: Sequence[NewPayment]) -> set[UUID]:
        """The ids of the requests in `batch` whose key is not free.

        These requests create no payment, so they do not count against any limit.
        """
        rows = await self._read_keys([_key_of(new) for new in batch])
        return {new.id for new in batch if _key_of(new) in rows and not rows[_key_of(new)].is_free}

    async def _read_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """The stored rows of `keys`."""
        parameters = {
            "caller_keys": [caller_key for caller_key, _ in keys],
            "keys": [key for _, key in keys],
        }
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_STORED_KEYS, parameters)
        return {(row.caller_key, row.key): row for row in rows}


def render_with_holes(new: NewPayment) -> str:
    """The first answer to `new`, with a hole for each time in it."""
    for milliseconds in range(1000):
        no_time = _NO_TIME + timedelta(milliseconds=milliseconds)
        body = new.answer(build_payment(new, no_time)).decode()
        no_stamp = timestamp(no_time)
        # If a text of the caller contains the time, try another one.
        if body.count(no_stamp) == _ANSWER_TIMES:
            return body.replace(no_stamp, _HOLE)
    raise AssertionError("an answer has two times")


def _is_contended(error: Exception) -> bool:
    return isinstance(error, AllowanceContended) or sqlstate(error) in CONTENDED


def _key_of(new: NewPayment) -> tuple[str, str]:
    return new.caller.key, new.idempotency_key


def _request_identity(new: NewPayment) -> tuple[Caller, str, bytes]:
    """The values in which two requests must agree to share one answer.

    The caller includes the role, because the policy differs by role.
    """
    return new.caller, new.idempotency_key, new.fingerprint


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
