"""Migrate a used database from 0001 to 0002 and back: due steps and history stay."""

from __future__ import annotations

import pytest

from domain.adapters.postgres.feed import Feed
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import watch_change
from domain.stages import Step
from tests.builders import TIMES
from tests.integration.conftest import Store
from tests.integration.inquiries import (
    an_answer,
    count_due,
    in_doubt,
    make_due,
    record_query_answer,
    store_inquiry,
)
from tests.integration.migrating import (
    a_record_in_use,
    differences,
    migrate,
    steps_on_record,
)

pytestmark = pytest.mark.whole  # a released migration never changes


async def event_bodies(store: Store) -> list[str]:
    page = await Feed(store.database).page(after=0, limit=100, owner=None)
    return sorted(event.body for event in page)


async def test_due_steps_and_events_survive_the_migration(fresh: Store) -> None:
    """The payments have every stage. The downgrade loses no payment."""
    expected = await a_record_in_use(fresh)
    events = await event_bodies(fresh)
    assert len(events) >= 6
    await migrate(fresh.url, "downgrade", "0001")
    next_step = (
        "SELECT count(*) FROM information_schema.columns"
        " WHERE table_schema = 'mkwanja' AND table_name = 'payments' AND column_name = 'next_step'"
    )
    assert await fresh.one(next_step) == 0
    assert await fresh.one("SELECT count(*) FROM mkwanja.payments") == len(expected)
    await migrate(fresh.url)
    assert await steps_on_record(fresh) == expected
    async with Store(fresh.url) as after:
        assert await event_bodies(after) == events
        assert await count_due(after, Step.STATUS) == 3
        assert await count_due(after, Step.WATCH) == 2
    assert await differences(fresh.url) == []


async def test_inquiries_and_ids_without_an_attempt_survive_the_migration(fresh: Store) -> None:
    """The downgrade removes the outcomes of inquiries with their column, but not the inquiries.

    The migration makes `watch` the step of a payment whose id has no attempt. That watch then makes
    the query due.
    """
    answered = await in_doubt(fresh, Kind.DEPOSIT)
    await store_inquiry(fresh, answered)
    await record_query_answer(fresh, answered, 1, an_answer(InquiryOutcome.NO_RESULT))
    without_attempt = await in_doubt(fresh, Kind.DEPOSIT, askable=False)
    await fresh.execute(
        "INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)"
        " VALUES ('checkout_request_id', 'ws_CO_1', $1, NULL, now())",
        without_attempt,
    )
    await migrate(fresh.url, "downgrade", "0001")
    await migrate(fresh.url)
    assert await fresh.one("SELECT count(*) FROM mkwanja.inquiries") == 1
    assert await steps_on_record(fresh) == {answered: Step.QUERY, without_attempt: Step.WATCH}
    await make_due(fresh, without_attempt)
    await fresh.change(watch_change(without_attempt, TIMES))
    assert (await steps_on_record(fresh))[without_attempt] is Step.QUERY
