"""A crash of PostgreSQL changes no position of an event that a reader has seen.

A publisher does not wait until the positions that it gives are on disk. A reader does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from domain.adapters.postgres.feed import Feed, ListedEvent
from tests.integration.conftest import Store, new_id
from tests.stack.databases import alembic, connection
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer


@pytest.fixture(scope="module")
async def server(postgres: PostgresServer | GivenPostgres) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL that these tests may kill. By itself, it writes to the disk only after 10 s."""
    if not postgres.can_be_stopped:
        pytest.skip("the tests may not stop the server of DATABASE_URL")
    async with PostgresServer() as own:
        await configure(own, "wal_writer_delay", "10s")
        yield own


@pytest.fixture(scope="module")
async def migrated(server: PostgresServer) -> str:
    """A migrated database on that server, for copies."""
    url = await server.create_database()
    status, output = await alembic("upgrade", "head", url=url)
    assert status == 0, output
    return url


@pytest.fixture
async def store(server: PostgresServer, migrated: str) -> AsyncIterator[Store]:
    """A new database on that server."""
    url = await server.create_database(template=migrated)
    async with Store(url) as own:
        yield own


async def configure(server: PostgresServer, name: str, value: str) -> None:
    async with connection(server.admin_url) as raw:
        await raw.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await raw.execute("SELECT pg_reload_conf()")


async def publish(store: Store) -> list[str]:
    """Publishes all events. Returns their bodies."""
    publisher = new_id()
    events = await store.outbox.take_turn(publisher, published_through=None)
    await store.outbox.end_turn(publisher, published_through=events[-1].position)
    return [event.body for event in events]


async def page(store: Store) -> list[ListedEvent]:
    return await Feed(store.database).page(after=0, limit=100, owner=None)


async def crash(server: PostgresServer) -> None:
    await server.kill()
    await server.start()


async def test_a_crash_loses_no_position_that_a_reader_has_seen(
    server: PostgresServer, store: Store
) -> None:
    await store.finalized()
    await publish(store)
    [event] = await page(store)
    await crash(server)
    assert await Feed(store.database).has_event(event.position, event.mark)
    assert await page(store) == [event]


async def test_a_crash_that_loses_positions_has_the_events_published_again(
    server: PostgresServer, store: Store
) -> None:
    """No reader has seen the positions. The publisher did not wait for the disk."""
    await store.finalized()
    published = await publish(store)
    await crash(server)
    assert await store.count_unpublished() == 1
    assert await publish(store) == published


async def test_a_page_waits_for_a_synchronous_standby(server: PostgresServer, store: Store) -> None:
    """If the primary dies, the standby knows the positions that readers have seen."""
    await store.finalized()
    await publish(store)
    assert len(await page(store)) == 1  # all is on the disk of the primary
    await configure(server, "synchronous_standby_names", "away")
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(page(store), 0.5)
    finally:
        await configure(server, "synchronous_standby_names", "")
    assert len(await page(store)) == 1
