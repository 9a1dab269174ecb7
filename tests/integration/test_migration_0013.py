"""Migrate a used database from 0012 to 0013 and back: no unpublished event is lost."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.integration.conftest import Store, new_id
from tests.integration.migrating import differences, migrate

pytestmark = pytest.mark.whole  # a released migration never changes

_OWED = "SELECT id FROM mkwanja.payments WHERE event_due IS NOT NULL"


async def publish(store: Store, *, limit: int = 100) -> list[UUID]:
    """Publish events as this release does. Return their payments."""
    publisher = new_id()
    events = (await store.outbox.take_turn(publisher, published_through=None))[:limit]
    through = events[-1].position if events else None
    await store.outbox.end_turn(publisher, published_through=through)
    return [event.payment_id for event in events]


async def record_as_before(store: Store, payment_id: UUID) -> None:
    """Record the publication of the payment's event, as a process of the previous release does."""
    await store.execute(
        "INSERT INTO mkwanja.event_publications (history_id, published_at)"
        " SELECT id, now() FROM mkwanja.payment_history"
        " WHERE payment_id = $1 AND event_body IS NOT NULL",
        payment_id,
    )
    await store.update(payment_id, "event_due = NULL")


async def test_the_events_that_the_previous_release_did_not_publish_are_published(
    fresh: Store,
) -> None:
    """The upgrade also repeats events that were listed after the first unpublished event."""
    payments = [await fresh.finalized() for _ in range(4)]
    assert await fresh.sweeping.list_events() == 4
    unlisted = await fresh.finalized()
    await migrate(fresh.url, "downgrade", "0012")
    for published in (payments[0], payments[1], payments[3]):
        await record_as_before(fresh, published)
    await migrate(fresh.url)
    assert await publish(fresh) == [payments[2], payments[3], unlisted]
    assert await fresh.count_unpublished() == 0
    assert await differences(fresh.url) == []


async def test_published_events_are_not_published_again(fresh: Store) -> None:
    payments = [await fresh.finalized() for _ in range(2)]
    await fresh.sweeping.list_events()
    await migrate(fresh.url, "downgrade", "0012")
    for payment_id in payments:
        await record_as_before(fresh, payment_id)
    await migrate(fresh.url)
    assert await publish(fresh) == []
    assert await publish(fresh) == []
    new = await fresh.finalized()
    assert await publish(fresh) == [new]


async def test_a_downgrade_leaves_unpublished_events_to_the_previous_release(fresh: Store) -> None:
    published, listed = [await fresh.finalized() for _ in range(2)]
    assert await publish(fresh, limit=1) == [published]
    unlisted = await fresh.finalized()
    await migrate(fresh.url, "downgrade", "0012")
    owed = {row["id"] for row in await fresh.rows(_OWED)}
    assert owed == {listed, unlisted}
