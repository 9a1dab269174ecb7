"""The rows of webhooks: every event gets one delivery, and one worker at a time has an endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.adapters.postgres.webhook_deliveries import (
    _WAITING_MAX,
    ClaimedDelivery,
    ClaimedEndpoint,
    WebhookDeliveries,
)
from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from domain.adapters.postgres.webhook_health import read_delivery_health
from domain.errors import StoreUnavailable
from domain.webhooks.endpoint import Attempt, AttemptOutcome, DeliveryStatus, EndpointStatus
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


def readable(sealed: bytes, previous: bytes | None) -> list[bytes]:
    return [sealed]


def unreadable(sealed: bytes, previous: bytes | None) -> list[bytes]:
    return []


async def claim(
    deliveries: WebhookDeliveries, endpoint_id: UUID, turn: UUID | None = None
) -> ClaimedEndpoint | None:
    """Claim as a worker that can read the endpoint's key."""
    return await deliveries.claim(endpoint_id, turn or new_id(), limit=8, open_keys=readable)


def a_failure(delivery: ClaimedDelivery, at: datetime) -> Attempt:
    return Attempt(
        number=delivery.attempt,
        attempted_at=at,
        outcome=AttemptOutcome.ERROR_STATUS,
        http_status=500,
        milliseconds=1,
        answer=b"",
    )


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
    claimed = await claim(deliveries, endpoint_id)
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


async def test_a_delivery_stays_failed_if_its_endpoint_is_deleted_while_it_is_sent(
    fresh: Store,
) -> None:
    """The record of the attempt says whether the receiver accepted the message."""
    endpoint_id = await an_endpoint(fresh)
    await an_event(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    [delivery] = claimed.deliveries
    await WebhookEndpoints(fresh.database).delete("a caller", endpoint_id)
    attempt = Attempt(
        number=delivery.attempt,
        attempted_at=claimed.now,
        outcome=AttemptOutcome.DELIVERED,
        http_status=200,
        milliseconds=1,
        answer=b"",
    )
    assert await deliveries.record(endpoint_id, delivery.number, attempt) is None
    assert await fresh.one("SELECT status FROM mkwanja.webhook_deliveries") == "failed"
    assert await fresh.one("SELECT outcome FROM mkwanja.webhook_attempts") == "delivered"


async def test_of_two_workers_that_claim_at_once_one_gets_the_endpoint(fresh: Store) -> None:
    """Each event gets one delivery."""
    endpoint_id = await an_endpoint(fresh)
    for _ in range(3):
        await an_event(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    claims = await asyncio.gather(*(claim(deliveries, endpoint_id) for _ in range(5)))
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
    claimed = await claim(deliveries, endpoint_id, turn)
    assert claimed is not None
    assert claimed.deliveries == []
    assert await positions(fresh) == before
    await fresh.execute(
        "UPDATE mkwanja.webhook_deliveries SET status = 'delivered', next_attempt_at = NULL,"
        " ended_at = now() WHERE number IN (1, 2)"
    )
    claimed = await claim(deliveries, endpoint_id, turn)
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
            await claim(deliveries, endpoint_id)
    assert await fresh.one("SELECT count(*) FROM mkwanja.webhook_deliveries") == 0
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    assert len(claimed.deliveries) == 1


async def test_a_worker_that_cannot_read_the_key_claims_nothing_and_costs_no_retry(
    fresh: Store,
) -> None:
    """The deliveries keep the whole time for their retries, and go out when the key is back."""
    endpoint_id = await an_endpoint(fresh)
    await an_event(fresh)
    deliveries = WebhookDeliveries(fresh.database)
    assert await claim(deliveries, endpoint_id) is not None  # makes a delivery, and sends it
    await fresh.execute(
        "UPDATE mkwanja.webhook_deliveries SET attempts = 0, is_sending = false,"
        " next_attempt_at = now(), retry_until = now() + interval '1 second'"
    )
    await fresh.execute("UPDATE mkwanja.webhook_endpoints SET turn = NULL, turn_ends_at = NULL")
    await an_event(fresh)
    assert await deliveries.find_due() == [endpoint_id]
    assert (await deliveries.claim(endpoint_id, new_id(), limit=8, open_keys=unreadable)) is None
    [waiting] = await fresh.rows(
        "SELECT attempts, is_sending, retry_until > now() + interval '2 days' AS has_time"
        " FROM mkwanja.webhook_deliveries"
    )
    assert waiting == {"attempts": 0, "is_sending": False, "has_time": True}
    # No sweep wakes a worker at once, and the endpoint's turn is free.
    [endpoint] = await fresh.rows(
        "SELECT turn, woken_until > now() + interval '10 seconds' AS waits"
        " FROM mkwanja.webhook_endpoints"
    )
    assert endpoint == {"turn": None, "waits": True}
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    assert [delivery.attempt for delivery in claimed.deliveries] == [1, 1]


async def test_a_delivery_that_is_sent_while_its_endpoint_is_enabled_again_gets_time_for_retries(
    fresh: Store,
) -> None:
    """No second worker sends it at once, because the first may still be sending."""
    endpoint_id = await an_endpoint(fresh)
    await an_event(fresh)
    deliveries, endpoints = WebhookDeliveries(fresh.database), WebhookEndpoints(fresh.database)
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    [delivery] = claimed.deliveries
    await fresh.execute("UPDATE mkwanja.webhook_deliveries SET retry_until = now()")
    read = "SELECT is_sending, next_attempt_at FROM mkwanja.webhook_deliveries"
    [before] = await fresh.rows(read)
    for status in (EndpointStatus.DISABLED, EndpointStatus.ENABLED):
        await endpoints.change("a caller", endpoint_id, {"status": status})
    assert await fresh.rows(read) == [before]
    attempt = a_failure(delivery, claimed.now)
    verdict = await deliveries.record(endpoint_id, delivery.number, attempt)
    assert verdict is not None
    assert verdict.status is DeliveryStatus.PENDING


async def test_an_attempt_that_fails_after_its_endpoint_was_disabled_does_not_count_against_it(
    fresh: Store,
) -> None:
    """An endpoint that is disabled may be down on purpose."""
    endpoint_id = await an_endpoint(fresh)
    await an_event(fresh)
    await an_event(fresh)
    deliveries, endpoints = WebhookDeliveries(fresh.database), WebhookEndpoints(fresh.database)
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    first, second = (
        (delivery.number, a_failure(delivery, claimed.now)) for delivery in claimed.deliveries
    )
    read = "SELECT failing_since FROM mkwanja.webhook_endpoints"
    await deliveries.record(endpoint_id, *first)
    assert await fresh.one(read) is not None
    await endpoints.change("a caller", endpoint_id, {"status": EndpointStatus.DISABLED})
    await deliveries.record(endpoint_id, *second)
    assert await fresh.one(read) is None


async def test_an_attempt_of_a_worker_whose_clock_is_ahead_is_stored_with_the_databases_time(
    fresh: Store,
) -> None:
    """If it had a time in the future, it could not be deleted until then."""
    endpoint_id = await an_endpoint(fresh)
    await WebhookEndpoints(fresh.database).send_test("a caller", endpoint_id)
    deliveries = WebhookDeliveries(fresh.database)
    claimed = await claim(deliveries, endpoint_id)
    assert claimed is not None
    [delivery] = claimed.deliveries
    late = a_failure(delivery, claimed.now + timedelta(days=365))
    await deliveries.record(endpoint_id, delivery.number, late)
    assert await fresh.one(
        "SELECT attempted_at BETWEEN $1 AND now() FROM mkwanja.webhook_attempts", claimed.now
    )
    early = replace(late, number=2, attempted_at=claimed.now - timedelta(seconds=9))
    await deliveries.record(endpoint_id, delivery.number, early)
    stored = "SELECT attempted_at FROM mkwanja.webhook_attempts WHERE number = 2"
    assert await fresh.one(stored) == early.attempted_at


async def test_an_attempt_that_waits_for_a_disabled_endpoint_is_not_overdue(fresh: Store) -> None:
    """It waits until the owner enables the endpoint, and no worker is late."""
    endpoint_id = await an_endpoint(fresh)
    endpoints = WebhookEndpoints(fresh.database)
    await endpoints.send_test("a caller", endpoint_id)
    await fresh.execute(
        "UPDATE mkwanja.webhook_deliveries SET next_attempt_at = now() - interval '1 hour'"
    )
    assert (await read_delivery_health(fresh.database)).overdue_seconds >= 3600
    await endpoints.change("a caller", endpoint_id, {"status": EndpointStatus.DISABLED})
    health = await read_delivery_health(fresh.database)
    assert (health.waiting, health.overdue_seconds) == (1, 0)
