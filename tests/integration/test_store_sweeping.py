"""Sweep: fetch due payments once, in order and without waiting, and find unpublished events."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import UUID

import pytest

from domain.changes import Announcement
from domain.errors import StoreUnavailable
from domain.kinds import Kind
from domain.stages import Stage, Step
from tests.integration.conftest import Store, a_new_payment, failure, locked, success

NOW = timedelta(0)
MINUTE = timedelta(seconds=60)


async def overdue(store: Store, count: int) -> list[UUID]:
    """Create accepted payments that are due. The first payment is due longest."""
    news = [a_new_payment() for _ in range(count)]
    await asyncio.gather(*map(store.accept, news))
    for number, new in enumerate(news):
        seconds = timedelta(seconds=count - number)
        await store.update(new.id, "next_step_at = now() - $2::interval", seconds)
    return [new.id for new in news]


async def fetch_due_ids(store: Store, *, limit: int = 100) -> list[UUID]:
    due = await store.sweeping.fetch_due(Step.SUBMIT, limit=limit, next_step_in=MINUTE)
    return [item.payment_id for item in due]


class TestDue:
    """One statement fetches due payments and moves their due time."""

    async def test_due_payments_are_fetched_in_order_and_are_due_later(self, fresh: Store) -> None:
        """Because its due time moves, a payment without progress cannot starve the others."""
        payments = await overdue(fresh, 6)
        assert await fetch_due_ids(fresh, limit=4) == payments[:4]
        assert await fetch_due_ids(fresh, limit=4) == payments[4:]
        assert await fetch_due_ids(fresh) == []
        is_later = "SELECT bool_and(next_step_at > now() + interval '30 s') FROM mkwanja.payments"
        assert await fresh.one(is_later)

    async def test_a_due_payment_has_its_kind_stage_and_expiry(self, fresh: Store) -> None:
        for is_expired, left in ((False, MINUTE), (True, NOW)):
            payment_id = await fresh.accepted(Kind.BILL_PAYMENT)
            is_due = "next_step_at = now(), expires_at = now() + $2::interval"
            await fresh.update(payment_id, is_due, left)
            (due,) = await fresh.sweeping.fetch_due(Step.SUBMIT, limit=1, next_step_in=MINUTE)
            assert (due.payment_id, due.is_expired) == (payment_id, is_expired)
            assert (due.kind, due.stage) == (Kind.BILL_PAYMENT, Stage.ACCEPTED)

    async def test_sweepers_at_once_fetch_each_payment_once(self, fresh: Store) -> None:
        """Three sweepers fetch small batches."""
        payments = await overdue(fresh, 60)
        async with Store(fresh.url) as second, Store(fresh.url) as third:
            fetched: list[UUID] = []
            while batches := [
                payment_id
                for batch in await asyncio.gather(
                    *(fetch_due_ids(store, limit=7) for store in (fresh, second, third))
                )
                for payment_id in batch
            ]:
                fetched += batches
        assert len(fetched) == len(set(fetched))
        assert set(fetched) == set(payments)

    async def test_a_locked_row_is_skipped(self, fresh: Store) -> None:
        """A later sweep fetches the payment."""
        held, free = await overdue(fresh, 2)
        async with locked(fresh, held):
            assert await fetch_due_ids(fresh) == [free]
        assert await fetch_due_ids(fresh) == [held]

    async def test_final_payments_cost_a_sweep_nothing(self, fresh: Store) -> None:
        """A sweep uses only two partial indexes, and neither contains final payments."""
        payment_id = await fresh.finalized()
        await fresh.execute("UPDATE mkwanja.payments SET event_due = NULL")
        copied = await fresh.one(
            "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
            " WHERE table_schema = 'mkwanja' AND table_name = 'payments'"
            " AND column_name NOT IN ('id', 'receipt')"
        )
        await fresh.execute(
            f"INSERT INTO mkwanja.payments (id, {copied})"  # noqa: S608
            f" SELECT gen_random_uuid(), {copied}"
            " FROM mkwanja.payments, generate_series(1, 5000) WHERE id = $1",
            payment_id,
        )
        await overdue(fresh, 3)
        await fresh.execute("ANALYZE mkwanja.payments")
        for name, condition in (
            (
                "payments_due",
                "next_step = 'submit' AND next_step_at <= now() ORDER BY next_step_at",
            ),
            ("payments_event_due", "event_due <= now() ORDER BY event_due"),
        ):
            sql = f"SELECT id FROM mkwanja.payments WHERE {condition} LIMIT 100"  # noqa: S608
            plan = await fresh.one(f"EXPLAIN (FORMAT JSON) {sql}")
            assert f'"Index Name": "{name}"' in json.dumps(json.loads(plan)), plan
            assert await fresh.one("SELECT reltuples FROM pg_class WHERE relname = $1", name) <= 10


async def fetch_unannounced(store: Store, *, limit: int = 10) -> list[Announcement]:
    return await store.sweeping.fetch_unannounced(limit=limit, overdue_by=NOW)


class TestAnnouncements:
    """An event is published at least once, under one id, until the publication is recorded."""

    async def test_an_event_is_unannounced_until_its_publication_is_recorded(
        self, fresh: Store, second_worker: Store
    ) -> None:
        """The sweeper finds the bytes that the finalizing commit stored.

        The sweeper leaves a new event to the process that stored it. Two sweepers can publish the
        same event.
        """
        payment_id, _ = await fresh.claimed()
        announcement = (await fresh.change(success(payment_id))).announcement
        assert announcement is not None
        assert await fresh.sweeping.fetch_unannounced(limit=10, overdue_by=MINUTE) == []
        for _ in range(2):
            assert await fetch_unannounced(fresh) == [announcement]
        await asyncio.gather(
            *(store.sweeping.record_announced(announcement) for store in [fresh, second_worker] * 2)
        )
        assert await fetch_unannounced(fresh) == []
        assert (await fresh.payment(payment_id)).event_due is None

    async def test_a_payment_stays_unannounced_until_both_its_events_are_recorded(
        self, fresh: Store
    ) -> None:
        """The events are a failure and its correction, recorded in either order."""
        for recorded_first in (0, 1):
            payment_id, _ = await fresh.claimed()
            results = [
                await fresh.change(change) for change in (failure(payment_id), success(payment_id))
            ]
            owed = await fetch_unannounced(fresh)
            assert owed == [result.announcement for result in results]
            first = owed.pop(recorded_first)
            await fresh.sweeping.record_announced(first)
            assert await fetch_unannounced(fresh) == owed
            assert (await fresh.payment(payment_id)).event_due is not None
            await fresh.sweeping.record_announced(owed[0])
            assert (await fresh.payment(payment_id)).event_due is None

    async def test_an_event_stored_while_another_is_recorded_stays_unannounced(
        self, fresh: Store, second_worker: Store
    ) -> None:
        """No event is lost, in either order of the commits."""
        for _ in range(15):
            payment_id, _ = await fresh.claimed()
            failed = (await fresh.change(failure(payment_id))).announcement
            assert failed is not None
            corrected, _ = await asyncio.gather(
                fresh.change(success(payment_id)),
                second_worker.sweeping.record_announced(failed),
            )
            [owed] = await fetch_unannounced(fresh)
            assert owed == corrected.announcement
            await fresh.sweeping.record_announced(owed)

    async def test_payments_without_unannounced_events_do_not_hide_others(
        self, fresh: Store
    ) -> None:
        """The sweeper removes the wrong due times, and finds the payments that are due later."""
        published = [await fresh.finalized() for _ in range(3)]
        for announcement in await fetch_unannounced(fresh):
            await fresh.sweeping.record_announced(announcement)
        waiting = await fresh.finalized()
        for payment_id in published:
            await fresh.update(payment_id, "event_due = now() - interval '1 hour'")
        assert await fetch_unannounced(fresh, limit=3) == []
        (announcement,) = await fetch_unannounced(fresh, limit=3)
        assert announcement.payment_id == waiting

    async def test_a_publication_that_cannot_be_recorded_fails_alone(self, fresh: Store) -> None:
        """One announcement of the batch names an unknown history entry."""
        payments = [await fresh.finalized() for _ in range(4)]
        announcements = await fetch_unannounced(fresh)
        announcements.insert(
            1, Announcement(history_id=payments[0], payment_id=a_new_payment().id, body="{}")
        )
        results = await asyncio.gather(
            *map(fresh.sweeping.record_announced, announcements), return_exceptions=True
        )
        failed = [isinstance(result, Exception) for result in results]
        assert failed == [False, True, False, False, False]
        assert await fetch_unannounced(fresh) == []

    @pytest.mark.usefixtures("impatient")
    async def test_recording_the_publication_of_a_locked_payment_fails_as_unavailable(
        self, fresh: Store
    ) -> None:
        """The announcer expects only this error. The sweeper finds the event without a lock."""
        payment_id = await fresh.finalized()
        async with locked(fresh, payment_id):
            (announcement,) = await fetch_unannounced(fresh)
            with pytest.raises(StoreUnavailable):
                await fresh.sweeping.record_announced(announcement)
        await fresh.sweeping.record_announced(announcement)
