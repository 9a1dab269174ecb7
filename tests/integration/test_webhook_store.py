"""The rows of webhooks: every event gets one delivery, and one worker at a time has an endpoint."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from domain.adapters.postgres.webhook_deliveries import _WAITING_MAX, WebhookDeliveries
from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from domain.errors import StoreUnavailable
from tests.integration.conftest import Store, new_id
from tests.stack.databases import connection


async def an_endpoint(store: Store) -> UUID:
    endpoint = await WebhookEndpoints(store.database).create(
        "a caller",
        new_id(),
        url="https://shop.invalid/webhooks",
        event_types=None,
        description=None,
        sealed_key=b"\x00key",
    )
    return endpoint.id


async def an_event(store: Store) -> None:
    await store.finalized()
    await store.sweeping.list_events()


async def positions(store: Store) -> tuple[Any, Any]:
    """The endpoint's position, and the end of the feed."""
    return (
        await store.one("SELECT position FROM mkwanja.webhook_endpoints"),
        await store.one("SELECT max(position) FROM mkwanja.events"),
    )


async def test_an_endpoint_begins_with_the_events_after_its_creation(fresh: Store) -> None:
    await an_event(fresh)
    endpoint_id = await an_endpoint(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    assert await deliveries.find_due() == []
    await an_event(fresh)
    assert await deliveries.find_due() == [endpoint_id]
    claimed = await deliveries.claim(endpoint_id, new_id(), limit=8)
    assert claimed is not None
    assert [delivery.number for delivery in claimed.deliveries] == [1]


async def test_without_an_enabled_endpoint_the_sweeper_learns_that_there_is_none(
    fresh: Store,
) -> None:
    """Then it looks less often."""
    deliveries = WebhookDeliveries(fresh.database)
    assert await deliveries.find_due() is None
    endpoint_id = await an_endpoint(fresh)
    assert await deliveries.find_due() == []
    await WebhookEndpoints(fresh.database).delete("a caller", endpoint_id)
    assert await deliveries.find_due() is None


async def test_of_two_workers_that_claim_at_once_one_gets_the_endpoint(fresh: Store) -> None:
    """Each event gets one delivery."""
    endpoint_id = await an_endpoint(fresh)
    for _ in range(3):
        await an_event(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    claims = await asyncio.gather(
        *(deliveries.claim(endpoint_id, new_id(), limit=8) for _ in range(5))
    )
    [claimed] = [claim for claim in claims if claim is not None]
    assert len({delivery.event_id for delivery in claimed.deliveries}) == 3
    assert await fresh.one("SELECT count(*) FROM mkwanja.webhook_deliveries") == 3


async def test_later_events_wait_in_the_feed_while_many_deliveries_wait(fresh: Store) -> None:
    """As soon as a delivery ends, the next event gets its delivery. No event is skipped."""
    endpoint_id = await an_endpoint(fresh)
    await fresh.execute(
        "INSERT INTO mkwanja.webhook_deliveries (endpoint_id, number, cause, event_id, event_type,"
        " body, status, next_attempt_at, retry_until, created_at)"
        " SELECT id, number, 'test', gen_random_uuid(), 'mkwanja.test', '{}', 'pending',"
        " now() + interval '1 hour', now() + interval '1 day', now()"
        " FROM mkwanja.webhook_endpoints, generate_series(1, $1::int) AS number",
        _WAITING_MAX,
    )
    await fresh.execute("UPDATE mkwanja.webhook_endpoints SET last_number = $1", _WAITING_MAX)
    for _ in range(2):
        await an_event(fresh)
    deliveries, turn = WebhookDeliveries(fresh.database), new_id()
    before = await positions(fresh)
    claimed = await deliveries.claim(endpoint_id, turn, limit=8)
    assert claimed is not None
    assert claimed.deliveries == []
    assert await positions(fresh) == before
    await fresh.execute(
        "UPDATE mkwanja.webhook_deliveries SET status = 'delivered', next_attempt_at = NULL,"
        " ended_at = now() WHERE number IN (1, 2)"
    )
    claimed = await deliveries.claim(endpoint_id, turn, limit=8)
    assert claimed is not None
    assert len(claimed.deliveries) == 2
    position, end = await positions(fresh)
    assert position == end


async def test_a_claim_that_another_transaction_blocks_writes_nothing_and_may_be_repeated(
    fresh: Store,
) -> None:
    endpoint_id = await an_endpoint(fresh)
    await an_event(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    async with connection(fresh.url) as other, other.transaction():
        await other.execute("SELECT FROM mkwanja.webhook_endpoints FOR UPDATE")
        with pytest.raises(StoreUnavailable):
            await deliveries.claim(endpoint_id, new_id(), limit=8)
    assert await fresh.one("SELECT count(*) FROM mkwanja.webhook_deliveries") == 0
    claimed = await deliveries.claim(endpoint_id, new_id(), limit=8)
    assert claimed is not None
    assert len(claimed.deliveries) == 1
