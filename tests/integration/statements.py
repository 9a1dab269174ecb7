"""A play of every statement of the product, for tests about connections."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from domain.adapters.postgres.listing import PageQuery
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.attempts import IdKind
from domain.kinds import Kind
from domain.lifecycle.record_callback import raw_callback_change
from domain.stages import Step
from tests.integration.conftest import Store, a_callback, acknowledgement, failure, new_id, success


async def send_every_statement(store: Store) -> None:
    """Send every statement of the product at least once, with one row and with several."""
    reading = PostgresReadingStore(store.database)
    deposits = await asyncio.gather(*(store.claimed() for _ in range(3)))
    ids = frozenset({(IdKind.CHECKOUT_REQUEST, new_id().hex)})
    await store.change(acknowledgement(*deposits[0], ids=ids))
    await asyncio.gather(*(store.change(success(payment_id)) for payment_id, _ in deposits))
    await store.change(raw_callback_change(deposits[0][0], a_callback()))
    await store.change(failure((await store.claimed(Kind.WITHDRAWAL))[0], Kind.WITHDRAWAL))
    payment_id = await store.accepted(Kind.BILL_PAYMENT)
    await store.claiming.find_next_step(payment_id)
    await store.claiming.postpone(payment_id, timedelta(seconds=1))
    await store.accepting.first_answer("no caller", "no key")
    for step in Step:
        await store.sweeping.fetch_due_steps(step, limit=10, next_step_in=timedelta(seconds=60))
    publisher = new_id()
    events = await store.outbox.take_turn(publisher, published_through=None)
    if events:  # else another process has the turn
        await store.outbox.end_turn(publisher, published_through=events[-1].position)
    await reading.payment(payment_id)
    await reading.history(payment_id, after=0, limit=10)
    await reading.page(PageQuery(equal={"kind": "deposit"}, status="pending"))
    assert await reading.is_migrated()
