"""A publisher dies, freezes, or cannot reach Redis. No event is lost, and none changes."""

from __future__ import annotations

import pytest

from domain.adapters.postgres.locks import LOCK_FEED
from domain.errors import QueueUnavailable, StoreUnavailable
from domain.lifecycle import announce
from tests.integration.conftest import Store, new_id
from tests.integration.publishing import Process, end_every_turn, published_through, publisher_row
from tests.stack.databases import connection


@pytest.fixture
def process(fresh: Store) -> Process:
    return Process(fresh)


@pytest.fixture
def second(second_worker: Store) -> Process:
    return Process(second_worker)


class TestFailures:
    """A process dies, freezes, or cannot reach Redis. No event is lost, and none changes."""

    async def test_a_publisher_killed_before_it_records_its_batch_has_it_published_again(
        self, fresh: Store, process: Process
    ) -> None:
        """Another process waits for the end of the turn. It publishes the same bytes."""
        for _ in range(3):
            await fresh.finalized()
        published = await fresh.outbox.take_turn(new_id(), published_through=None)
        assert len(published) == 3
        await process.publish()
        assert process.bell.rung == []
        await end_every_turn(fresh)
        await process.publish()
        assert process.bell.rung == published
        assert await fresh.count_unpublished() == 0

    async def test_a_publisher_that_lost_its_turn_moves_no_position(
        self, fresh: Store, second_worker: Store
    ) -> None:
        """It was frozen after its publication. Another publisher has the turn, or had it.

        The frozen process reports a position that is lower than the recorded one, or one that the
        other publisher did not publish.
        """
        frozen, other = new_id(), new_id()
        for _ in range(3):
            await fresh.finalized()
        first = await fresh.outbox.take_turn(frozen, published_through=None)
        await end_every_turn(fresh)
        assert await second_worker.outbox.take_turn(other, published_through=None) == first
        report = first[-1].position
        assert await fresh.outbox.take_turn(frozen, published_through=report) == []
        assert await published_through(fresh) == 0
        await second_worker.outbox.end_turn(other, published_through=None)  # Redis was away
        assert await fresh.outbox.take_turn(frozen, published_through=report) == first
        await fresh.outbox.end_turn(frozen, published_through=report)
        assert await published_through(fresh) == report
        await fresh.finalized()
        [last] = await second_worker.outbox.take_turn(other, published_through=None)
        await second_worker.outbox.end_turn(other, published_through=last.position)
        await fresh.outbox.end_turn(frozen, published_through=report)
        assert await published_through(fresh) == last.position
        await fresh.finalized()
        await fresh.outbox.take_turn(other, published_through=None)
        await fresh.outbox.end_turn(other, published_through=report)
        assert await published_through(fresh) == last.position

    async def test_a_publisher_without_a_successor_may_report_late(
        self, fresh: Store, process: Process
    ) -> None:
        """Its turn is over, but no other process took the turn."""
        process.bell.may_ring.clear()
        await fresh.finalized()
        process.announcer.publish_soon()
        await process.bell.is_ringing.wait()
        await end_every_turn(fresh)
        process.bell.may_ring.set()
        await process.rest()
        assert len(process.bell.rung) == 1
        assert await fresh.count_unpublished() == 0

    @pytest.mark.parametrize("error", [QueueUnavailable(), RuntimeError("a bug")])
    async def test_without_redis_the_events_wait_in_order_and_the_turn_is_free(
        self,
        fresh: Store,
        process: Process,
        second: Process,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The process that failed leaves its next events to others for a moment."""
        monkeypatch.setattr(announce, "_REST_SECONDS", 60)
        process.bell.error = error
        payments = [(await fresh.claimed())[0] for _ in range(3)]
        bodies = [await process.finalize(payments[0])]
        await process.rest()
        row = await publisher_row(fresh)
        assert (row["published_through"], row["publisher"]) == (0, None)
        process.bell.error = None
        bodies.append(await process.finalize(payments[1]))
        assert process.announcer._task is None
        bodies.append(await second.finalize(payments[2]))
        await second.rest()
        assert (process.bell.bodies, second.bell.bodies) == ([], bodies)

    async def test_a_publication_that_takes_too_long_fails(
        self, fresh: Store, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends before the turn ends, so that two processes do not publish at once."""
        monkeypatch.setattr(announce, "_PUBLISH_SECONDS_MAX", 0.01)
        process.bell.may_ring.clear()
        await fresh.finalized()
        await process.publish()
        assert process.bell.rung == []
        row = await publisher_row(fresh)
        assert (row["published_through"], row["publisher"]) == (0, None)

    @pytest.mark.usefixtures("impatient")
    async def test_a_locked_feed_is_unavailable(self, fresh: Store) -> None:
        """A frozen process may hold the lock for some seconds. The sweeper tries again."""
        await fresh.finalized()
        async with connection(fresh.url) as raw, raw.transaction():
            await raw.execute(f"SELECT {LOCK_FEED}")
            with pytest.raises(StoreUnavailable):
                await fresh.outbox.take_turn(new_id(), published_through=None)
