"""The feed of events: one lister at a time gives positions to committed events, at low cost."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest

from domain.adapters.postgres import feed as feed_module
from domain.adapters.postgres.feed import Feed, ListedEvent
from domain.adapters.postgres.locks import LOCK_FEED
from domain.adapters.postgres.statements import sql
from tests.builders import a_backlog_of
from tests.integration.conftest import Store, failure, new_id, success
from tests.stack.databases import connection

NOW = timedelta(0)


async def page(store: Store, *, after: int = 0, limit: int = 100) -> list[ListedEvent]:
    return await Feed(store.database).page(after=after, limit=limit, owner=None)


async def publish(store: Store) -> None:
    """Publish the next batch, if the publisher of no other store has the turn."""
    publisher = new_id()
    if events := await store.outbox.take_turn(publisher, published_through=None):
        await store.outbox.end_turn(publisher, published_through=events[-1].position)


def ids_of(events: list[ListedEvent]) -> list[str]:
    return [json.loads(event.body)["id"] for event in events]


@asynccontextmanager
async def listers_locked(store: Store) -> AsyncIterator[None]:
    """Hold the listers' lock in another transaction during the block."""
    async with connection(store.url) as raw, raw.transaction():
        await raw.execute(f"SELECT {LOCK_FEED}")
        yield


class TestListing:
    """Events are listed after their commit, by one lister at a time."""

    async def test_a_reader_lists_events_without_a_position(self, fresh: Store) -> None:
        """The events are listed in the order of their changes. A page has the stored bodies."""
        payments = [await fresh.finalized() for _ in range(5)]
        bodies = [(await fresh.history(payment_id))[-1]["event_body"] for payment_id in payments]
        assert await fresh.one("SELECT count(*) FROM mkwanja.events") == 0
        first = await page(fresh, limit=2)
        rest = await page(fresh, after=first[-1].position)
        assert [event.body for event in first + rest] == bodies
        assert [event.position for event in first + rest] == sorted(
            {event.position for event in first + rest}
        )
        assert await page(fresh, after=rest[-1].position) == []

    @pytest.mark.usefixtures("impatient")
    async def test_a_reader_gets_the_listed_events_while_another_process_lists(
        self, fresh: Store
    ) -> None:
        """A later page has the other events. The other process's lock is not an error.

        A page without new events needs no lock, and causes no commit record in PostgreSQL.
        """
        await fresh.finalized()
        listed = await page(fresh)
        async with listers_locked(fresh):
            assert await page(fresh) == listed
            await fresh.finalized()
            assert await page(fresh) == listed
        both = await page(fresh)
        assert (both[:1], len(both)) == (listed, 2)

    async def test_only_a_lister_waits_for_a_lister(self, fresh: Store) -> None:
        """During the lock, a payment is finalized."""
        payment_id, _ = await fresh.claimed()
        async with listers_locked(fresh):
            result = await fresh.change(success(payment_id))
            assert result.announcement is not None
            assert await fresh.sweeping.list_events() == 0
        assert ids_of(await page(fresh)) == [str(result.announcement.history_id)]


class TestCompleteness:
    """A reader misses no event, whatever the order of the commits."""

    async def test_the_sweeper_lists_events_that_no_publisher_and_no_reader_listed(
        self, fresh: Store
    ) -> None:
        payment_id, _ = await fresh.claimed()
        for change in (failure(payment_id), success(payment_id)):
            await fresh.change(change)
        hour = timedelta(hours=1)
        assert not (await fresh.sweeping.plan_sweep(limit=1, overdue_by=hour)).has_unlisted
        assert (await fresh.sweeping.plan_sweep(limit=1, overdue_by=NOW)).has_unlisted
        assert await fresh.sweeping.list_events() == 2
        assert not (await fresh.sweeping.plan_sweep(limit=1, overdue_by=NOW)).has_unlisted
        assert len(await page(fresh)) == 2

    @pytest.mark.parametrize("is_one_statement", [True, False])
    async def test_a_correction_never_comes_before_its_failure(
        self, fresh: Store, is_one_statement: bool
    ) -> None:
        """The correcting transaction began first, so its time is earlier.

        Then it waited for the transaction of the failure.
        """
        payment_id, _ = await fresh.claimed()
        facts = [("failed", 8, "now()"), ("corrected", 9, "now() - interval '1 second'")]
        rows = [
            f"(gen_random_uuid(), '{payment_id}', {sequence}, {at}, 'stored_by_a_test', 'failed',"
            f" '{{}}', 'a.test', '{{\"id\": \"{name}\"}}')"
            for name, sequence, at in facts
        ]
        insert = (
            "INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what,"
            " stage, detail, event_type, event_body) VALUES "
        )
        for values in [", ".join(reversed(rows))] if is_one_statement else rows:
            await fresh.execute(insert + values)
        assert ids_of(await page(fresh)) == ["failed", "corrected"]

    async def test_a_reader_reads_every_event_once_beside_writers_and_publishers(
        self, fresh: Store, second_worker: Store
    ) -> None:
        """Each reader continues from its last position. All readers read the same order."""
        claimed = [(await fresh.claimed())[0] for _ in range(60)]
        is_over = asyncio.Event()

        async def finalize(store: Store, payment_id: UUID) -> None:
            for change in (failure(payment_id), success(payment_id)):
                await store.change(change)
                await publish(store)

        async def read(store: Store, limit: int) -> list[ListedEvent]:
            found: list[ListedEvent] = []
            while True:
                is_last = is_over.is_set()
                more = await page(store, after=found[-1].position if found else 0, limit=limit)
                found += more
                if is_last and not more:
                    return found

        async with Store(fresh.url) as third:
            readers = [
                asyncio.create_task(read(store, limit))
                for store, limit in ((fresh, 5), (third, 1), (second_worker, 100))
            ]
            writers = [fresh, second_worker] * 30
            await asyncio.gather(*map(finalize, writers, claimed))
            is_over.set()
            first, *others = await asyncio.gather(*readers)
        assert others == [first, first]
        stored = "SELECT id FROM mkwanja.payment_history WHERE event_body IS NOT NULL"
        assert sorted(ids_of(first)) == sorted(str(row["id"]) for row in await fresh.rows(stored))
        events = [json.loads(event.body) for event in first]
        for payment_id in claimed:
            types = [event["type"] for event in events if event["subject"] == str(payment_id)]
            assert types == ["mkwanja.payment.failed", "mkwanja.payment.corrected"]


class TestCost:
    """Final payments and old events make a page no slower."""

    @pytest.mark.whole
    async def test_a_backlog_is_listed_batch_by_batch(self, fresh: Store) -> None:
        """A batch costs the same with many unlisted and many unpublished events."""
        await fresh.execute(a_backlog_of(50_000))
        for _ in range(2):
            async with fresh.database.transaction() as transaction:
                await transaction.run(sql("SELECT set_config('statement_timeout', '1s', true)"))
                values = {"lock_timeout": "1s", "limit": 500}
                [row] = await transaction.call(feed_module.LIST_EVENTS, values)
                assert row.listed == 500
        listed = 1000
        while found := await fresh.sweeping.list_events():
            listed += found
        assert listed == await fresh.one("SELECT count(*) FROM mkwanja.events") == 50_000
        assert await fresh.count_unpublished() == 50_000
        times = (
            "SELECT history.recorded_at FROM mkwanja.events AS event"
            " JOIN mkwanja.payment_history AS history ON history.id = event.history_id"
            " ORDER BY event.position"
        )
        pairs = (
            "SELECT recorded_at, lag(recorded_at, 1, recorded_at) OVER () AS earlier"
            f" FROM ({times}) AS ordered"
        )
        assert await fresh.one(f"SELECT bool_and(recorded_at >= earlier) FROM ({pairs}) AS pairs")

    async def test_a_search_for_unlisted_events_is_cheap_if_all_are_listed(
        self, fresh: Store
    ) -> None:
        """No event of the payments is announced yet."""
        await fresh.execute(a_backlog_of(5_000))
        while await fresh.sweeping.list_events():
            pass
        await fresh.execute("VACUUM ANALYZE mkwanja.unlisted_events")
        plan = await fresh.one(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT {feed_module._HAS_UNLISTED}"
        )
        [explained] = json.loads(plan)
        assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 20

    @pytest.mark.parametrize(
        ("query", "index"), [("_PAGE", "event_has_one_position"), ("_OWN_PAGE", "events_by_owner")]
    )
    async def test_a_page_is_found_by_its_index(self, fresh: Store, query: str, index: str) -> None:
        payment_id = await fresh.finalized()
        await fresh.execute(
            "INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what,"
            " stage, detail, event_type, event_body) SELECT gen_random_uuid(), $1, 100 + n, now(),"
            " 'stored_by_a_test', 'succeeded', '{}', 'a.test', '{}'"
            " FROM generate_series(1, 5000) AS n",
            payment_id,
        )
        while await fresh.sweeping.list_events():
            pass
        await fresh.execute("ANALYZE mkwanja.events")
        statement = getattr(feed_module, query)
        values = statement.order({"owner": "me", "after": 4000, "limit": 20})
        plan = await fresh.one(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}", *values)
        [explained] = json.loads(plan)
        assert f'"Index Name": "{index}"' in json.dumps(explained)
        assert (
            explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 200
        )
