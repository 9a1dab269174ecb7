"""The endpoints of all backends, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.payment_columns import as_uuid
from domain.adapters.postgres.statements import sql
from domain.webhooks.endpoint import DeliveryStatus, EndpointStatus

# The waiting deliveries of an endpoint are in an index of their own.
_LIST = sql(f"""
SELECT id, caller_key, url, status, status_reason, failing_since, created_at,
    (SELECT count(*) FROM mkwanja.webhook_deliveries
        WHERE endpoint_id = endpoint.id AND status = '{DeliveryStatus.PENDING}') AS waiting
FROM mkwanja.webhook_endpoints AS endpoint WHERE deleted_at IS NULL ORDER BY created_at, id
""")
_OWNER = sql("""
SELECT caller_key FROM mkwanja.webhook_endpoints WHERE id = :id AND deleted_at IS NULL
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLine:
    """An endpoint with its owner. `waiting`: how many deliveries wait for an attempt."""

    id: UUID
    caller_key: str
    url: str
    status: EndpointStatus
    status_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    waiting: int


class WebhookOverview:
    """Reads the endpoints of all owners. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def endpoints(self) -> list[EndpointLine]:
        """All endpoints that are not deleted, oldest first."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_LIST)
        return [
            EndpointLine(
                id=as_uuid(row.id),
                caller_key=row.caller_key,
                url=row.url,
                status=EndpointStatus(row.status),
                status_reason=row.status_reason,
                failing_since=row.failing_since,
                created_at=row.created_at,
                waiting=row.waiting,
            )
            for row in rows
        ]

    async def owner(self, endpoint_id: UUID) -> str | None:
        """The key of the caller that owns the endpoint, or None if there is no such endpoint."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_OWNER, {"id": endpoint_id})
        return rows[0].caller_key if rows else None
