"""Migrate a database with webhooks from 0020 to 0021 and back."""

from __future__ import annotations

from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from tests.integration.conftest import Store, new_id
from tests.integration.migrating import differences, migrate


async def test_waiting_deliveries_of_deleted_endpoints_end_and_others_wait_on(
    fresh: Store,
) -> None:
    endpoints, endpoint_ids = WebhookEndpoints(fresh.database), [new_id(), new_id()]
    await migrate(fresh.url, "downgrade", "0020")
    for endpoint_id in endpoint_ids:
        await endpoints.create(
            "a caller",
            endpoint_id,
            url="https://shop.invalid/webhooks",
            event_types=None,
            description=None,
            sealed_key=b"\x00key",
        )
        await endpoints.send_test("a caller", endpoint_id)
    gone, waiting = endpoint_ids
    await fresh.execute(
        "UPDATE mkwanja.webhook_endpoints SET deleted_at = now(), status = 'disabled',"
        " status_reason = 'disabled_by_caller' WHERE id = $1",
        gone,
    )
    await migrate(fresh.url)
    assert await differences(fresh.url) == []
    rows = await fresh.rows("SELECT endpoint_id, status FROM mkwanja.webhook_deliveries")
    assert {row["endpoint_id"]: row["status"] for row in rows} == {
        gone: "failed",
        waiting: "pending",
    }
