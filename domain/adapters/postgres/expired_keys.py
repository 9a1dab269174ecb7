"""Deletes idempotency keys that have been free for a long time, in small batches.

A key is free a day after it has expired and its payment is settled (`accepting.py`). We keep it 30
days longer, because Daraja may correct a failed payment late. If the caller then repeats its old
request, the key still protects the caller against paying twice.

The function runs with the rights of the schema's owner, and decides by itself which keys may go. A
process can therefore delete no key that still protects a payment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain.adapters.postgres.accepting import IS_SETTLED_SINCE
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.functions import LIMITS, Function

# The most keys of one statement: some milliseconds of work. All keys of one accepting transaction
# expire at the same time, and are read together, so a statement may read some more.
BATCH_SIZE = 500

KEPT_DAYS = 30
_LONG_AGO = f"now() - interval '{KEPT_DAYS} days'"

# Reads the next keys by their expiry, also those that may not be deleted, so a statement never
# reads more than a batch. `last_expiry` is where the next statement begins. If the row of a key is
# locked, another process may be using the key again, and the key stays.
DELETE_KEYS = Function(
    "delete_expired_keys",
    parameters={"lock_timeout": "text", "after": "timestamptz", "limit": "int"},
    returns={"read": "int", "deleted": "int", "last_expiry": "timestamptz"},
    joins_tables=True,
    runs_as_owner=True,
    body=f"""
BEGIN
    {LIMITS}
    WITH batch AS (
        SELECT caller_key, key, expires_at FROM mkwanja.idempotency_keys
        WHERE expires_at > :after AND expires_at <= {_LONG_AGO}
        ORDER BY expires_at FETCH FIRST least(:limit, {BATCH_SIZE}) ROWS WITH TIES
    ), free AS (
        SELECT stored.caller_key, stored.key
        FROM batch JOIN mkwanja.idempotency_keys AS stored USING (caller_key, key)
        WHERE stored.expires_at <= {_LONG_AGO} AND {IS_SETTLED_SINCE.format(since=_LONG_AGO)}
        FOR UPDATE OF stored SKIP LOCKED
    ), gone AS (
        DELETE FROM mkwanja.idempotency_keys AS stored USING free
        WHERE stored.caller_key = free.caller_key AND stored.key = free.key
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM gone),
        (SELECT max(expires_at) FROM batch)
    INTO read, deleted, last_expiry;
    RETURN NEXT;
END""",
)


@dataclass(frozen=True, slots=True)
class DeletedKeys:
    """One batch: how many keys it read and deleted, and the expiry of the last one it read."""

    read: int
    deleted: int
    last_expiry: datetime | None


async def delete_expired_keys(database: Database, *, after: datetime) -> DeletedKeys:
    """Deletes the free keys among the first that expired after `after`."""
    [row] = await database.call(DELETE_KEYS, {"after": after, "limit": BATCH_SIZE})
    return DeletedKeys(row.read, row.deleted, row.last_expiry)
