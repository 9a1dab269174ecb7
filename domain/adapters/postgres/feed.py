"""The feed of events, in an order that never changes and that no late commit can slip behind.

A position cannot be given inside the commit that makes a fact: another commit with an earlier one
might still be under way, and a reader would pass it. So positions are given afterwards, to facts
that are committed, by one transaction at a time. A sweeper does it, and each reader before it
reads. It goes by batches, each in a transaction of its own, so that neither a backlog nor a reader
holds up anything that moves money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from domain.adapters.postgres.engine import CONTENDED, Database, Transaction, sqlstate
from domain.adapters.postgres.locks import TAKE_FEED

# What one transaction lists: a few milliseconds of work.
_BATCH_SIZE = 500

# How many batches one sweep or one reader lists. More than a reader's page holds, so that readers
# get ahead of a backlog.
_BATCHES_MAX = 4

_LOCK = text(f"SELECT set_config('lock_timeout', '300ms', true), {TAKE_FEED}")

# The database fills this queue in the commit that makes the fact, and takes from it what is listed
# (migration 0006). A late commit brings numbers that are lower than those of others that are gone
# already; it is listed with the next batch.
_HAS_UNLISTED = text("SELECT EXISTS (SELECT FROM mkwanja.unlisted_events) AS has_unlisted")

# In the queue's order, but within a payment by `sequence` in any case: a correction never comes
# before its failure.
_LIST = text("""
WITH listed AS (
    INSERT INTO mkwanja.events (history_id, owner)
    SELECT waiting.history_id, payment.owner
    FROM (
        SELECT number, history_id, payment_id, sequence FROM mkwanja.unlisted_events AS queued
        WHERE NOT EXISTS (SELECT FROM mkwanja.events AS event WHERE event.history_id = queued.history_id)
        ORDER BY number LIMIT :limit
    ) AS waiting JOIN mkwanja.payments AS payment ON payment.id = waiting.payment_id
    ORDER BY max(waiting.number) OVER (PARTITION BY waiting.payment_id ORDER BY waiting.sequence), waiting.sequence
    ON CONFLICT (history_id) DO NOTHING
    RETURNING history_id
)
SELECT count(*) AS listed FROM listed
""")

# The last twelve digits of an event's id tell it from every event that another life of the database
# had at its position.
_MARK = "right(event.history_id::text, 12)"
_KNOWS = text(f"""
SELECT EXISTS (SELECT FROM mkwanja.events AS event WHERE event.position = :position AND {_MARK} = :mark) AS is_known
""")

_PAGE = text(f"""
SELECT event.position, {_MARK} AS mark, history.event_body
FROM mkwanja.events AS event JOIN mkwanja.payment_history AS history ON history.id = event.history_id
WHERE event.position > :after ORDER BY event.position LIMIT :limit
""")
_OWN_PAGE = text(f"""
SELECT event.position, {_MARK} AS mark, history.event_body
FROM mkwanja.events AS event JOIN mkwanja.payment_history AS history ON history.id = event.history_id
WHERE event.owner = :owner AND event.position > :after ORDER BY event.position LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event's body, its position in the feed, and the mark that tells it from other events at
    that position.
    """

    position: int
    mark: str
    body: str


async def list_events(transaction: Transaction) -> int:
    """Gives positions to a batch of committed events that have none; how many it listed."""
    await transaction.run(_LOCK)
    [row] = await transaction.rows(_LIST, {"limit": _BATCH_SIZE})
    return int(row.listed)


async def list_new_events(database: Database) -> int:
    """Lists some batches, as far as there is anything to list and no one else is listing; how
    many events.
    """
    listed = 0
    for _ in range(_BATCHES_MAX):
        more = await _list_batch(database)
        listed += more
        if more < _BATCH_SIZE:
            break
    return listed


async def _list_batch(database: Database) -> int:
    try:
        async with database.transaction() as transaction:
            [row] = await transaction.rows(_HAS_UNLISTED)
            is_needed = row.has_unlisted and not transaction.is_read_only
            return await list_events(transaction) if is_needed else 0
    except Exception as error:
        if sqlstate(error) not in CONTENDED:
            raise
        return 0  # another process lists them just now


class Feed:
    """Reads the feed. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def knows(self, position: int, mark: str) -> bool:
        """Whether this database has the event of `mark` at `position`, and so all that were listed
        before it.

        A backup that was restored, or a standby that took over without the last commits, may have
        none there, or another.
        """
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_KNOWS, {"position": position, "mark": mark})
        return bool(row.is_known)

    async def page(self, *, after: int, limit: int, owner: str | None) -> list[ListedEvent]:
        """At most `limit` events behind position `after`: all, or those of payments that `owner`
        owns.
        """
        await list_new_events(self._database)
        parameters: dict[str, Any] = {"after": after, "limit": limit}
        async with self._database.transaction() as transaction:
            if owner is None:
                rows = await transaction.rows(_PAGE, parameters)
            else:
                rows = await transaction.rows(_OWN_PAGE, {**parameters, "owner": owner})
        return [ListedEvent(row.position, row.mark, row.event_body) for row in rows]
