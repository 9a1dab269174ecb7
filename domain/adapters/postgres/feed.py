"""The feed of events, in an order that never changes and that no late commit can slip behind.

A position cannot be given inside the commit that makes a fact: another commit with an earlier one might still be under way,
and a reader would pass it. So positions are given afterwards, to facts that are committed, by one transaction at a time;
whoever reads gives those that are still missing. Nothing that moves money waits for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from domain.adapters.postgres.engine import CONTENDED, Database, Transaction, sqlstate

# Any number that nobody else uses. Held until the commit, so that what is listed next sees what was listed before.
# Not waited for long: announcing can wait, and what it holds up meanwhile may not.
_LOCK = text("SELECT set_config('lock_timeout', '300ms', true), pg_advisory_xact_lock(4711254002)")

# Whoever owes an announcement is in `payments_event_due`, and leaves it only once the event is listed.
_UNLISTED = """
    FROM mkwanja.payments AS payment
    JOIN mkwanja.payment_history AS history ON history.payment_id = payment.id AND history.event_body IS NOT NULL
    WHERE payment.event_due IS NOT NULL
      AND NOT EXISTS (SELECT FROM mkwanja.events AS event WHERE event.history_id = history.id)
"""
_HAS_UNLISTED = text(f"SELECT EXISTS (SELECT {_UNLISTED}) AS has_unlisted")
_LIST = text(f"""
INSERT INTO mkwanja.events (history_id, owner)
SELECT history.id, payment.owner {_UNLISTED} ORDER BY history.recorded_at, history.payment_id, history.sequence
""")

_PAGE = text("""
SELECT event.position, history.event_body
FROM mkwanja.events AS event JOIN mkwanja.payment_history AS history ON history.id = event.history_id
WHERE event.position > :after ORDER BY event.position LIMIT :limit
""")
_OWN_PAGE = text("""
SELECT event.position, history.event_body
FROM mkwanja.events AS event JOIN mkwanja.payment_history AS history ON history.id = event.history_id
WHERE event.owner = :owner AND event.position > :after ORDER BY event.position LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event's body and its position in the feed."""

    position: int
    body: str


async def list_events(transaction: Transaction) -> None:
    """Gives positions to all committed events that have none, in the order of their facts' times."""
    await transaction.run(_LOCK)
    await transaction.run(_LIST)


class Feed:
    """Reads the feed. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, after: int, limit: int, owner: str | None) -> list[ListedEvent]:
        """At most `limit` events behind position `after`: all, or those of payments that `owner` owns."""
        try:
            async with self._database.transaction() as transaction:
                [row] = await transaction.rows(_HAS_UNLISTED)
                if row.has_unlisted:
                    await list_events(transaction)
        except Exception as error:
            if sqlstate(error) not in CONTENDED:
                raise
            # Another lists them just now: what it has committed is read below, the rest with the next page.
        parameters: dict[str, Any] = {"after": after, "limit": limit}
        async with self._database.transaction() as transaction:
            if owner is None:
                rows = await transaction.rows(_PAGE, parameters)
            else:
                rows = await transaction.rows(_OWN_PAGE, {**parameters, "owner": owner})
        return [ListedEvent(row.position, row.event_body) for row in rows]
