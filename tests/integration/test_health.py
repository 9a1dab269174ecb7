"""/readyz reports the checks of PostgreSQL and Redis, which run at most once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import read_settings
from gateway.health import Health, SharedCheck
from gateway.resources import Resources
from tests.integration.conftest import until
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
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("CALLBACK_SECRETS", "Callback-S3cret-1")
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


async def test_a_thousand_requests_share_the_checks(
    resources: Resources,
    client: TestClient[web.Request, web.Application],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One check serves all requests that arrive while it runs and in the second after it."""
    postgres = AsyncMock(wraps=resources.reading.is_migrated)
    redis = AsyncMock(wraps=resources.redis_report)
    monkeypatch.setattr(resources.reading, "is_migrated", postgres)
    monkeypatch.setattr(resources, "redis_report", redis)
    answers = await asyncio.gather(*(client.get("/readyz") for _ in range(_AT_ONCE)))
    assert {answer.status for answer in answers} == {200}
    assert redis.await_count == postgres.await_count
    assert postgres.await_count < _AT_ONCE / 50  # one for each second, even on a slow machine


async def test_one_check_runs_at_a_time_and_one_a_second() -> None:
    """All requests during a slow check share the check. A cancelled request does not cancel it."""
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
    """The report and a metric show the fault until it ends."""
    checks = {"postgres": True, "migrated": True, "redis": True}
    ready = {"status": "ready", "checks": checks, "postgres": "ok", "redis": "ok"}
    assert await _report(client) == (200, ready)

    async def redis_reports(beginning: str) -> Any:
        status, body = await _report(client)
        assert (status, body["status"]) == (200, "ready")
        return body if body["redis"].startswith(beginning) else None

    async def shows_fault(value: str) -> bool:
        async with client.get("/metrics") as answer:
            return f'mkwanja_redis_fault{{kind="full"}} {value}' in await answer.text()

    async with Redis.from_url(server.url) as admin:
        await admin.config_set("maxmemory", 1)
        body = await until(lambda: redis_reports("refuses: full: "))
        assert body["checks"]["redis"] is False
        assert await shows_fault("1.0")
        await admin.config_set("maxmemory", 0)
        await until(lambda: redis_reports("ok"))
        assert await shows_fault("0.0")
    await server.stop()
    await until(lambda: redis_reports("away"))
    await server.start()
    await until(lambda: redis_reports("ok"))
