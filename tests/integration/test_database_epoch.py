"""A database in another life: a restored backup, or a standby that took over.

Cursors and copies of before notice it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

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
    """A backend before an ingress of ours."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def pay(self, key: str) -> tuple[str, bool]:
        """The payment's id, and whether the answer was replayed."""
        async with self._http.post(
            "/v1/deposits", json=_DEPOSIT, headers={"X-Idempotency-Key": key}
        ) as answer:
            assert answer.status == 202
            return (await answer.json())["id"], "Idempotency-Replayed" in answer.headers

    async def events(self, after: str | None = None) -> tuple[int, dict[str, Any]]:
        async with self._http.get("/v1/events", params={"after": after} if after else {}) as answer:
            return answer.status, await answer.json(content_type=None)

    async def cursor(self, after: str | None = None) -> str:
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
    """The copy in Redis is of another life.

    The key is free, since its payment is gone; then it is held as ever.
    """
    backup = await postgres.create_database(template=template)
    key = str(uuid4())
    async with ingress(fresh.url, monkeypatch) as before:
        lost, _ = await before.pay(key)
        assert await before.pay(key) == (lost, True)
    async with ingress(backup, monkeypatch) as after, connection(backup) as raw:
        payment_id, was_replayed = await after.pay(key)
        assert (payment_id != lost, was_replayed) == (True, False)
        assert await after.pay(key) == (payment_id, True)
        assert (
            await raw.fetchval(
                "SELECT count(*) FROM mkwanja.payments WHERE id = $1", UUID(payment_id)
            )
            == 1
        )
    await postgres.drop_database(backup)


@pytest.mark.usefixtures("settled")
async def test_a_cursor_of_another_life_is_refused_and_one_of_this_life_goes_on(
    fresh: Store, postgres: PostgresServer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the restored database has no event at that position, or another."""
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


async def test_an_epoch_lasts_while_the_database_lives(fresh: Store) -> None:
    """Payments, events and other processes change nothing about it."""
    epochs = EpochReader(fresh.database)
    before = await epochs.current()
    await fresh.finalized()
    assert before == await epochs.current() == await EpochReader(fresh.database).current()
    assert before


_RESTORES = {
    "into another database": "",
    "into emptied tables": "TRUNCATE mkwanja.idempotency_keys",
    "with the tables made anew": (
        "DROP TABLE mkwanja.idempotency_keys; CREATE TABLE mkwanja.idempotency_keys (id int)"
    ),
}


@pytest.mark.parametrize("how", _RESTORES)
async def test_a_restore_changes_the_epoch(
    fresh: Store, postgres: PostgresServer, template: str, how: str
) -> None:
    before = await EpochReader(fresh.database).current()
    url = await postgres.create_database(template=template) if not _RESTORES[how] else fresh.url
    if _RESTORES[how]:
        await fresh.execute(_RESTORES[how])
    async with Store(url) as restored:
        assert await EpochReader(restored.database).current() != before
    if url != fresh.url:
        await postgres.drop_database(url)


async def test_while_postgres_is_away_the_last_epoch_is_believed(
    proxy: Proxy, proxied: Store
) -> None:
    """A retry is then answered from its copy, as before.

    A process that has seen no epoch believes no copy.
    """
    now = [0.0]
    epochs = EpochReader(proxied.database, clock=lambda: now[0])
    first = await epochs.current()
    proxy.refuse()
    for _ in range(2):
        now[0] += 60
        assert await epochs.current() == first is not None
    assert await EpochReader(proxied.database).current() is None


async def test_a_process_looks_again_after_two_seconds(fresh: Store) -> None:
    """And not for each request in between."""
    now = [0.0]
    epochs = EpochReader(fresh.database, clock=lambda: now[0])
    first = await epochs.current()
    await fresh.execute("TRUNCATE mkwanja.idempotency_keys")
    now[0] += 1.9
    assert await epochs.current() == first
    now[0] += 0.2
    assert await epochs.current() != first
