"""Thousands of unpublished events wait, as after a day without Redis and without a reader."""

from __future__ import annotations

from tests.builders import UNPUBLISHED_EVENTS, a_backlog_of
from tests.spec.conftest import a_system
from tests.spec.feed_reader import Reader
from tests.spec.playing import begin

_WAITING = 3_000


async def test_the_service_publishes_a_backlog_of_events_while_payments_go_on() -> None:
    """Every event gets its position in the feed and is published once."""
    async with a_system() as system:
        await system.execute(a_backlog_of(_WAITING))
        payment_ids = [await begin(system, api, "approve") for api in ("stk", "b2c", "b2b")]
        for payment_id in payment_ids:
            assert (await system.settled(payment_id))["status"] == "success"
        await system.eventually(lambda: system.rows(UNPUBLISHED_EVENTS), lambda rows: not rows)
        reader = Reader(system.backend)
        await reader.read()
        assert len(reader.events) == _WAITING + len(payment_ids)
