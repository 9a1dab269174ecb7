"""Supabase's Realtime broadcasts the events of a payment to its owner, if the setting is on.

The schema `realtime` is a stand-in with the functions and the table that Supabase documents.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from domain.adapters.postgres.feed import Feed
from tests.integration.conftest import Store, success
from tests.integration.migrating import hosted_database, migrate
from tests.integration.service_role import as_service, create_service_role
from tests.stack.databases import alembic, connection
from tests.stack.servers import PostgresServer

ANNE, BOB = "5b0c7f0e-2f8d-4a54-9a55-0e3a3a3f6a01", "user_bob"

# Supabase's `send` inserts a row, which its server delivers to those who may read it. `topic` is
# the channel that a client joins.
STAND_IN = """
CREATE SCHEMA realtime;
GRANT USAGE ON SCHEMA realtime TO authenticated;
CREATE TABLE realtime.messages (
    topic text NOT NULL, extension text NOT NULL, payload jsonb, event text, private boolean);
ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON realtime.messages TO authenticated;
CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('realtime.topic', true), '') $$;
CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
    RETURNS void LANGUAGE sql AS $$
    INSERT INTO realtime.messages VALUES (topic, 'broadcast', payload, event, private) $$;
"""
BROKEN_SEND = """
CREATE OR REPLACE FUNCTION realtime.send(
    payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS
    void LANGUAGE plpgsql AS $$ BEGIN RAISE 'Realtime is away'; END $$
"""
RELEASE_ON = {"SUPABASE_REALTIME": "on"}


@dataclass(frozen=True, slots=True)
class Project:
    """A database as Supabase hosts it."""

    store: Store
    admin_url: str

    async def finalize(self, owner: str | None) -> dict[str, Any]:
        """Finalizes a payment of `owner`, lists its event, and returns the event."""
        payment_id = await self.store.accepted(owner=owner)
        assert await self.store.claim(payment_id) is not None
        await self.store.change(success(payment_id))
        await self.store.sweeping.list_events()
        (event,) = await Feed(self.store.database).page(
            after=await self.store.one("SELECT max(position) - 1 FROM mkwanja.events"),
            limit=10,
            owner=owner,
        )
        return dict(json.loads(event.body))

    async def hear(self, user: str, topic: str) -> list[str]:
        """The ids of the events that a signed-in user hears on a channel."""
        async with connection(self.admin_url) as raw, raw.transaction():
            await raw.execute("SELECT set_config('realtime.topic', $1, true)", topic)
            claims = json.dumps({"sub": user, "role": "authenticated"})
            await raw.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
            await raw.execute("SET LOCAL ROLE authenticated")
            # Realtime delivers the messages of the channel's own topic, if the policy permits it.
            rows = await raw.fetch(
                "SELECT payload ->> 'id' AS id FROM realtime.messages WHERE topic = $1", topic
            )
        return [row["id"] for row in rows]

    async def count_messages(self) -> int:
        return int(await self.store.one("SELECT count(*) FROM realtime.messages"))


@pytest.fixture
async def project(postgres: PostgresServer) -> AsyncIterator[Project]:
    """A project whose release has turned broadcasts on."""
    async with hosted_database(postgres) as (url, admin_url), Store(url) as store:
        await store.execute(STAND_IN)
        await migrate(url, **RELEASE_ON)
        yield Project(store, admin_url)


async def test_only_the_owner_hears_the_event_on_the_owners_private_channel(
    project: Project,
) -> None:
    event = await project.finalize(ANNE)
    (message,) = await project.store.rows("SELECT * FROM realtime.messages")
    assert json.loads(message["payload"]) == event
    assert (message["topic"], message["event"]) == (f"payments:{ANNE}", event["type"])
    assert message["private"] is True
    assert await project.hear(ANNE, f"payments:{ANNE}") == [event["id"]]
    assert await project.hear(BOB, f"payments:{ANNE}") == []
    assert await project.hear(BOB, f"payments:{BOB}") == []


async def test_an_event_without_an_owner_is_not_broadcast(project: Project) -> None:
    await project.finalize(None)
    assert await project.count_messages() == 0


async def test_an_event_is_listed_even_if_realtime_refuses_it(project: Project) -> None:
    await project.store.execute(BROKEN_SEND)
    event = await project.finalize(ANNE)
    assert event["type"] == "mkwanja.payment.succeeded"
    assert await project.count_messages() == 0


@pytest.mark.whole
async def test_the_service_role_lists_events_and_needs_no_right_to_realtime(
    postgres: PostgresServer, project: Project
) -> None:
    password = await create_service_role(postgres)
    await migrate(project.store.url, **RELEASE_ON)
    async with Store(as_service(project.store.url, password)) as service:
        event = await Project(service, project.admin_url).finalize(ANNE)
    assert await project.hear(ANNE, f"payments:{ANNE}") == [event["id"]]


@pytest.mark.whole
async def test_broadcasts_end_with_the_setting_and_a_release_may_be_repeated(
    project: Project,
) -> None:
    await migrate(project.store.url, **RELEASE_ON)
    await migrate(project.store.url)
    await project.finalize(ANNE)
    assert await project.count_messages() == 0
    left = "SELECT count(*) FROM pg_policies WHERE schemaname = 'realtime'"
    assert await project.store.one(left) == 0


@pytest.mark.whole
async def test_a_release_without_broadcasts_needs_no_right_to_realtime(project: Project) -> None:
    """On Supabase another role owns the tables of Realtime."""
    await migrate(project.store.url)
    async with connection(project.admin_url) as admin:
        await admin.execute("ALTER TABLE realtime.messages OWNER TO CURRENT_USER")
    await migrate(project.store.url)


@pytest.mark.whole
async def test_a_database_without_realtime_refuses_the_setting(postgres: PostgresServer) -> None:
    url = await postgres.create_database()
    status, output = await alembic("upgrade", "head", url=url, settings=RELEASE_ON)
    assert status != 0
    assert "SUPABASE_REALTIME (the database has no Realtime of Supabase" in output
    await postgres.drop_database(url)
