"""The feed of events: positions are given to what is committed, by one lister at a time, and cost nothing once given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.adapters.postgres import feed as feed_module
from domain.adapters.postgres.feed import Feed, ListedEvent
from domain.errors import StoreUnavailable
from tests.integration.conftest import Store, failure, success
from tests.stack.databases import connection

NOW = timedelta(0)


async def page(store: Store, *, after: int = 0, limit: int = 100, owner: str | None = None) -> list[ListedEvent]:
    return await Feed(store.database).page(after=after, limit=limit, owner=owner)


async def listed_ids(store: Store) -> list[str]:
    """The ids of all listed events, in order, read past the product."""
    return [str(row["history_id"]) for row in await store.rows("SELECT * FROM mkwanja.events ORDER BY position")]


def ids_of(events: list[ListedEvent]) -> list[str]:
    return [json.loads(event.body)["id"] for event in events]


@asynccontextmanager
async def a_lister_at_work(store: Store) -> AsyncIterator[None]:
    """Somebody holds the listers' lock for the block."""
    async with connection(store.url) as raw, raw.transaction():
        await raw.execute(str(feed_module._LOCK))
        yield


class TestListing:
    """Afterwards, and one after the other."""

    async def test_a_reader_gives_positions_to_what_has_none(self, fresh: Store) -> None:
        """In the order of the facts; a page is the events behind a position, as their bodies were fixed."""
        payments = [await fresh.finalized() for _ in range(5)]
        bodies = [(await fresh.history(payment_id))[-1]["event_body"] for payment_id in payments]
        assert await fresh.one("SELECT count(*) FROM mkwanja.events") == 0
        first = await page(fresh, limit=2)
        rest = await page(fresh, after=first[-1].position)
        assert [event.body for event in first + rest] == bodies
        assert [event.position for event in first + rest] == sorted({event.position for event in first + rest})
        assert await page(fresh, after=rest[-1].position) == []

    async def test_once_listed_an_event_is_not_listed_again(self, fresh: Store) -> None:
        """By any number of readers at once, while they still owe its announcement."""
        for _ in range(20):
            await fresh.finalized()
        async with Store(fresh.url) as second, Store(fresh.url) as third:
            pages = await asyncio.gather(*(page(store) for store in (fresh, second, third) * 4))
        assert all(found == pages[0] for found in pages)
        assert len(await listed_ids(fresh)) == 20

    async def test_with_nothing_to_list_a_page_writes_nothing_and_takes_no_lock(self, fresh: Store) -> None:
        """A reader who polls costs Postgres no commit record."""
        await fresh.finalized()
        found = await page(fresh)
        async with a_lister_at_work(fresh):
            await fresh.execute("UPDATE mkwanja.payments SET event_due = NULL")
            assert await page(fresh) == found

    @pytest.mark.usefixtures("impatient")
    async def test_while_another_lists_a_reader_gets_what_is_listed(self, fresh: Store) -> None:
        """And the rest with a later page: it is not an error that somebody else is at it."""
        await fresh.finalized()
        listed = await page(fresh)
        await fresh.finalized()
        async with a_lister_at_work(fresh):
            assert await page(fresh) == listed
        both = await page(fresh)
        assert (both[:1], len(both)) == (listed, 2)

    @pytest.mark.usefixtures("impatient")
    async def test_nobody_makes_a_payment_final_under_the_listers_lock(self, fresh: Store) -> None:
        """Money does not wait for a reader; only the record of a publication does, and it is made again."""
        payment_id, _ = await fresh.claimed()
        async with a_lister_at_work(fresh):
            result = await fresh.changing.change(success(payment_id))
            assert result.announcement is not None
            with pytest.raises(StoreUnavailable):
                await fresh.sweeping.record_announced(result.announcement)
        assert await fresh.sweeping.unannounced(limit=10, overdue_by=NOW) == [result.announcement]
        await fresh.sweeping.record_announced(result.announcement)
        assert ids_of(await page(fresh)) == [str(result.announcement.history_id)]

    async def test_a_user_reads_the_events_of_payments_that_it_owns(self, fresh: Store) -> None:
        """Positions are those of the one feed."""
        mine, other, nobodys = [await fresh.finalized() for _ in range(3)]
        await fresh.execute("UPDATE mkwanja.payments SET owner = 'me' WHERE id = $1", mine)
        await fresh.execute("UPDATE mkwanja.payments SET owner = 'another' WHERE id = $1", other)
        everything = await page(fresh)
        assert [await page(fresh, owner=owner) for owner in ("me", "another", "none")] == [
            everything[:1],
            everything[1:2],
            [],
        ]
        assert json.loads(everything[2].body)["subject"] == str(nobodys)


class TestNothingIsPassedOver:
    """Whoever commits when."""

    async def test_an_announced_event_has_a_position(self, fresh: Store) -> None:
        """Recording its publication takes the payment out of the index that listers look into: so it lists first."""
        payment_id, _ = await fresh.claimed()
        for change in (failure(payment_id), success(payment_id)):
            result = await fresh.changing.change(change)
            assert result.announcement is not None
            await fresh.sweeping.record_announced(result.announcement)
            assert (await fresh.payment(payment_id)).event_due is None
            assert (await listed_ids(fresh))[-1] == str(result.announcement.history_id)
        assert len(await page(fresh)) == 2

    async def test_a_late_commit_comes_behind_what_was_read(self, fresh: Store) -> None:
        """Its fact is older, its position is not."""
        late_one, _ = await fresh.claimed()
        async with connection(fresh.url) as raw:
            transaction = raw.transaction()
            await transaction.start()
            await raw.execute("SELECT now()")
            await fresh.finalized()
            read = await page(fresh)
            await raw.execute(
                "INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, previous_stage, stage,"
                " detail, event_type, event_body) VALUES (gen_random_uuid(), $1, 9, now(), 'told_by_a_test', 'submitting',"
                " 'submitting', '{}', 'a.test', '{\"id\": \"late\"}')",
                late_one,
            )
            await raw.execute("UPDATE mkwanja.payments SET event_due = now() WHERE id = $1", late_one)
            assert await page(fresh) == read
            await transaction.commit()
        assert ids_of(await page(fresh, after=read[-1].position)) == ["late"]
        by_age = (
            "SELECT sequence FROM mkwanja.payment_history WHERE event_body IS NOT NULL ORDER BY recorded_at LIMIT 1"
        )
        assert await fresh.one(by_age) == 9

    async def test_writers_announcers_and_readers_at_once(self, fresh: Store) -> None:
        """A reader who only ever goes on from its last position has read every event once when all is over."""
        claimed = [(await fresh.claimed())[0] for _ in range(60)]
        is_over = asyncio.Event()
        async with Store(fresh.url) as second, Store(fresh.url) as third:

            async def finalize(store: Store, payment_id: UUID) -> None:
                for change in (failure(payment_id), success(payment_id)):
                    result = await store.changing.change(change)
                    assert result.announcement is not None
                    await store.sweeping.record_announced(result.announcement)

            async def read(store: Store) -> list[ListedEvent]:
                found: list[ListedEvent] = []
                while True:
                    is_last = is_over.is_set()
                    more = await page(store, after=found[-1].position if found else 0, limit=5)
                    found += more
                    if is_last and not more:
                        return found

            readers = [asyncio.create_task(read(store)) for store in (fresh, third)]
            writes: list[Awaitable[Any]] = [
                finalize((fresh, second)[n % 2], payment_id) for n, payment_id in enumerate(claimed)
            ]
            await asyncio.gather(*writes)
            is_over.set()
            first, other = await asyncio.gather(*readers)
        assert first == other
        assert sorted(ids_of(first)) == sorted(
            str(row["id"])
            for row in await fresh.rows("SELECT id FROM mkwanja.payment_history WHERE event_body IS NOT NULL")
        )
        assert len(first) == 120
        for payment_id in claimed:
            types = [json.loads(event.body)["type"] for event in first if str(payment_id) in event.body]
            assert types == ["mkwanja.payment.failed", "mkwanja.payment.corrected"]


class TestCost:
    """Finished payments and old events cost a page nothing."""

    async def test_a_look_for_what_is_unlisted_reads_only_payments_that_owe_an_event(self, fresh: Store) -> None:
        payment_id = await fresh.finalized()
        await page(fresh)
        await fresh.execute("UPDATE mkwanja.payments SET event_due = NULL")
        await fresh.execute(
            "INSERT INTO mkwanja.payments SELECT (jsonb_populate_record(payment, jsonb_build_object('id', gen_random_uuid(),"
            " 'receipt', NULL))).* FROM mkwanja.payments AS payment, generate_series(1, 5000) WHERE id = $1",
            payment_id,
        )
        await fresh.execute("ANALYZE mkwanja.payments")
        plan = await fresh.one(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {feed_module._HAS_UNLISTED}")
        [explained] = json.loads(plan)
        assert '"Index Name": "payments_event_due"' in json.dumps(explained)
        assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 20

    @pytest.mark.parametrize(("look", "index"), [("_PAGE", "event_has_one_position"), ("_OWN_PAGE", "events_by_owner")])
    async def test_a_page_is_found_by_its_index(self, fresh: Store, look: str, index: str) -> None:
        payment_id = await fresh.finalized()
        await fresh.execute(
            "INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what, stage, detail, event_type,"
            " event_body) SELECT gen_random_uuid(), $1, 100 + n, now(), 'told_by_a_test', 'succeeded', '{}', 'a.test', '{}'"
            " FROM generate_series(1, 5000) AS n",
            payment_id,
        )
        await page(fresh)
        await fresh.execute("ANALYZE mkwanja.events")
        sql = (
            str(getattr(feed_module, look)).replace(":owner", "'me'").replace(":after", "4000").replace(":limit", "20")
        )
        [explained] = json.loads(await fresh.one(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"))
        assert f'"Index Name": "{index}"' in json.dumps(explained)
        assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 200
