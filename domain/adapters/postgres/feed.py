"""The feed of events. Its order never changes, and each new event goes to its end.

An event cannot get its position in the commit that stores the fact: another commit with a lower
position might still be under way, and a reader would miss the event of that commit. Therefore one
transaction at a time gives positions to events that are already committed. This is called listing.
The sweeper lists events, and each reader does so before it reads. Each batch has its own
transaction, so neither a backlog nor a reader delays writes that move money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.adapters.postgres.engine import CONTENDED, Database, sqlstate
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.locks import LOCK_FEED
from domain.adapters.postgres.statements import sql

# The most events that one transaction lists: a few milliseconds of work.
_BATCH_SIZE = 500

# How many batches one sweep or one reader lists. Together they are larger than a reader's page, so
# readers also reduce a backlog.
_BATCHES_MAX = 4

# The longest wait for another process that is listing. A reader then reads what is listed already.
_LOCK_TIMEOUT = "300ms"

# `unlisted_events` is a queue. A trigger adds an event in the commit that stores the event. Another
# trigger removes the event when it is listed (migration 0006). If a commit is late, its events may
# have lower numbers than events that are listed already. The late events are listed with the next
# batch.
_HAS_UNLISTED = "EXISTS (SELECT FROM mkwanja.unlisted_events)"

# Lists events in the order of the queue, but the events of one payment always by `sequence`. A
# correction therefore never precedes the failure that it corrects.
LIST = """
INSERT INTO mkwanja.events (history_id, owner)
SELECT waiting.history_id, payment.owner
FROM (
    SELECT number, history_id, payment_id, sequence FROM mkwanja.unlisted_events AS queued
    WHERE NOT EXISTS (
        SELECT FROM mkwanja.events AS event WHERE event.history_id = queued.history_id)
    ORDER BY number LIMIT :limit
) AS waiting JOIN mkwanja.payments AS payment ON payment.id = waiting.payment_id
ORDER BY max(waiting.number)
    OVER (PARTITION BY waiting.payment_id ORDER BY waiting.sequence), waiting.sequence
ON CONFLICT (history_id) DO NOTHING
"""

# One call and one transaction, so a process that freezes while it lists holds no lock.
LIST_EVENTS = Function(
    name="list_events",
    parameters={"lock_timeout": "text", "limit": "int"},
    returns={"listed": "int"},
    joins_tables=True,
    body=f"""
BEGIN
    listed := 0;
    IF {_HAS_UNLISTED} AND NOT current_setting('transaction_read_only')::boolean THEN
        {LIMITS}
        PERFORM {LOCK_FEED};
        {LIST};
        GET DIAGNOSTICS listed = ROW_COUNT;
    END IF;
    RETURN NEXT;
END""",
)

# The last twelve digits of the event's id. A restored database may have another event at the same
# position: the mark distinguishes the two.
_MARK = "right(event.history_id::text, 12)"
_IS_LISTED = sql(f"""
SELECT EXISTS (
    SELECT FROM mkwanja.events AS event WHERE event.position = :position AND {_MARK} = :mark
) AS is_listed
""")

_SELECT = f"""
SELECT event.position, {_MARK} AS mark, event.owner, history.payment_id, history.event_body
FROM mkwanja.events AS event
JOIN mkwanja.payment_history AS history ON history.id = event.history_id
"""
_PAGE = sql(f"{_SELECT} WHERE event.position > :after ORDER BY event.position LIMIT :limit")
_OWN_PAGE = sql(f"""
{_SELECT}
WHERE event.owner = :owner AND event.position > :after ORDER BY event.position LIMIT :limit
""")
# Begins with the event at the position itself, so that the reader can compare its mark.
_TAIL = sql(f"{_SELECT} WHERE event.position >= :position ORDER BY event.position LIMIT :limit")
_LAST = sql(f"""
SELECT event.position, {_MARK} AS mark FROM mkwanja.events AS event
ORDER BY event.position DESC LIMIT 1
""")

_BEFORE_LAST = sql("""
SELECT coalesce((SELECT position FROM mkwanja.events
    ORDER BY position DESC OFFSET :count LIMIT 1), 0) AS position
""")

# A publisher does not wait until the positions that it gave are on disk (outbox.py). A reader must
# wait: after a crash of the server, the events that it has seen would get other positions. This
# statement writes a message that nothing reads, so the COMMIT waits for the disk, and for a
# synchronous standby. It writes nothing if all is on disk already.
_WAIT_FOR_DISK = sql("""
SELECT CASE
    WHEN pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()
        OR current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'mkwanja', '')
END
""")


@dataclass(frozen=True, slots=True)
class FeedPlace:
    """The event after which a reader continues.

    In another epoch of the database, another event can have the same position. `mark` tells the two
    events apart. A `mark` of None means the beginning of the feed.
    """

    position: int = 0
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event's body, its payment and the payment's owner, and its position in the feed.

    The `mark` distinguishes it from another event that a restored database has at that position.
    """

    position: int
    mark: str
    owner: str | None
    payment_id: UUID
    body: str

    @property
    def place(self) -> FeedPlace:
        """The place right after this event."""
        return FeedPlace(self.position, self.mark)


async def list_new_events(database: Database) -> int:
    """Lists up to `_BATCHES_MAX` batches, unless another process is listing. Returns the count."""
    total = 0
    for _ in range(_BATCHES_MAX):
        listed = await _list_batch(database)
        total += listed
        if listed < _BATCH_SIZE:
            break
    return total


async def _list_batch(database: Database) -> int:
    """Gives positions to a batch of committed events, and returns how many it listed."""
    parameters = {"lock_timeout": _LOCK_TIMEOUT, "limit": _BATCH_SIZE}
    try:
        [row] = await database.call(LIST_EVENTS, parameters)
    except Exception as error:
        if sqlstate(error) not in CONTENDED:
            raise
        return 0  # another process is listing these events
    return int(row.listed)


class Feed:
    """Reads the feed. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def has_event(self, position: int, mark: str) -> bool:
        """Whether the event with `mark` is at `position`. If so, all earlier events exist too.

        A restored backup, or a standby that took over without the last commits, may have no event
        or another event at that position.
        """
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_IS_LISTED, {"position": position, "mark": mark})
        return bool(row.is_listed)

    async def position_before_last(self, count: int) -> int:
        """The position after which the last `count` events come."""
        await list_new_events(self._database)
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_BEFORE_LAST, {"count": count})
        return int(row.position)

    async def page(self, *, after: int, limit: int, owner: str | None) -> list[ListedEvent]:
        """At most `limit` events after the position `after`.

        If `owner` is given, returns only events of payments that `owner` owns. The positions are on
        disk, so no crash of the server changes them.
        """
        await list_new_events(self._database)
        parameters: dict[str, Any] = {"after": after, "limit": limit}
        async with self._database.transaction() as transaction:
            if owner is None:
                rows = await transaction.rows(_PAGE, parameters)
            else:
                rows = await transaction.rows(_OWN_PAGE, {**parameters, "owner": owner})
            if rows and not transaction.is_read_only:
                await transaction.run(_WAIT_FOR_DISK)
        return [_event(row) for row in rows]

    async def end(self) -> FeedPlace:
        """The place after the last event of all that are committed now. It is on disk too."""
        await list_new_events(self._database)
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_LAST)
            if rows and not transaction.is_read_only:
                await transaction.run(_WAIT_FOR_DISK)
        return FeedPlace(rows[0].position, rows[0].mark) if rows else FeedPlace()

    async def page_after(self, place: FeedPlace, *, limit: int) -> list[ListedEvent] | None:
        """At most `limit` events of all owners after `place`, in one query.

        None if the event at `place` does not exist: see `has_event`.
        """
        await list_new_events(self._database)
        known = 0 if place.mark is None else 1
        parameters = {"position": place.position, "limit": limit + known}
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_TAIL, parameters)
            if len(rows) > known and not transaction.is_read_only:
                await transaction.run(_WAIT_FOR_DISK)
        if known and (not rows or (rows[0].position, rows[0].mark) != (place.position, place.mark)):
            return None
        return [_event(row) for row in rows[known:]]


def _event(row: Any) -> ListedEvent:
    return ListedEvent(row.position, row.mark, row.owner, row.payment_id, row.event_body)
