"""The outbox: the stored events in the order of the feed, and how far they are published.

A commit that makes an event puts it into `unlisted_events` (feed.py). One row, `event_publisher`,
says up to which position the events are published, and which process has the turn to publish.
Positions are given only to committed events, so the publisher never skips an event that commits
late. No transaction is open while events are published on Redis, so the turn is a lease: after it,
another process may publish. A publisher whose lease is over can then only publish events again. It
cannot move the recorded position, because another publisher has the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from domain.adapters.postgres.engine import CONTENDED, Database, sqlstate
from domain.adapters.postgres.feed import LIST
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.locks import LOCK_FEED
from domain.errors import StoreUnavailable
from domain.lifecycle.announce import TURN_SECONDS, OutboxEvent

# The most events of one batch. They fit into the buffers of a connection, so the answer leaves the
# server at once, and a frozen process holds no lock.
_BATCH_SIZE = 100

# An event is unpublished if it has no position yet, or a position after the recorded one. Each of
# the two kinds is read by an index, from its first event on.
_LISTED = """
FROM mkwanja.events
WHERE position > (SELECT published_through FROM mkwanja.event_publisher WHERE is_only_row)
"""
FIRST_UNPUBLISHED = f"""
(SELECT history_id, false AS is_listed FROM mkwanja.unlisted_events ORDER BY number LIMIT 1)
UNION ALL (SELECT history_id, true {_LISTED} ORDER BY position LIMIT 1)
"""
COUNT_UNPUBLISHED = f"(SELECT count(*) FROM mkwanja.unlisted_events) + (SELECT count(*) {_LISTED})"

# The advisory lock orders all calls. A publisher's call therefore sees every event that was
# committed before an earlier call found that the publisher has the turn. The lease is read without
# a row lock: such a lock would make each call a write, even a call that finds nothing to do.
TAKE_TURN = Function(
    name="take_turn",
    parameters={
        "lock_timeout": "text",
        "publisher": "uuid",
        "published_through": "bigint",
        "limit": "int",
    },
    returns={"event_position": "bigint", "payment_id": "uuid", "event_body": "text"},
    joins_tables=True,
    body=f"""
DECLARE
    turn record;
    through bigint;
    fetched int;
BEGIN
    {LIMITS}
    PERFORM {LOCK_FEED};
    SELECT * INTO turn FROM mkwanja.event_publisher WHERE is_only_row;
    IF turn.publisher <> :publisher AND turn.turn_ends_at > clock_timestamp() THEN
        RETURN;
    END IF;
    through := turn.published_through;
    IF turn.publisher = :publisher THEN
        through := greatest(through, :published_through);
    END IF;
    IF :limit > 0 AND EXISTS (SELECT FROM mkwanja.unlisted_events) THEN
        {LIST};
    END IF;
    RETURN QUERY
        SELECT event.position, history.payment_id, history.event_body
        FROM mkwanja.events AS event
        JOIN mkwanja.payment_history AS history ON history.id = event.history_id
        WHERE event.position > through ORDER BY event.position LIMIT :limit;
    GET DIAGNOSTICS fetched = ROW_COUNT;
    IF fetched > 0 THEN
        UPDATE mkwanja.event_publisher
        SET published_through = through, publisher = :publisher,
            turn_ends_at = clock_timestamp() + interval '{TURN_SECONDS} seconds'
        WHERE is_only_row;
    ELSIF turn.publisher IS NOT NULL THEN
        UPDATE mkwanja.event_publisher
        SET published_through = through, publisher = NULL, turn_ends_at = NULL
        WHERE is_only_row;
    END IF;
    -- Do not wait for the disk. If the server crashes and loses this commit, the events are listed
    -- and published again. Only readers see positions, and they wait for the disk (feed.py).
    PERFORM set_config('synchronous_commit', 'off', true);
END""",
)


class PostgresOutbox:
    """Satisfies `domain.lifecycle.announce.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_turn(
        self, publisher: UUID, *, published_through: int | None
    ) -> Sequence[OutboxEvent]:
        """See `domain.lifecycle.announce.Outbox.take_turn`."""
        rows = await self._call(publisher, published_through, limit=_BATCH_SIZE)
        return [OutboxEvent(row.event_position, row.payment_id, row.event_body) for row in rows]

    async def end_turn(self, publisher: UUID, *, published_through: int | None) -> None:
        """See `domain.lifecycle.announce.Outbox.end_turn`."""
        await self._call(publisher, published_through, limit=0)

    async def _call(
        self, publisher: UUID, published_through: int | None, *, limit: int
    ) -> list[Any]:
        parameters = {
            "publisher": publisher,
            "published_through": published_through,
            "limit": limit,
        }
        try:
            return await self._database.call(TAKE_TURN, parameters)
        except Exception as error:
            if sqlstate(error) in CONTENDED:
                raise StoreUnavailable from error  # another process has locked the feed
            raise
