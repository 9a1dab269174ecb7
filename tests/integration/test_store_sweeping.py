"""Sweep: fetch due payments once, in order and without waiting."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from domain.adapters.postgres import sweeping
from domain.kinds import Kind
from domain.stages import Stage, Step
from tests.integration.conftest import Store, a_new_payment, locked, until

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
    due = await store.sweeping.fetch_due_steps(Step.SUBMIT, limit=limit, next_step_in=MINUTE)
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
            (due,) = await fresh.sweeping.fetch_due_steps(Step.SUBMIT, limit=1, next_step_in=MINUTE)
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
        """A sweep reads only payments that have a next step."""
        payment_id = await fresh.finalized()
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
        await fresh.execute("ANALYZE mkwanja.payments, mkwanja.due_steps")
        statement = sweeping._FETCH_DUE
        values = {"step": "submit", "kinds": [*Kind], "limit": 100, "next_step_in": MINUTE}
        plan = await fresh.one(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}", *statement.order(values)
        )
        found = json.loads(plan)[0]["Plan"]
        assert found["Actual Rows"] == 3
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 100, plan
        assert await fresh.one("SELECT count(*) FROM mkwanja.due_steps") == 3


async def test_a_session_whose_client_reads_nothing_is_ended(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process froze while the server sent a large answer, and its transaction is open."""
    monkeypatch.setattr(sweeping, "_STUCK_FOR", NOW)
    names = {"application_name": "mkwanja-frozen"}
    frozen = await asyncpg.connect(fresh.url, server_settings=names)
    try:
        reading = asyncio.create_task(frozen.execute("SELECT repeat('x', 100_000_000)"))
        await asyncio.sleep(0)
        frozen._transport.pause_reading()
        assert await until(fresh.sweeping.end_stuck_sessions) == 1
        frozen._transport.resume_reading()
        with pytest.raises(Exception, match=r"terminating connection|closed"):
            await reading
    finally:
        frozen.terminate()
