"""/readyz: its report, and one check a second for any number of requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import read_settings
from gateway.health import Health, SharedCheck
from gateway.resources import Resources
from tests.integration.conftest import PATIENCE_SECONDS, until
from tests.stack.servers import RedisServer

_AT_ONCE = 1000


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """A Redis that the test may stop and fill."""
    async with RedisServer() as own:
        yield own


@pytest.fixture
async def resources(
    database_url: str, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Resources]:
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": server.url,
        "CALLBACK_SECRETS": "Callback-S3cret-1",
    }.items():
        monkeypatch.setenv(name, value)
    own = Resources(read_settings(CallbackSettings), process="callbacks")
    yield own
    await own.close()


@pytest.fixture
async def client(resources: Resources) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    Health(resources).add_routes(app)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    async with TestClient(TestServer(app)) as own:
        yield own


def _counted(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the checks of PostgreSQL and Redis from now on."""
    counts = {"postgres": 0, "redis": 0}
    is_migrated, redis_report = resources.reading.is_migrated, resources.redis_report

    async def look_at_postgres() -> bool:
        counts["postgres"] += 1
        return await is_migrated()

    async def look_at_redis() -> str:
        counts["redis"] += 1
        return await redis_report()

    monkeypatch.setattr(resources.reading, "is_migrated", look_at_postgres)
    monkeypatch.setattr(resources, "redis_report", look_at_redis)
    return counts


async def test_a_thousand_requests_share_the_checks(
    resources: Resources,
    client: TestClient[web.Request, web.Application],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check serves all requests of a second, however long it takes."""
    counts = _counted(resources, monkeypatch)

    async def get_status() -> int:
        async with client.get("/readyz") as answer:
            return answer.status

    statuses = await asyncio.gather(*(get_status() for _ in range(_AT_ONCE)))
    assert set(statuses) == {200}
    assert counts["redis"] == counts["postgres"]
    assert counts["postgres"] < _AT_ONCE / 50  # one for each second, on the slowest machine


async def test_one_check_runs_at_a_time_and_one_a_second() -> None:
    """All requests during a slow check share it. A cancelled request does not cancel it."""
    looks, may_end = 0, asyncio.Event()

    async def look() -> int:
        nonlocal looks
        looks += 1
        await may_end.wait()
        return looks

    shared = SharedCheck(look, fresh_seconds=3600)
    requests = [asyncio.create_task(shared.result()) for _ in range(_AT_ONCE)]
    await asyncio.sleep(0)
    requests[0].cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert set(await asyncio.gather(*requests[1:])) == {1}
    assert {await shared.result() for _ in range(10)} == {1}
    shared._fresh_until = 0  # the second is over
    assert {await shared.result() for _ in range(10)} == {2}


async def _report(client: TestClient[web.Request, web.Application]) -> tuple[int, Any]:
    async with client.get("/readyz") as answer:
        return answer.status, await answer.json()


async def test_a_refusing_redis_is_reported_and_not_required(
    server: RedisServer, client: TestClient[web.Request, web.Application]
) -> None:
    """The report and a metric show the fault, without a secret, until it ends."""
    assert await _report(client) == (
        200,
        {
            "status": "ready",
            "checks": {"postgres": True, "migrated": True, "redis": True},
            "postgres": "ok",
            "redis": "ok",
        },
    )
    async with Redis.from_url(server.url) as admin:
        await admin.config_set("maxmemory", 1)

        async def redis_reports(beginning: str) -> Any:
            status, body = await _report(client)
            assert (status, body["status"]) == (200, "ready")
            return body if body["redis"].startswith(beginning) else None

        body = await until(lambda: redis_reports("refuses: full: "))
        assert body["checks"]["redis"] is False
        async with client.get("/metrics") as answer:
            assert 'mkwanja_redis_fault{kind="full"} 1.0' in await answer.text()
        await admin.config_set("maxmemory", 0)
        await until(lambda: redis_reports("ok"))
        async with client.get("/metrics") as answer:
            assert 'mkwanja_redis_fault{kind="full"} 0.0' in await answer.text()
    await server.stop()
    await until(lambda: redis_reports("away"))
    await server.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await until(lambda: redis_reports("ok"))
