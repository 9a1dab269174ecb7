"""Events are published in order, by one publisher at a time, and cost nothing for each payment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from domain.adapters.postgres import outbox
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import RedisClient
from domain.lifecycle import announce
from domain.lifecycle.announce import Announcer
from tests.builders import a_backlog_of
from tests.integration.conftest import Store, failure, new_id, success
from tests.integration.publishing import (
    Process,
    event_bodies,
    publisher_row,
    receive,
    subscribed,
)
from tests.stack.databases import connection

NOW = timedelta(0)


@pytest.fixture
def process(fresh: Store) -> Process:
    return Process(fresh)


@pytest.fixture
def second(second_worker: Store) -> Process:
    return Process(second_worker)


class TestOrder:
    """Subscribers get the events in the order of the feed."""

    async def test_two_processes_publish_every_event_once_and_in_order(
        self, fresh: Store, second_worker: Store, redis: RedisClient
    ) -> None:
        """Each payment fails in one process, and the other process corrects the failure."""
        announcers = {
            store: Announcer(store.outbox, RedisBell(redis)) for store in (fresh, second_worker)
        }
        payments = [(await fresh.claimed())[0] for _ in range(40)]

        async def finalize(payment_id: UUID, stores: Sequence[Store]) -> None:
            for store, change in zip(stores, (failure, success), strict=True):
                result = await store.change(change(payment_id))
                announcers[store].announce_soon(result)

        async with subscribed(redis) as subscriber:
            pairs = [(fresh, second_worker), (second_worker, fresh)] * 20
            await asyncio.gather(*map(finalize, payments, pairs))
            received = await receive(subscriber, count=80)
            await asyncio.gather(*(announcer.drain() for announcer in announcers.values()))
        assert received == await event_bodies(fresh)
        for payment_id in payments:
            events = [event for event in map(json.loads, received)
                      if event["subject"] == str(payment_id)]  # fmt: skip
            assert [event["type"] for event in events] == [
                "mkwanja.payment.failed",
                "mkwanja.payment.corrected",
            ]
        assert await fresh.count_unpublished() == 0

    async def test_an_event_that_commits_late_is_published(
        self, fresh: Store, process: Process
    ) -> None:
        """Its transaction began before another event was committed and published."""
        early, late = [(await fresh.claimed())[0] for _ in range(2)]
        async with connection(fresh.url) as raw, raw.transaction():
            await raw.execute(
                "INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at, what,"
                " stage, detail, event_type, event_body) VALUES (gen_random_uuid(), $1, 9, now(),"
                " 'stored_by_a_test', 'failed', '{}', 'a.test', 'the late event')",
                late,
            )
            body = await process.finalize(early)
            await process.rest()
            assert process.bell.bodies == [body]
            assert await fresh.count_unpublished() == 0
        await process.publish()
        assert process.bell.bodies == [body, "the late event"]

    async def test_the_lag_is_the_age_of_the_oldest_unpublished_event(
        self, fresh: Store, process: Process
    ) -> None:
        """An event counts before and after it has a position. Without such events the lag is 0."""
        assert await fresh.event_lag_seconds() == 0
        await fresh.finalized()
        newest = await fresh.one("SELECT max(recorded_at) FROM mkwanja.payment_history")
        await fresh.finalized()
        lag_seconds = await fresh.event_lag_seconds()
        now = await fresh.one("SELECT now()")
        assert 0 < lag_seconds <= (now - newest).total_seconds()
        later = await fresh.event_lag_seconds()
        assert later > lag_seconds
        await process.publish()
        assert await fresh.count_unpublished() == 0
        assert await fresh.event_lag_seconds() == 0


class TestTurns:
    """One process at a time publishes. No event waits for a timer."""

    async def test_the_publisher_publishes_the_events_of_other_processes(
        self, fresh: Store, process: Process, second: Process
    ) -> None:
        """While it publishes, another process commits an event, finds the turn taken, and leaves.

        The publisher's next fetch sees the event.
        """
        payments = [(await fresh.claimed())[0] for _ in range(2)]
        process.bell.may_ring.clear()
        bodies = [await process.finalize(payments[0])]
        await process.bell.is_ringing.wait()
        bodies.append(await second.finalize(payments[1]))
        await second.rest()
        assert second.bell.bodies == []
        process.bell.may_ring.set()
        await process.rest()
        assert process.bell.bodies == bodies
        assert await fresh.count_unpublished() == 0

    async def test_a_look_at_a_taken_turn_writes_nothing(
        self, fresh: Store, process: Process, second: Process
    ) -> None:
        await fresh.finalized()
        process.bell.may_ring.clear()
        process.announcer.publish_soon()
        await process.bell.is_ringing.wait()
        row = "SELECT ctid, xmin, xmax, * FROM mkwanja.event_publisher"
        before = await fresh.rows(row)
        await fresh.finalized()
        await second.publish()
        assert await fresh.rows(row) == before
        assert await fresh.one("SELECT count(*) FROM mkwanja.unlisted_events") == 1
        process.bell.may_ring.set()
        await process.rest()

    async def test_an_event_of_this_process_during_a_publication_is_published_after_it(
        self, fresh: Store, process: Process
    ) -> None:
        payments = [(await fresh.claimed())[0] for _ in range(3)]
        bodies = [await process.finalize(payments[0])]
        bodies.append(await process.finalize(payments[1]))
        await process.rest()
        bodies.append(await process.finalize(payments[2]))
        await process.rest()
        assert process.bell.bodies == bodies

    async def test_publishing_writes_nothing_for_each_payment(
        self, fresh: Store, process: Process
    ) -> None:
        """The publisher stores one position for the whole batch."""
        for _ in range(5):
            await fresh.finalized()
        payments = "SELECT ctid, xmin, xmax FROM mkwanja.payments ORDER BY id"
        before = await fresh.rows(payments)
        await process.publish()
        assert process.bell.batches == [5]
        assert await fresh.rows(payments) == before
        assert await fresh.one("SELECT count(*) FROM mkwanja.event_publications") == 0
        row = await publisher_row(fresh)
        assert (row["published_through"], row["publisher"], row["turn_ends_at"]) == (5, None, None)

    async def test_a_backlog_is_published_in_batches_of_limited_size(
        self, fresh: Store, process: Process
    ) -> None:
        await fresh.execute(a_backlog_of(250))
        await process.publish()
        assert process.bell.batches == [100, 100, 50]
        assert [event.position for event in process.bell.rung] == list(range(1, 251))

    async def test_a_process_that_ends_publishes_the_events_of_others_that_left(
        self, fresh: Store, process: Process, second: Process
    ) -> None:
        """Otherwise such an event would wait for a commit of another process, or for a sweeper."""
        bodies = await self._publish_while_another_commits(fresh, process, second)
        assert (process.bell.bodies, second.bell.bodies) == (bodies, [])
        assert await fresh.count_unpublished() == 0

    async def test_a_process_that_ends_gives_its_turn_back_while_events_keep_coming(
        self, fresh: Store, process: Process, second: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next commit of another process publishes them."""
        monkeypatch.setattr(announce, "_DRAIN_SECONDS_MAX", 0.0)
        bodies = await self._publish_while_another_commits(fresh, process, second)
        assert process.bell.bodies == bodies[:1]
        await second.publish()
        assert second.bell.bodies == bodies[1:]
        assert await fresh.count_unpublished() == 0

    @staticmethod
    async def _publish_while_another_commits(
        fresh: Store, process: Process, second: Process
    ) -> list[str]:
        """`process` ends and publishes. `second` commits an event, and finds the turn taken.

        Returns the bodies of both events.
        """
        payments = [(await fresh.claimed())[0] for _ in range(2)]
        process.bell.may_ring.clear()
        await process.announcer.drain()
        bodies = [await process.finalize(payments[0])]
        await process.bell.is_ringing.wait()
        bodies.append(await second.finalize(payments[1]))
        await second.rest()
        process.bell.may_ring.set()
        await process.announcer.drain()
        return bodies


class TestOverdue:
    """The sweeper finds events that no process publishes."""

    async def test_an_event_is_overdue_until_its_publication_is_recorded(
        self, fresh: Store
    ) -> None:
        """The sweeper leaves a new event to the process that stored it."""

        async def is_overdue(overdue_by: timedelta = NOW) -> bool:
            plan = await fresh.sweeping.plan_sweep(limit=1, overdue_by=overdue_by)
            return plan.has_overdue_events

        assert not await is_overdue()
        await fresh.finalized()
        assert await is_overdue()
        assert not await is_overdue(timedelta(minutes=1))
        publisher = new_id()
        [event] = await fresh.outbox.take_turn(publisher, published_through=None)
        assert await is_overdue(), "an event with a position is unpublished"
        await fresh.outbox.end_turn(publisher, published_through=event.position)
        assert not await is_overdue()

    async def test_published_events_cost_a_sweep_and_a_publisher_nothing(
        self, fresh: Store, process: Process
    ) -> None:
        """A search reads some pages of two indexes, however many events are published."""
        await fresh.execute(a_backlog_of(5_000))
        await process.publish()
        await fresh.execute("VACUUM ANALYZE mkwanja.events, mkwanja.unlisted_events")
        for sql in (outbox.FIRST_UNPUBLISHED, f"SELECT {outbox.COUNT_UNPUBLISHED}"):
            plan = await fresh.one(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
            found = json.loads(plan)[0]["Plan"]
            assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 20, plan
