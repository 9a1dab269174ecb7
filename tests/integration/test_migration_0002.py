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
    record_query_answer,
    store_inquiry,
)
from tests.integration.migrating import (
    a_record_in_use,
    differences,
    migrate,
    steps_on_record,
)


async def test_due_steps_and_events_survive_the_migration(fresh: Store) -> None:
    """The rows have every kind and stage. A downgrade loses none either."""
    expected = await a_record_in_use(fresh)
    events = [
        event.body for event in await Feed(fresh.database).page(after=0, limit=100, owner=None)
    ]
    assert len(events) >= 6
    await migrate(fresh.url, "downgrade", "0001")
    columns = (
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'mkwanja' AND table_name = $1"
    )
    assert "next_step" not in {row["column_name"] for row in await fresh.rows(columns, "payments")}
    assert await fresh.one("SELECT count(*) FROM mkwanja.payments") == len(expected)
    await migrate(fresh.url, "upgrade", "head")
    assert await steps_on_record(fresh) == expected
    async with Store(fresh.url) as after:
        again = [
            event.body for event in await Feed(after.database).page(after=0, limit=100, owner=None)
        ]
        assert sorted(again) == sorted(events)
        assert await count_due(after, Step.STATUS) == 3
        assert await count_due(after, Step.WATCH) == 2
    assert await differences(fresh.url) == []


@pytest.mark.whole
async def test_a_release_can_be_repeated_after_a_downgrade_with_answered_inquiries(
    fresh: Store,
) -> None:
    """The downgrade removes the outcomes with their column, but not the inquiries."""
    payment_id = await in_doubt(fresh, Kind.DEPOSIT)
    await store_inquiry(fresh, payment_id)
    await record_query_answer(fresh, payment_id, 1, an_answer(InquiryOutcome.NO_RESULT))
    await migrate(fresh.url, "downgrade", "0001")
    await migrate(fresh.url, "upgrade", "head")
    assert await fresh.one("SELECT count(*) FROM mkwanja.inquiries") == 1


async def test_the_first_watch_of_a_migrated_row_finds_an_id_without_an_attempt(
    fresh: Store,
) -> None:
    """The migration makes `watch` the step of such a row, and the watch makes the query due."""
    payment_id = await in_doubt(fresh, Kind.DEPOSIT, askable=False)
    await fresh.execute(
        "INSERT INTO mkwanja.provider_ids (kind, value, payment_id, attempt_id, recorded_at)"
        " VALUES ('checkout_request_id', 'ws_CO_1', $1, NULL, now())", payment_id,
    )  # fmt: skip
    await migrate(fresh.url, "downgrade", "0001")
    await migrate(fresh.url, "upgrade", "head")
    assert await steps_on_record(fresh) == {payment_id: Step.WATCH}
    await fresh.execute(
        "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = $1", payment_id
    )
    await fresh.changing.change(watch_change(payment_id, TIMES))
    assert await steps_on_record(fresh) == {payment_id: Step.QUERY}
