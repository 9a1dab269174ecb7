"""Deliveries of events to the endpoints of backends, as rows that workers claim.

One worker at a time sends to an endpoint: it has the endpoint's *turn*, a lease that each claim
renews. A claim is one transaction. It makes deliveries of the new events in the feed together with
the endpoint's position, so no event is skipped and none gets two deliveries. Then it marks due
deliveries as being sent. If the worker dies, its turn and its deliveries are free after
TURN_SECONDS, and another worker sends them again: an endpoint gets each event at least once.

Events of one payment go out in their order, unless an earlier one waits for its retry.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.adapters.postgres.contention import blockable_transaction
from domain.adapters.postgres.engine import Database, Transaction
from domain.adapters.postgres.pool import Row
from domain.adapters.postgres.statements import sql
from domain.webhooks.endpoint import Attempt, DeliveryStatus, EndpointStatus
from domain.webhooks.retries import RETRY_FOR, Verdict, judge_attempt

# A worker has an endpoint's turn, and a delivery that it claimed, for this long. An attempt must
# end within it.
TURN_SECONDS = 30.0

# A sweep wakes a worker for an endpoint. If the worker does not come, for example because Redis
# lost the job, a sweep wakes one again after this time.
_WOKEN_SECONDS = 5.0

# If no worker can read an endpoint's key, a worker tries again after this time.
_UNREADABLE_SECONDS = 30.0

# The most events of one claim that get deliveries.
_BATCH_SIZE = 500

# The most deliveries of an endpoint that wait. Later events wait in the feed, where they cost
# nothing.
_WAITING_MAX = 10_000

_WAKE = sql(f"""
UPDATE mkwanja.webhook_endpoints AS endpoint
SET woken_until = now() + interval '{_WOKEN_SECONDS} seconds'
WHERE status = 'enabled' AND deleted_at IS NULL
    AND (woken_until IS NULL OR woken_until <= now())
    AND (turn_ends_at IS NULL OR turn_ends_at <= now())
    AND (EXISTS (SELECT FROM mkwanja.events AS event WHERE event.position > endpoint.position)
        OR EXISTS (
            SELECT FROM mkwanja.webhook_deliveries AS delivery
            WHERE delivery.endpoint_id = endpoint.id AND delivery.next_attempt_at <= now()))
RETURNING id
""")
_HAS_ENDPOINT = sql("""
SELECT EXISTS (
    SELECT FROM mkwanja.webhook_endpoints WHERE status = 'enabled' AND deleted_at IS NULL
) AS found
""")

_TAKE_TURN = sql(f"""
UPDATE mkwanja.webhook_endpoints AS endpoint
SET turn = :turn, turn_ends_at = now() + interval '{TURN_SECONDS} seconds', woken_until = NULL
WHERE id = :endpoint_id AND status = 'enabled' AND deleted_at IS NULL
    AND (turn IS NULL OR turn = :turn OR turn_ends_at <= now())
RETURNING url, event_types, position, last_number, sealed_key,
    CASE WHEN previous_key_until > now() THEN previous_sealed_key END AS previous_sealed_key,
    EXISTS (SELECT FROM mkwanja.events AS event WHERE event.position > endpoint.position)
        AS has_new_events
""")
_END_TURN = sql("""
UPDATE mkwanja.webhook_endpoints SET turn = NULL, turn_ends_at = NULL
WHERE id = :endpoint_id AND turn = :turn
""")
# The key is the operator's fault, so waiting deliveries keep the whole time for their retries. The
# condition on `retry_until` makes each of them change once an hour at most.
_WAIT_FOR_KEY = sql(f"""
WITH kept AS (
    UPDATE mkwanja.webhook_deliveries SET retry_until = now() + :retry_for
    WHERE endpoint_id = :endpoint_id AND next_attempt_at IS NOT NULL
        AND retry_until < now() + :retry_for - interval '1 hour'
)
UPDATE mkwanja.webhook_endpoints SET turn = NULL, turn_ends_at = NULL,
    woken_until = now() + interval '{_UNREADABLE_SECONDS} seconds'
WHERE id = :endpoint_id AND turn = :turn
""")

_COUNT_WAITING = sql(f"""
SELECT count(*) AS waiting FROM (
    SELECT FROM mkwanja.webhook_deliveries
    WHERE endpoint_id = :endpoint_id AND next_attempt_at IS NOT NULL LIMIT {_WAITING_MAX}
) AS counted
""")
_MAKE_DELIVERIES = sql("""
WITH batch AS (
    SELECT position, history_id FROM mkwanja.events
    WHERE position > :after ORDER BY position LIMIT :limit
), made AS (
    INSERT INTO mkwanja.webhook_deliveries (endpoint_id, number, cause, event_id, event_type,
        payment_id, position, status, next_attempt_at, retry_until, created_at)
    SELECT :endpoint_id, :last_number + row_number() OVER (ORDER BY batch.position), 'event',
        history.id, history.event_type, history.payment_id, batch.position, 'pending', now(),
        now() + :retry_for, now()
    FROM batch JOIN mkwanja.payment_history AS history ON history.id = batch.history_id
    WHERE CAST(:event_types AS text[]) IS NULL OR history.event_type = ANY(:event_types)
    RETURNING number
)
SELECT (SELECT max(position) FROM batch) AS position, (SELECT count(*) FROM made) AS made
""")
_MOVE_POSITION = sql("""
UPDATE mkwanja.webhook_endpoints SET position = :position, last_number = last_number + :made
WHERE id = :endpoint_id
""")

# An earlier event of the same payment that is being sent, or that is due, goes first.
_CLAIM = sql(f"""
WITH due AS (
    SELECT number FROM mkwanja.webhook_deliveries AS delivery
    WHERE endpoint_id = :endpoint_id AND next_attempt_at <= now() AND NOT EXISTS (
        SELECT FROM mkwanja.webhook_deliveries AS earlier
        WHERE earlier.endpoint_id = delivery.endpoint_id
            AND earlier.payment_id = delivery.payment_id AND earlier.number < delivery.number
            AND earlier.next_attempt_at IS NOT NULL
            AND (earlier.is_sending OR earlier.next_attempt_at <= now()))
    ORDER BY next_attempt_at, number LIMIT :limit FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE mkwanja.webhook_deliveries AS delivery
    SET is_sending = true, attempts = attempts + 1,
        next_attempt_at = now() + interval '{TURN_SECONDS} seconds'
    FROM due WHERE delivery.endpoint_id = :endpoint_id AND delivery.number = due.number
    RETURNING delivery.number, attempts, event_id, body
)
SELECT claimed.number, claimed.attempts, claimed.event_id,
    coalesce(claimed.body, history.event_body) AS body
FROM claimed LEFT JOIN mkwanja.payment_history AS history ON history.id = claimed.event_id
ORDER BY claimed.number
""")

_LOCK_ENDPOINT = sql("""
SELECT status, failing_since FROM mkwanja.webhook_endpoints WHERE id = :endpoint_id FOR UPDATE
""")
_READ_DELIVERY = sql("""
SELECT status, attempts, retry_until FROM mkwanja.webhook_deliveries
WHERE endpoint_id = :endpoint_id AND number = :number
""")
# If a worker's clock is ahead, the attempt gets the database's time. A trigger refuses to delete
# attempts of the future (`old_deliveries.py`).
_RECORD_ATTEMPT = sql("""
INSERT INTO mkwanja.webhook_attempts (endpoint_id, delivery_number, number, attempted_at, outcome,
    http_status, milliseconds, answer)
VALUES (:endpoint_id, :delivery_number, :number, least(:attempted_at, now()), :outcome,
    :http_status, :milliseconds, :answer)
ON CONFLICT DO NOTHING
""")
_CHANGE_DELIVERY = sql("""
UPDATE mkwanja.webhook_deliveries
SET status = :status, is_sending = false, next_attempt_at = :next_attempt_at,
    ended_at = CASE WHEN CAST(:next_attempt_at AS timestamptz) IS NULL THEN now() END
WHERE endpoint_id = :endpoint_id AND number = :number
""")
_CHANGE_FAILING = sql("""
UPDATE mkwanja.webhook_endpoints SET failing_since = :failing_since WHERE id = :endpoint_id
""")
_CHANGE_STATUS = sql("""
UPDATE mkwanja.webhook_endpoints
SET status = :status, status_reason = :status_reason, updated_at = now() WHERE id = :endpoint_id
""")
_HASTEN = sql("""
UPDATE mkwanja.webhook_deliveries SET next_attempt_at = now()
WHERE endpoint_id = :endpoint_id AND next_attempt_at > now() AND NOT is_sending
""")


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this worker may send now, and the number of the attempt."""

    number: int
    attempt: int
    event_id: UUID
    body: str


@dataclass(frozen=True, slots=True)
class ClaimedEndpoint:
    """An endpoint whose turn this worker has, with deliveries to send.

    `keys` sign, the present one first. `now` is the database's time.
    """

    url: str
    keys: Sequence[bytes]
    deliveries: Sequence[ClaimedDelivery]
    now: datetime


class WebhookDeliveries:
    """What workers read and write. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_due(self) -> list[UUID] | None:
        """The endpoints for which a worker is needed, each at most once in a few seconds.

        None if there is no enabled endpoint at all.
        """
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(_WAKE)
            if not rows:
                [row] = await transaction.rows(_HAS_ENDPOINT)
                return [] if row.found else None
        return [row.id for row in rows]

    async def claim(
        self,
        endpoint_id: UUID,
        turn: UUID,
        *,
        limit: int,
        open_keys: Callable[[bytes, bytes | None], Sequence[bytes]],
    ) -> ClaimedEndpoint | None:
        """Takes or renews the turn, and claims up to `limit` due deliveries.

        `open_keys` returns the keys that sign, from the sealed key and the sealed previous key.

        None if another worker has the turn, or if the endpoint is not enabled. Also None if
        `open_keys` returns no key: nothing is claimed then, so no attempt is counted, and a worker
        tries again after half a minute.
        """
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(_TAKE_TURN, {"endpoint_id": endpoint_id, "turn": turn})
            if not rows:
                return None
            [endpoint] = rows
            keys = open_keys(endpoint.sealed_key, endpoint.previous_sealed_key)
            if not keys:
                waiting = {"endpoint_id": endpoint_id, "turn": turn, "retry_for": RETRY_FOR}
                await transaction.run(_WAIT_FOR_KEY, waiting)
                return None
            if endpoint.has_new_events:
                await _make_deliveries(transaction, endpoint_id, endpoint)
            parameters = {"endpoint_id": endpoint_id, "limit": limit}
            claimed = await transaction.rows(_CLAIM, parameters) if limit else []
            return ClaimedEndpoint(
                endpoint.url,
                keys,
                [ClaimedDelivery(row.number, row.attempts, row.event_id, row.body)
                 for row in claimed],
                transaction.now,
            )  # fmt: skip

    async def record(self, endpoint_id: UUID, number: int, attempt: Attempt) -> Verdict | None:
        """Stores an attempt and what follows from it. Returns the verdict if it was applied.

        If another worker has claimed the delivery since, only a success is applied.
        """
        place = {"endpoint_id": endpoint_id, "number": number}
        async with blockable_transaction(self._database) as transaction:
            [endpoint] = await transaction.rows(_LOCK_ENDPOINT, {"endpoint_id": endpoint_id})
            [delivery] = await transaction.rows(_READ_DELIVERY, place)
            await transaction.run(
                _RECORD_ATTEMPT,
                {
                    "endpoint_id": endpoint_id,
                    "delivery_number": number,
                    "number": attempt.number,
                    "attempted_at": attempt.attempted_at,
                    "outcome": attempt.outcome.value,
                    "http_status": attempt.http_status,
                    "milliseconds": attempt.milliseconds,
                    "answer": attempt.answer,
                },
            )
            verdict = judge_attempt(
                attempt.outcome,
                attempts=attempt.number,
                now=transaction.now,
                retry_until=delivery.retry_until,
                failing_since=endpoint.failing_since,
                chance=random.random(),  # noqa: S311 - spreads retries, and protects nothing
            )
            is_delivered = verdict.status is DeliveryStatus.DELIVERED
            is_stale = delivery.attempts != attempt.number and not is_delivered
            if delivery.status != DeliveryStatus.PENDING or is_stale:
                return None
            await transaction.run(
                _CHANGE_DELIVERY,
                {
                    **place,
                    "status": verdict.status.value,
                    "next_attempt_at": verdict.next_attempt_at,
                },
            )
            await _change_endpoint(transaction, endpoint_id, endpoint, verdict)
        return verdict

    async def end_turn(self, endpoint_id: UUID, turn: UUID) -> None:
        """Lets other workers send to the endpoint at once."""
        async with blockable_transaction(self._database) as transaction:
            await transaction.run(_END_TURN, {"endpoint_id": endpoint_id, "turn": turn})


async def _make_deliveries(transaction: Transaction, endpoint_id: UUID, endpoint: Row) -> None:
    """Makes deliveries of the next events in the feed, and moves the endpoint's position."""
    [count] = await transaction.rows(_COUNT_WAITING, {"endpoint_id": endpoint_id})
    limit = min(_BATCH_SIZE, _WAITING_MAX - count.waiting)
    if limit <= 0:
        return
    [batch] = await transaction.rows(
        _MAKE_DELIVERIES,
        {
            "endpoint_id": endpoint_id,
            "after": endpoint.position,
            "limit": limit,
            "last_number": endpoint.last_number,
            "event_types": endpoint.event_types,
            "retry_for": RETRY_FOR,
        },
    )
    if batch.position is not None:
        await transaction.run(
            _MOVE_POSITION,
            {"endpoint_id": endpoint_id, "position": batch.position, "made": batch.made},
        )


async def _change_endpoint(
    transaction: Transaction, endpoint_id: UUID, endpoint: Row, verdict: Verdict
) -> None:
    is_enabled = endpoint.status == EndpointStatus.ENABLED
    # An endpoint that is disabled may be down on purpose.
    may_change = is_enabled or verdict.failing_since is None
    if may_change and verdict.failing_since != endpoint.failing_since:
        since = {"endpoint_id": endpoint_id, "failing_since": verdict.failing_since}
        await transaction.run(_CHANGE_FAILING, since)
    if verdict.endpoint_status is not None and is_enabled:
        status = {"status": verdict.endpoint_status, "status_reason": verdict.status_reason}
        await transaction.run(_CHANGE_STATUS, {"endpoint_id": endpoint_id, **status})
    if verdict.hastens_others:
        await transaction.run(_HASTEN, {"endpoint_id": endpoint_id})
