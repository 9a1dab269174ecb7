"""Ends deliveries of webhooks that can never be sent, and deletes those that ended long ago.

Both work in small batches. The attempts of a delivery are deleted with it. A delivery that is
pending is never deleted, however old it is. The function that deletes runs with the rights of the
schema's owner, who sets for how many months deliveries are kept (`retention`). A process can
therefore delete no delivery that the owner wants to keep.

A trigger refuses to delete young attempts. If a worker of an earlier release had a wrong clock, an
attempt may have a time in the future. Its delivery stays until the retention has passed since then.
"""

from __future__ import annotations

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.functions import LIMITS, Function

# The name of the retention, which is a number of months.
DELIVERIES = "webhook_deliveries"

# The most deliveries of one statement. Each of them has a few attempts.
BATCH_SIZE = 500

# If an endpoint is deleted, its waiting deliveries end with it (`webhook_endpoints.py`). A web
# process of an earlier release may delete an endpoint during an upgrade, and it ends none.
END_DELIVERIES = Function(
    "end_deliveries_of_deleted_endpoints",
    parameters={"lock_timeout": "text"},
    returns={"ended": "int"},
    joins_tables=True,
    body=f"""
BEGIN
    {LIMITS}
    WITH batch AS (
        SELECT delivery.endpoint_id, delivery.number, endpoint.deleted_at
        FROM mkwanja.webhook_endpoints AS endpoint
        JOIN mkwanja.webhook_deliveries AS delivery ON delivery.endpoint_id = endpoint.id
        WHERE endpoint.deleted_at IS NOT NULL AND delivery.next_attempt_at IS NOT NULL
        LIMIT {BATCH_SIZE} FOR UPDATE OF delivery SKIP LOCKED
    ), changed AS (
        UPDATE mkwanja.webhook_deliveries AS delivery
        SET status = 'failed', is_sending = false, next_attempt_at = NULL,
            ended_at = batch.deleted_at
        FROM batch
        WHERE delivery.endpoint_id = batch.endpoint_id AND delivery.number = batch.number
        RETURNING 1
    )
    SELECT count(*) INTO ended FROM changed;
    RETURN NEXT;
END""",
)

# Both deletions are one statement, so the key of the attempts is satisfied at its end.
DELETE_DELIVERIES = Function(
    "delete_old_deliveries",
    parameters={"lock_timeout": "text"},
    returns={"deleted": "int"},
    joins_tables=True,
    runs_as_owner=True,
    body=f"""
DECLARE
    kept_since timestamptz;
BEGIN
    {LIMITS}
    SELECT now() - make_interval(months => kept_months) INTO kept_since
    FROM mkwanja.retention WHERE table_name = '{DELIVERIES}';
    -- Triggers refuse every other deletion of attempts.
    PERFORM set_config('mkwanja.deletes_old_deliveries', 'on', true);
    WITH batch AS (
        SELECT endpoint_id, number FROM mkwanja.webhook_deliveries AS delivery
        WHERE ended_at <= kept_since
            AND NOT EXISTS (
                SELECT FROM mkwanja.webhook_attempts AS attempt
                WHERE attempt.endpoint_id = delivery.endpoint_id
                    AND attempt.delivery_number = delivery.number
                    AND attempt.attempted_at > kept_since)
        ORDER BY ended_at LIMIT {BATCH_SIZE} FOR UPDATE SKIP LOCKED
    ), attempts_gone AS (
        DELETE FROM mkwanja.webhook_attempts AS attempt USING batch
        WHERE attempt.endpoint_id = batch.endpoint_id AND attempt.delivery_number = batch.number
    ), gone AS (
        DELETE FROM mkwanja.webhook_deliveries AS delivery USING batch
        WHERE delivery.endpoint_id = batch.endpoint_id AND delivery.number = batch.number
        RETURNING 1
    )
    SELECT count(*) INTO deleted FROM gone;
    PERFORM set_config('mkwanja.deletes_old_deliveries', 'off', true);
    RETURN NEXT;
END""",
)


async def end_deliveries(database: Database) -> int:
    """Ends a batch of the waiting deliveries of deleted endpoints, and returns how many."""
    [row] = await database.call(END_DELIVERIES, {})
    return int(row.ended)


async def delete_old_deliveries(database: Database) -> int:
    """Deletes a batch of the deliveries whose retention is over, and returns how many."""
    [row] = await database.call(DELETE_DELIVERIES, {})
    return int(row.deleted)
