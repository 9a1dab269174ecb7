"""The endpoints of backends: what their owners read and change.

Each method gets the key of the caller, and finds only endpoints of this caller. A deleted endpoint
is found no more, but its row stays as a record, and its deliveries as long as those of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.adapters.postgres.contention import blockable_transaction
from domain.adapters.postgres.engine import Database, Transaction
from domain.adapters.postgres.pool import Row
from domain.adapters.postgres.statements import sql
from domain.errors import (
    DeliveryNotFound,
    EndpointNotEnabled,
    EndpointNotFound,
    TooManyEndpoints,
)
from domain.webhooks.endpoint import (
    ENDPOINTS_PER_CALLER_MAX,
    ROTATION,
    TEST_EVENT_TYPE,
    Attempt,
    AttemptOutcome,
    Cause,
    Delivery,
    DeliveryStatus,
    Endpoint,
    EndpointStatus,
    StatusReason,
    body_of_test_event,
)
from domain.webhooks.retries import RETRY_FOR

_COLUMNS = """id, url, event_types, description, status, status_reason, failing_since, created_at,
    updated_at"""
_OWN = "caller_key = :caller_key AND deleted_at IS NULL"

# Concurrent requests may exceed the limit by a few. Nothing depends on its exact number.
_CREATE = sql(f"""
INSERT INTO mkwanja.webhook_endpoints (id, caller_key, url, event_types, description, status,
    sealed_key, position, created_at, updated_at)
SELECT :id, :caller_key, :url, :event_types, :description, 'enabled', :sealed_key,
    (SELECT coalesce(max(position), 0) FROM mkwanja.events), now(), now()
WHERE (SELECT count(*) FROM mkwanja.webhook_endpoints WHERE {_OWN}) < {ENDPOINTS_PER_CALLER_MAX}
RETURNING {_COLUMNS}
""")
_LIST = sql(f"""
SELECT {_COLUMNS} FROM mkwanja.webhook_endpoints WHERE {_OWN} ORDER BY created_at, id
""")
_READ = sql(f"SELECT {_COLUMNS} FROM mkwanja.webhook_endpoints WHERE id = :id AND {_OWN}")
_LOCK = sql(f"""
SELECT {_COLUMNS}, last_number FROM mkwanja.webhook_endpoints WHERE id = :id AND {_OWN} FOR UPDATE
""")
_CHANGE = sql(f"""
UPDATE mkwanja.webhook_endpoints
SET url = :url, event_types = :event_types, description = :description, status = :status,
    status_reason = :status_reason, failing_since = :failing_since, updated_at = now()
WHERE id = :id RETURNING {_COLUMNS}
""")
# Deliveries that wait are due now, and all get the whole time for retries again. A delivery that a
# worker is sending keeps the time at which another worker may send it. If its attempt fails, the
# worker's record finds the new `retry_until`, because both changes lock the endpoint's row.
_RESUME = sql("""
UPDATE mkwanja.webhook_deliveries SET retry_until = now() + :retry_for,
    next_attempt_at = CASE WHEN is_sending THEN next_attempt_at ELSE now() END
WHERE endpoint_id = :id AND next_attempt_at IS NOT NULL
""")
_DELETE = sql(f"""
UPDATE mkwanja.webhook_endpoints
SET deleted_at = now(), updated_at = now(), status = 'disabled',
    status_reason = coalesce(status_reason, '{StatusReason.BY_CALLER}')
WHERE id = :id AND {_OWN} RETURNING id
""")
# Deliveries that wait can never be sent, so they end.
_END_DELIVERIES = sql(f"""
UPDATE mkwanja.webhook_deliveries
SET status = '{DeliveryStatus.FAILED}', is_sending = false, next_attempt_at = NULL, ended_at = now()
WHERE endpoint_id = :id AND next_attempt_at IS NOT NULL
""")
_ROTATE = sql(f"""
UPDATE mkwanja.webhook_endpoints
SET previous_sealed_key = sealed_key, previous_key_until = now() + :rotation,
    sealed_key = :sealed_key, updated_at = now()
WHERE id = :id AND {_OWN} RETURNING {_COLUMNS}
""")

_DELIVERY_COLUMNS = """endpoint_id, number, cause, event_id, event_type, payment_id, status,
    created_at, next_attempt_at"""
_ADD_DELIVERY = sql(f"""
INSERT INTO mkwanja.webhook_deliveries (endpoint_id, number, cause, event_id, event_type,
    payment_id, body, status, next_attempt_at, retry_until, created_at)
VALUES (:id, :number, :cause, :event_id, :event_type, :payment_id, :body, 'pending', now(),
    now() + :retry_for, now())
RETURNING {_DELIVERY_COLUMNS}
""")
_COUNT_DELIVERY = sql("""
UPDATE mkwanja.webhook_endpoints SET last_number = :number WHERE id = :id
""")
_READ_DELIVERY = sql("""
SELECT event_id, event_type, payment_id, body FROM mkwanja.webhook_deliveries
WHERE endpoint_id = :id AND number = :number
""")
_HASTEN = sql(f"""
UPDATE mkwanja.webhook_deliveries
SET next_attempt_at = CASE WHEN is_sending THEN next_attempt_at
    ELSE least(next_attempt_at, now()) END
WHERE endpoint_id = :id AND number = :number AND status = 'pending'
RETURNING {_DELIVERY_COLUMNS}
""")
_PAGE = sql(f"""
SELECT {_DELIVERY_COLUMNS} FROM mkwanja.webhook_deliveries
WHERE endpoint_id = :id AND number < :before ORDER BY number DESC LIMIT :limit
""")
_ATTEMPTS = sql("""
SELECT delivery_number, number, attempted_at, outcome, http_status, milliseconds, answer
FROM mkwanja.webhook_attempts
WHERE endpoint_id = :id AND delivery_number = ANY(:numbers) ORDER BY delivery_number, number
""")

_AFTER_ALL = 2**63 - 1


class WebhookEndpoints:
    """The endpoints of all backends. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        caller_key: str,
        endpoint_id: UUID,
        *,
        url: str,
        event_types: Sequence[str] | None,
        description: str | None,
        sealed_key: bytes,
    ) -> Endpoint:
        """Stores an endpoint that gets the events from now on. Raises TooManyEndpoints."""
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(
                _CREATE,
                {
                    "id": endpoint_id,
                    "caller_key": caller_key,
                    "url": url,
                    "event_types": event_types,
                    "description": description,
                    "sealed_key": sealed_key,
                },
            )
        if not rows:
            raise TooManyEndpoints(
                f"This caller has {ENDPOINTS_PER_CALLER_MAX} webhook endpoints, which is the most "
                "that a caller may have. Delete one first. A disabled endpoint counts too."
            )
        return _endpoint(rows[0])

    async def list_own(self, caller_key: str) -> list[Endpoint]:
        """All endpoints of the caller, oldest first."""
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(_LIST, {"caller_key": caller_key})
        return [_endpoint(row) for row in rows]

    async def read(self, caller_key: str, endpoint_id: UUID) -> Endpoint:
        """Raises EndpointNotFound."""
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(_READ, {"id": endpoint_id, "caller_key": caller_key})
        return _endpoint(_only(rows))

    async def change(
        self,
        caller_key: str,
        endpoint_id: UUID,
        changes: Mapping[str, Any],
        *,
        disabled_by: StatusReason = StatusReason.BY_CALLER,
    ) -> Endpoint:
        """Changes some of `url`, `event_types`, `description` and `status`.

        If the endpoint becomes enabled, its waiting deliveries are due at once. Raises
        EndpointNotFound.
        """
        async with blockable_transaction(self._database) as transaction:
            row = await _lock(transaction, caller_key, endpoint_id)
            status = changes.get("status", row.status)
            is_changed = status != row.status
            values = {name: changes.get(name, row[name]) for name in (
                "url", "event_types", "description",
            )}  # fmt: skip
            reason = None if status == EndpointStatus.ENABLED else disabled_by
            [changed] = await transaction.rows(
                _CHANGE,
                {
                    **values,
                    "id": endpoint_id,
                    "status": status,
                    "status_reason": reason if is_changed else row.status_reason,
                    "failing_since": None if is_changed else row.failing_since,
                },
            )
            if is_changed and status == EndpointStatus.ENABLED:
                await transaction.run(_RESUME, {"id": endpoint_id, "retry_for": RETRY_FOR})
        return _endpoint(changed)

    async def delete(self, caller_key: str, endpoint_id: UUID) -> None:
        """Ends all messages to the endpoint. Raises EndpointNotFound."""
        async with blockable_transaction(self._database) as transaction:
            _only(await transaction.rows(_DELETE, {"id": endpoint_id, "caller_key": caller_key}))
            await transaction.run(_END_DELIVERIES, {"id": endpoint_id})

    async def rotate(self, caller_key: str, endpoint_id: UUID, *, sealed_key: bytes) -> Endpoint:
        """Replaces the key. The old one signs too for 24 hours. Raises EndpointNotFound."""
        async with blockable_transaction(self._database) as transaction:
            rows = await transaction.rows(
                _ROTATE,
                {
                    "id": endpoint_id,
                    "caller_key": caller_key,
                    "sealed_key": sealed_key,
                    "rotation": ROTATION,
                },
            )
        return _endpoint(_only(rows))

    async def send_test(self, caller_key: str, endpoint_id: UUID) -> Delivery:
        """Makes a delivery of a test event. Raises EndpointNotFound, EndpointNotEnabled."""
        async with blockable_transaction(self._database) as transaction:
            row = await _lock_enabled(transaction, caller_key, endpoint_id)
            event_id = uuid_utils.uuid7()
            return await _add_delivery(
                transaction,
                row,
                cause=Cause.TEST.value,
                event_id=event_id,
                event_type=TEST_EVENT_TYPE,
                payment_id=None,
                body=body_of_test_event(event_id, endpoint_id, transaction.now),
            )

    async def redeliver(self, caller_key: str, endpoint_id: UUID, number: int) -> Delivery:
        """Makes another delivery of the event of delivery `number`, if that delivery has ended.

        A pending delivery becomes due now, and is returned. Another delivery beside it would only
        send the event twice. Raises EndpointNotFound, EndpointNotEnabled, DeliveryNotFound.
        """
        async with blockable_transaction(self._database) as transaction:
            row = await _lock_enabled(transaction, caller_key, endpoint_id)
            place = {"id": endpoint_id, "number": number}
            if pending := await transaction.rows(_HASTEN, place):
                [delivery] = await _add_attempts(transaction, pending)
                return delivery
            rows = await transaction.rows(_READ_DELIVERY, place)
            if not rows:
                raise DeliveryNotFound
            return await _add_delivery(
                transaction, row, cause=Cause.REDELIVERY.value, **dict(rows[0].items())
            )

    async def page(
        self, caller_key: str, endpoint_id: UUID, *, before: int | None, limit: int
    ) -> list[Delivery]:
        """The newest deliveries before number `before`, with all attempts.

        Raises EndpointNotFound.
        """
        async with blockable_transaction(self._database) as transaction:
            _only(await transaction.rows(_READ, {"id": endpoint_id, "caller_key": caller_key}))
            rows = await transaction.rows(
                _PAGE, {"id": endpoint_id, "before": before or _AFTER_ALL, "limit": limit}
            )
            return await _add_attempts(transaction, rows)


async def _lock(transaction: Transaction, caller_key: str, endpoint_id: UUID) -> Row:
    return _only(await transaction.rows(_LOCK, {"id": endpoint_id, "caller_key": caller_key}))


async def _lock_enabled(transaction: Transaction, caller_key: str, endpoint_id: UUID) -> Row:
    row = await _lock(transaction, caller_key, endpoint_id)
    if row.status != EndpointStatus.ENABLED:
        raise EndpointNotEnabled
    return row


async def _add_delivery(transaction: Transaction, endpoint: Row, **values: Any) -> Delivery:
    number = endpoint.last_number + 1
    place = {"id": endpoint.id, "number": number}
    [row] = await transaction.rows(_ADD_DELIVERY, {**place, **values, "retry_for": RETRY_FOR})
    await transaction.run(_COUNT_DELIVERY, place)
    return _delivery(row, ())


async def _add_attempts(transaction: Transaction, rows: Sequence[Row]) -> list[Delivery]:
    """The deliveries of one endpoint, with all their attempts."""
    if not rows:
        return []
    numbers = [row.number for row in rows]
    found = await transaction.rows(_ATTEMPTS, {"id": rows[0].endpoint_id, "numbers": numbers})
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    for row in found:
        attempts[row.delivery_number].append(_attempt(row))
    return [_delivery(row, attempts[row.number]) for row in rows]


def _only(rows: Sequence[Row]) -> Row:
    if not rows:
        raise EndpointNotFound
    return rows[0]


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(
        id=row.id,
        url=row.url,
        event_types=row.event_types,
        description=row.description,
        status=EndpointStatus(row.status),
        status_reason=StatusReason(row.status_reason) if row.status_reason else None,
        failing_since=row.failing_since,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _delivery(row: Row, attempts: Sequence[Attempt]) -> Delivery:
    status = DeliveryStatus(row.status)
    next_attempt_at: datetime | None = row.next_attempt_at
    return Delivery(
        endpoint_id=row.endpoint_id,
        number=row.number,
        cause=Cause(row.cause),
        event_id=row.event_id,
        event_type=row.event_type,
        payment_id=row.payment_id,
        status=status,
        created_at=row.created_at,
        next_attempt_at=next_attempt_at,
        attempts=tuple(attempts),
    )


def _attempt(row: Row) -> Attempt:
    return Attempt(
        number=row.number,
        attempted_at=row.attempted_at,
        outcome=AttemptOutcome(row.outcome),
        http_status=row.http_status,
        milliseconds=row.milliseconds,
        answer=row.answer,
    )
