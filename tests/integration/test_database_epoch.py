"""After a restore or a failover, the web process uses no old cursor or copy of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from jose import jwt

from domain.adapters.postgres import epoch
from domain.adapters.postgres.epoch import EpochReader
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.web import IngressSettings
from gateway.edge.connections import Connections
from gateway.edge.serving import listen
from gateway.ingress import ingress_app
from tests.integration.conftest import Store
from tests.integration.proxy import Proxy
from tests.stack.client import Client
from tests.stack.databases import connection
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import PostgresServer, RedisServer

_SECRET = "only-the-tests-use-this-secret-of-many-characters"
_ISSUER = "https://project.example/auth/v1"
_DEPOSIT = {"amount": 250, "phone_number": "0711000111"}


Ingress = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture
def ingress(redis_of_run: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Ingress:
    """A function that starts a web process on a database. All these processes share one Redis."""
    settings = {"REDIS_URL": redis_of_run.url, "JWT_SECRET": _SECRET, "JWT_ISSUER": _ISSUER}

    @asynccontextmanager
    async def start(url: str) -> AsyncIterator[Client]:
        for name, value in {**settings, "DATABASE_URL": url}.items():
            monkeypatch.setenv(name, value)
        claims = {"iss": _ISSUER, "aud": "authenticated", "sub": "shop", "role": "service_role"}
        expires_at = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
        token = jwt.encode({**claims, "exp": expires_at}, _SECRET, algorithm="HS256")
        port = reserve_port()
        app = ingress_app(read_settings(IngressSettings))
        async with (
            listen(app, port, Connections(), cancels_abandoned=True),
            Client(f"http://127.0.0.1:{port}", token) as client,
        ):
            yield client
        release_port(port)

    return start


async def pay(client: Client, key: str) -> tuple[str, bool]:
    """Return the payment's id, and whether the answer was replayed."""
    answer = (await client.pay("/v1/deposits", _DEPOSIT, key=key)).expect(202)
    return answer.json()["id"], answer.was_replayed


async def cursor(client: Client, **after: str) -> str:
    answer = (await client.get("/v1/events", **after)).expect(200)
    return str(answer.json()["next_cursor"])


async def test_a_restored_backup_replays_no_payment_that_it_does_not_have(
    fresh: Store, postgres: PostgresServer, template: str, ingress: Ingress
) -> None:
    """Redis still has the lost payment's answer. In the restored database, its key is free."""
    backup = await postgres.create_database(template=template)
    key = str(uuid4())
    async with ingress(fresh.url) as before:
        lost, _ = await pay(before, key)
        assert await pay(before, key) == (lost, True)
    async with ingress(backup) as after, connection(backup) as raw:
        payment_id, was_replayed = await pay(after, key)
        assert (payment_id != lost, was_replayed) == (True, False)
        assert await pay(after, key) == (payment_id, True)
        assert str(await raw.fetchval("SELECT id FROM mkwanja.payments")) == payment_id
    await postgres.drop_database(backup)


async def test_a_process_that_outlives_a_restore_replays_no_lost_payment(
    fresh: Store, ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process still remembers the answer. In the restored tables, its key is free."""
    monkeypatch.setattr(epoch, "_FRESH_SECONDS", 0.0)
    key = str(uuid4())
    async with ingress(fresh.url) as client:
        lost, _ = await pay(client, key)
        assert await pay(client, key) == (lost, True)
        await fresh.execute("TRUNCATE mkwanja.idempotency_keys")
        payment_id, was_replayed = await pay(client, key)
        assert (payment_id != lost, was_replayed) == (True, False)


async def test_a_refused_request_gets_no_answer_from_before_a_restore(
    fresh: Store,
    postgres: PostgresServer,
    template: str,
    ingress: Ingress,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Redis has the first answer, but the restored database does not have its payment."""
    backup = await postgres.create_database(template=template)
    key = str(uuid4())
    async with ingress(fresh.url) as before:
        first, _ = await pay(before, key)
    policy = tmp_path / "policy.toml"
    policy.write_text("[payment]\namount_max = 100\n")
    monkeypatch.setenv("POLICY_FILE", str(policy))
    async with ingress(fresh.url) as strict:
        assert await pay(strict, key) == (first, True)
    async with ingress(backup) as after:
        answer = await after.pay("/v1/deposits", _DEPOSIT, key=key)
        assert answer.expect(422).json()["code"] == "limit_exceeded"
    await postgres.drop_database(backup)


async def test_a_cursor_from_before_a_restore_is_refused_and_a_newer_one_is_accepted(
    fresh: Store, postgres: PostgresServer, template: str, ingress: Ingress
) -> None:
    """At the cursor's position, the restored database has no event, or another event."""
    backup = await postgres.create_database(template=template)
    async with ingress(fresh.url) as before:
        start = await cursor(before)
        cursors = []
        for _ in range(3):
            await fresh.finalized()
            cursors.append(await cursor(before))
        assert await cursor(before, after=cursors[0]) == cursors[-1]
    async with ingress(backup) as after, Store(backup) as restored:
        assert await cursor(after, after=start) == start
        for _ in range(2):
            for lost in cursors:
                problem = (await after.get("/v1/events", after=lost)).expect(422).json()
                [fault] = problem["errors"]
                assert (problem["code"], fault["pointer"]) == ("invalid_request", "?after")
                assert "restored" in fault["detail"]
            for _ in range(4):
                await restored.finalized()
            await cursor(after)
        mine = await cursor(after, after=start)
        assert await cursor(after, after=mine) == mine
    await postgres.drop_database(backup)


@pytest.mark.parametrize(
    "restore",
    [
        "TRUNCATE mkwanja.idempotency_keys",
        "DROP TABLE mkwanja.idempotency_keys; CREATE TABLE mkwanja.idempotency_keys (id int)",
        None,
    ],
    ids=["into emptied tables", "with recreated tables", "into another database"],
)
async def test_a_restore_changes_the_epoch_and_nothing_else_does(
    fresh: Store, postgres: PostgresServer, template: str, restore: str | None
) -> None:
    """Payments, events and other processes do not change the epoch."""
    await fresh.accepted()  # a connection is open, so the first read is quick
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
    """A retry is then answered from its copy. A process that has read no epoch uses no copy."""
    now = [0.0]
    epochs = EpochReader(proxied.database, clock=lambda: now[0])
    await proxied.accepted()  # a connection is open, so the first read is quick
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
    await fresh.accepted()  # a connection is open, so the first read is quick
    first = await epochs.current()
    assert first is not None
    await fresh.execute("TRUNCATE mkwanja.idempotency_keys")
    now[0] += 1.9
    assert await epochs.current() == first
    now[0] += 0.2
    assert await epochs.current() != first
