"""Keeps the tables in shape: partitions, expired keys, old webhooks, and the list of due steps.

Every worker does this once an hour. In the database, one process at a time makes or drops
partitions, and the others find nothing to do. If a job fails, the worker tries it again. Until then
no row is refused and none is lost, because a default partition gets the rows of a month without
partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from domain.adapters import observability
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.expired_keys import BATCH_SIZE, delete_expired_keys
from domain.adapters.postgres.old_deliveries import BATCH_SIZE as DELIVERIES_AT_ONCE
from domain.adapters.postgres.old_deliveries import delete_old_deliveries, end_deliveries
from domain.adapters.postgres.partitions import drop_partitions, make_partitions
from domain.adapters.postgres.sweeping import list_missing_steps
from domain.errors import PaymentServiceError

log = structlog.get_logger()

_FIRST_WAIT_SECONDS = 10.0
_INTERVAL_SECONDS = 3600.0
_RETRY_SECONDS = 60.0

# Between two batches of keys or deliveries, so that a backlog slows nothing down.
_PAUSE_SECONDS = 0.2

_LONG_BEFORE_ANY_KEY = datetime(2000, 1, 1, tzinfo=UTC)


async def keep_tables(database: Database) -> None:
    """Does the upkeep once an hour, until it is cancelled."""
    wait_seconds = _FIRST_WAIT_SECONDS
    while True:
        await asyncio.sleep(wait_seconds)
        results = [
            await _try(make_missing_partitions, database),
            await _try(drop_old_partitions, database),
            await _try(delete_old_keys, database),
            await _try(end_stranded_deliveries, database),
            await _try(delete_deliveries, database),
            await _try(list_forgotten_payments, database),
        ]
        wait_seconds = _INTERVAL_SECONDS if all(results) else _RETRY_SECONDS


async def _try(job: Callable[[Database], Awaitable[bool]], database: Database) -> bool:
    """Runs `job`. Returns whether it is done for this hour."""
    try:
        return await job(database)
    except PaymentServiceError as error:
        log.warning("upkeep_postponed", job=job.__name__, error=type(error).__name__)
    except Exception:
        # A bug in one job must not stop the others.
        log.exception("upkeep_failed", job=job.__name__)
    return False


async def make_missing_partitions(database: Database) -> bool:
    """Makes the partitions of this month and the next ones. Returns whether all exist."""
    is_complete = True
    for table in await make_partitions(database):
        observability.partitions_missing.labels(table=table.table).set(table.missing)
        observability.partition_other_rows.labels(table=table.table).set(table.has_other_rows)
        for partition in table.made:
            log.info("partition_made", table=table.table, partition=partition)
        if table.missing:
            log.error("partitions_missing", table=table.table, months=table.missing)
            is_complete = False
    return is_complete


async def drop_old_partitions(database: Database) -> bool:
    """Drops the partitions whose retention is over and that no payment needs.

    Always returns True: the next hour is early enough for a partition that is kept.
    """
    while True:
        tables = await drop_partitions(database)
        observability.partition_kept.clear()
        for table in tables:
            if table.dropped:
                log.warning("partition_dropped", table=table.table, partition=table.dropped)
            else:
                reason = table.reason
                observability.partition_kept.labels(table=table.table, reason=reason).set(1)
                log.warning(
                    "partition_kept", table=table.table, partition=table.kept, reason=reason
                )
        if not any(table.dropped for table in tables):
            return True


async def delete_old_keys(database: Database) -> bool:
    """Deletes all idempotency keys that have been free for a long time, batch after batch."""
    after = _LONG_BEFORE_ANY_KEY
    while True:
        batch = await delete_expired_keys(database, after=after)
        observability.keys_deleted.inc(batch.deleted)
        if batch.read < BATCH_SIZE or batch.last_expiry is None:
            return True
        after = batch.last_expiry
        await asyncio.sleep(_PAUSE_SECONDS)


async def end_stranded_deliveries(database: Database) -> bool:
    """Ends all waiting deliveries of deleted endpoints, batch after batch."""
    while True:
        if await end_deliveries(database) < DELIVERIES_AT_ONCE:
            return True
        await asyncio.sleep(_PAUSE_SECONDS)


async def delete_deliveries(database: Database) -> bool:
    """Deletes all deliveries of webhooks whose retention is over, batch after batch."""
    while True:
        deleted = await delete_old_deliveries(database)
        observability.webhook_deliveries_deleted.inc(deleted)
        if deleted < DELIVERIES_AT_ONCE:
            return True
        await asyncio.sleep(_PAUSE_SECONDS)


async def list_forgotten_payments(database: Database) -> bool:
    """Lists open payments whose due step the sweeper could not find. Returns whether none is left.

    There is no such payment, unless triggers of the database were off while payments changed.
    """
    payment_ids = await list_missing_steps(database)
    if payment_ids:
        log.error("due_steps_were_missing", count=len(payment_ids), payment_id=str(payment_ids[0]))
    return not payment_ids
