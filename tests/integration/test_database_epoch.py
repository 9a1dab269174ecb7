"""Old cursors and copies of answers are refused after a restored backup or a failover."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from jose import jwt

from domain.adapters.postgres.epoch import EpochReader
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.web import IngressSettings
from gateway.edge.connections import Connections
from gateway.edge.serving import listen
from gateway.ingress import ingress_app
from tests.integration.conftest import Store
from tests.integration.proxy import Proxy
from tests.stack.databases import connection
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import PostgresServer, RedisServer

_SECRET = "only-the-tests-use-this-secret-of-many-characters"
_ISSUER = "https://project.example/auth/v1"
_DEPOSIT = {"amount": 250, "phone_number": "0711000111"}


class Ingress:
    """A backend's client of one web process of ours."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def pay(self, key: str) -> tuple[str, bool]:
        """Return the payment's id, and whether the answer was replayed."""
        headers = {"X-Idempotency-Key": key}
        async with self._http.post("/v1/deposits", json=_DEPOSIT, headers=headers) as answer:
            assert answer.status == 202
            return (await answer.json())["id"], "Idempotency-Replayed" in answer.headers

    async def events(self, after: str) -> tuple[int, dict[str, Any]]:
        async with self._http.get("/v1/events", params={"after": after} if after else {}) as answer:
            return answer.status, await answer.json(content_type=None)

    async def cursor(self, after: str = "") -> str:
        status, page = await self.events(after)
        assert status == 200, page
        return str(page["next_cursor"])


@pytest.fixture
def settled(redis_of_run: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_of_run.url)
    monkeypatch.setenv("JWT_SECRET", _SECRET)
    monkeypatch.setenv("JWT_ISSUER", _ISSUER)


@asynccontextmanager
async def ingress(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ingress]:
    """An ingress on the database of `url`. All have one Redis."""
    monkeypatch.setenv("DATABASE_URL", url)
    claims = {"iss": _ISSUER, "aud": "authenticated", "sub": "shop", "role": "service_role"}
    expires_at = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
    token = jwt.encode({**claims, "exp": expires_at}, _SECRET, algorithm="HS256")
    port = reserve_port()
    app = ingress_app(read_settings(IngressSettings))
    async with (
        listen(app, port, Connections(), cancels_abandoned=True),
        aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}
        ) as http,
    ):
        yield Ingress(http)
    release_port(port)


@pytest.mark.usefixtures("settled")
async def test_a_restored_backup_replays_no_payment_that_it_does_not_have(
    fresh: Store, postgres: PostgresServer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy in Redis is of the lost payment, so the key is free, and a payment may use it."""
    backup = await postgres.create_database(template=template)
    key = str(uuid4())
    async with ingress(fresh.url, monkeypatch) as before:
        lost, _ = await before.pay(key)
        assert await before.pay(key) == (lost, True)
    async with ingress(backup, monkeypatch) as after, connection(backup) as raw:
        payment_id, was_replayed = await after.pay(key)
        assert (payment_id != lost, was_replayed) == (True, False)
        assert await after.pay(key) == (payment_id, True)
        stored = await raw.fetchval("SELECT id FROM mkwanja.payments")
        assert str(stored) == payment_id
    await postgres.drop_database(backup)


@pytest.mark.usefixtures("settled")
async def test_a_cursor_of_another_life_is_refused_and_one_of_this_life_goes_on(
    fresh: Store, postgres: PostgresServer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored database has no event at that position, or another event."""
    backup = await postgres.create_database(template=template)
    async with ingress(fresh.url, monkeypatch) as before:
        start = await before.cursor()
        cursors = []
        for _ in range(3):
            await fresh.finalized()
            cursors.append(await before.cursor())
        assert await before.cursor(cursors[0]) == cursors[-1]
    async with ingress(backup, monkeypatch) as after, Store(backup) as restored:
        assert await after.events(start) == (200, {"items": [], "next_cursor": start})
        for _ in range(2):
            for cursor in cursors:
                status, problem = await after.events(cursor)
                assert (status, problem["code"]) == (422, "invalid_request")
                [fault] = problem["errors"]
                assert fault["pointer"] == "?after"
                assert "restored" in fault["detail"]
            for _ in range(4):
                await restored.finalized()
            await after.cursor()
        mine = await after.cursor(start)
        assert await after.events(mine) == (200, {"items": [], "next_cursor": mine})
    await postgres.drop_database(backup)


@pytest.mark.parametrize(
    "restore",
    [
        "TRUNCATE mkwanja.idempotency_keys",
        "DROP TABLE mkwanja.idempotency_keys; CREATE TABLE mkwanja.idempotency_keys (id int)",
        None,
    ],
    ids=["into emptied tables", "with the tables made anew", "into another database"],
)
async def test_a_restore_changes_the_epoch_and_nothing_else_does(
    fresh: Store, postgres: PostgresServer, template: str, restore: str | None
) -> None:
    """Payments, events and other processes do not change it."""
    before = await EpochReader(fresh.database).current()
    await fresh.finalized()
    assert await EpochReader(fresh.database).current() == before
    assert before
    url = fresh.url
    if restore is None:
        url = await postgres.create_database(template=template)
    else:
        await fresh.execute(restore)
    async with Store(url) as restored:
        assert await EpochReader(restored.database).current() != before
    if restore is None:
        await postgres.drop_database(url)


async def test_while_postgres_is_away_the_last_epoch_is_believed(
    proxy: Proxy, proxied: Store
) -> None:
    """A retry is then answered from its copy. A process without an epoch believes no copy."""
    now = [0.0]
    epochs = EpochReader(proxied.database, clock=lambda: now[0])
    first = await epochs.current()
    proxy.refuse()
    for _ in range(2):
        now[0] += 60
        assert await epochs.current() == first is not None
    assert await EpochReader(proxied.database).current() is None


async def test_a_process_reads_the_epoch_again_after_two_seconds_and_not_before(
    fresh: Store,
) -> None:
    now = [0.0]
    epochs = EpochReader(fresh.database, clock=lambda: now[0])
    first = await epochs.current()
    await fresh.execute("TRUNCATE mkwanja.idempotency_keys")
    now[0] += 1.9
    assert await epochs.current() == first
    now[0] += 0.2
    assert await epochs.current() != first
