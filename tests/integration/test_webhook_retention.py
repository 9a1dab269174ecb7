"""Deliveries of webhooks are deleted after their retention, with their attempts, and no others."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from domain.adapters.postgres.old_deliveries import (
    BATCH_SIZE,
    delete_old_deliveries,
    end_deliveries,
)
from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from tests.integration.conftest import Store, new_id
from tests.integration.migrating import migrate
from tests.integration.service_role import as_service, create_service_role
from tests.stack.databases import connection
from tests.stack.servers import PostgresServer
from workers import upkeep

_COUNT = "SELECT count(*) FROM mkwanja.webhook_deliveries"
_COUNT_ATTEMPTS = "SELECT count(*) FROM mkwanja.webhook_attempts"


async def an_endpoint(store: Store) -> UUID:
    """An endpoint in a database with the default retention."""
    await store.execute(
        "INSERT INTO mkwanja.retention VALUES ('webhook_deliveries', 3) ON CONFLICT DO NOTHING"
    )
    endpoint = await WebhookEndpoints(store.database).create(
        "a caller",
        new_id(),
        url="https://shop.invalid/webhooks",
        event_types=None,
        description=None,
        sealed_key=b"\x00key",
    )
    return endpoint.id


async def add_deliveries(
    store: Store,
    endpoint_id: UUID,
    *,
    months_ago: int,
    count: int = 1,
    status: str = "delivered",
    attempted_months_ago: int | None = None,
) -> None:
    """Store deliveries with two attempts each. They ended `months_ago`, or are pending.

    The attempts have the time of the end, or `attempted_months_ago`.
    """
    await store.execute(
        "WITH endpoint AS (UPDATE mkwanja.webhook_endpoints SET last_number = last_number + $2"
        " WHERE id = $1 RETURNING last_number - $2 AS before),"
        " added AS (INSERT INTO mkwanja.webhook_deliveries (endpoint_id, number, cause, event_id,"
        " event_type, body, status, attempts, next_attempt_at, retry_until, created_at, ended_at)"
        " SELECT $1, before + nth, 'test', gen_random_uuid(), 'mkwanja.test', '{}', $4, 2,"
        " CASE WHEN $4 = 'pending' THEN now() END, at, at,"
        " CASE WHEN $4 <> 'pending' THEN at END FROM endpoint, generate_series(1, $2) AS nth,"
        " LATERAL (SELECT now() - make_interval(months => $3) AS at) AS moment RETURNING number)"
        " INSERT INTO mkwanja.webhook_attempts SELECT $1, number, nth,"
        " now() - make_interval(months => $5), 'error_status', 500, 7, ''"
        " FROM added, generate_series(1, 2) AS nth",
        endpoint_id,
        count,
        months_ago,
        status,
        months_ago if attempted_months_ago is None else attempted_months_ago,
    )


@pytest.mark.parametrize(
    ("status", "months_ago", "is_kept"),
    [
        ("delivered", 4, False),
        ("failed", 4, False),
        ("delivered", 2, True),
        ("pending", 40, True),
    ],
)
async def test_only_deliveries_that_ended_long_ago_are_deleted(
    fresh: Store, status: str, months_ago: int, is_kept: bool
) -> None:
    """Their attempts are deleted with them."""
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(fresh, endpoint_id, months_ago=months_ago, status=status)
    assert await upkeep.delete_deliveries(fresh.database)
    assert await fresh.one(_COUNT) == int(is_kept)
    assert await fresh.one(_COUNT_ATTEMPTS) == 2 * int(is_kept)


async def test_many_old_deliveries_are_deleted_a_few_hundred_in_a_statement(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_PAUSE_SECONDS", 0)
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(fresh, endpoint_id, months_ago=4, count=2 * BATCH_SIZE + 1)
    assert await delete_old_deliveries(fresh.database) == BATCH_SIZE
    assert await upkeep.delete_deliveries(fresh.database)
    assert await fresh.one(_COUNT) == 0


async def test_an_attempt_with_a_time_in_the_future_stops_the_deletion_of_no_other_delivery(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest deliveries of a worker whose clock was wrong stay, with their attempts."""
    monkeypatch.setattr(upkeep, "_PAUSE_SECONDS", 0)
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(
        fresh, endpoint_id, months_ago=9, count=BATCH_SIZE, attempted_months_ago=-12
    )
    await add_deliveries(fresh, endpoint_id, months_ago=4, count=BATCH_SIZE + 1)
    assert await upkeep.delete_deliveries(fresh.database)
    assert await fresh.one(_COUNT) == BATCH_SIZE
    assert await fresh.one(_COUNT_ATTEMPTS) == 2 * BATCH_SIZE


async def test_without_a_retention_of_three_months_at_least_nothing_is_deleted(
    fresh: Store,
) -> None:
    """The owner may remove the row by hand."""
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(fresh, endpoint_id, months_ago=400)
    with pytest.raises(asyncpg.CheckViolationError):
        await fresh.execute("UPDATE mkwanja.retention SET kept_months = 2")
    await fresh.execute("DELETE FROM mkwanja.retention")
    assert await delete_old_deliveries(fresh.database) == 0


async def test_deliveries_that_wait_end_with_their_endpoint(fresh: Store) -> None:
    """They can never be sent, so their retention begins."""
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(fresh, endpoint_id, months_ago=1, status="pending")
    await WebhookEndpoints(fresh.database).delete("a caller", endpoint_id)
    [row] = await fresh.rows(
        "SELECT status, ended_at > now() - interval '1 hour' AS ended FROM"
        " mkwanja.webhook_deliveries"
    )
    assert row == {"status": "failed", "ended": True}


async def test_deliveries_end_also_if_an_earlier_release_deletes_their_endpoint(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its web process may work on for a while after the upgrade of the database."""
    monkeypatch.setattr(upkeep, "_PAUSE_SECONDS", 0)
    gone, waiting = await an_endpoint(fresh), await an_endpoint(fresh)
    await add_deliveries(fresh, gone, months_ago=1, status="pending", count=2 * BATCH_SIZE + 1)
    await add_deliveries(fresh, gone, months_ago=2)
    await add_deliveries(fresh, waiting, months_ago=1, status="pending")
    await fresh.execute(
        "UPDATE mkwanja.webhook_endpoints SET deleted_at = now() - interval '1 day',"
        " status = 'disabled', status_reason = 'disabled_by_caller' WHERE id = $1",
        gone,
    )
    await fresh.execute("UPDATE mkwanja.webhook_deliveries SET is_sending = true WHERE number = 1")
    assert await end_deliveries(fresh.database) == BATCH_SIZE
    assert await upkeep.end_stranded_deliveries(fresh.database)
    counts = await fresh.rows(
        "SELECT endpoint_id = $1 AS is_gone, delivery.status, count(*),"
        " bool_and(delivery.ended_at = endpoint.deleted_at) AS ended_with_its_endpoint"
        " FROM mkwanja.webhook_deliveries AS delivery"
        " JOIN mkwanja.webhook_endpoints AS endpoint ON endpoint.id = endpoint_id"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        gone,
    )
    assert [tuple(row.values()) for row in counts] == [
        (False, "pending", 1, None),
        (True, "delivered", 1, False),
        (True, "failed", 2 * BATCH_SIZE + 1, True),
    ]


async def test_attempts_of_the_last_months_cannot_be_deleted_even_by_the_owner(
    fresh: Store,
) -> None:
    endpoint_id = await an_endpoint(fresh)
    await add_deliveries(fresh, endpoint_id, months_ago=1)
    async with connection(fresh.url) as raw, raw.transaction():
        await raw.execute("SET LOCAL mkwanja.deletes_old_deliveries = on")
        with pytest.raises(asyncpg.PostgresError, match="is insert-only"):
            await raw.execute("DELETE FROM mkwanja.webhook_attempts")


async def test_the_service_role_deletes_only_what_the_owner_permits(
    fresh: Store, postgres: PostgresServer
) -> None:
    password = await create_service_role(postgres)
    await migrate(fresh.url)  # grants the rights, because the role may be newer than the database
    endpoint_id = await an_endpoint(fresh)
    for months_ago in (4, 2):
        await add_deliveries(fresh, endpoint_id, months_ago=months_ago)
    service_url = as_service(fresh.url, password)
    async with Store(service_url) as service, connection(service_url) as raw:
        assert await upkeep.end_stranded_deliveries(service.database)
        assert await upkeep.delete_deliveries(service.database)
        await raw.execute("SET mkwanja.deletes_old_deliveries = on")
        for deletion in (
            "DELETE FROM mkwanja.webhook_attempts",
            "DELETE FROM mkwanja.webhook_deliveries",
            "DELETE FROM mkwanja.retention",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await raw.execute(deletion)
    assert await fresh.one(_COUNT) == 1
