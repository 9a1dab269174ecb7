"""How webhooks are doing, in a few numbers for the console."""

from __future__ import annotations

from dataclasses import dataclass

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql

# Not more waiting deliveries than this are counted.
WAITING_MAX = 10_000

_READ = sql(f"""
SELECT count(*) FILTER (WHERE status = 'enabled') AS enabled,
    count(*) FILTER (WHERE status <> 'enabled') AS stopped,
    (SELECT count(*) FROM (
        SELECT FROM mkwanja.webhook_deliveries WHERE next_attempt_at IS NOT NULL
        LIMIT {WAITING_MAX}) AS waiting) AS waiting,
    (SELECT coalesce(greatest(0, extract(epoch FROM now() - min(first.due_at))), 0)
        FROM mkwanja.webhook_endpoints AS endpoint CROSS JOIN LATERAL (
            SELECT next_attempt_at AS due_at FROM mkwanja.webhook_deliveries
            WHERE endpoint_id = endpoint.id AND next_attempt_at IS NOT NULL
            ORDER BY next_attempt_at LIMIT 1
        ) AS first
        WHERE endpoint.status = 'enabled' AND endpoint.deleted_at IS NULL) AS overdue_seconds
FROM mkwanja.webhook_endpoints WHERE deleted_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class DeliveryHealth:
    """The state of all webhook endpoints and of their deliveries.

    * `enabled`, `stopped`: the numbers of endpoints that get events, and that get none.
    * `waiting`: how many deliveries wait for an attempt.
    * `overdue_seconds`: how long the most overdue attempt has been due; 0 if none is due. It counts
      only attempts to endpoints that get events.
    """

    enabled: int
    stopped: int
    waiting: int
    overdue_seconds: float


async def read_delivery_health(database: Database) -> DeliveryHealth:
    """Reads it through the index of waiting deliveries. Raises StoreUnavailable."""
    async with database.transaction() as transaction:
        [row] = await transaction.rows(_READ)
    return DeliveryHealth(row.enabled, row.stopped, row.waiting, float(row.overdue_seconds))
