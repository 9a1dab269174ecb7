"""Migrate a used database from 0019 to 0020 and back, while another transaction has a payment."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.integration.conftest import Store
from tests.integration.migrating import differences, migrate
from tests.stack.databases import connection


@pytest.mark.parametrize(
    ("direction", "revision", "constraint"),
    [
        ("downgrade", "0019", "nothing_waits_for_nobody"),
        ("upgrade", "head", "open_payment_has_a_due_time"),
    ],
    ids=["down", "up"],
)
async def test_the_constraint_is_renamed_and_holds(
    fresh: Store, direction: str, revision: str, constraint: str
) -> None:
    """The migration waits for the other transaction, and finds its change."""
    payment_id = await fresh.accepted()
    if direction == "upgrade":
        await migrate(fresh.url, "downgrade", "0019")
    async with connection(fresh.url) as raw:
        async with raw.transaction():
            await raw.execute("UPDATE mkwanja.payments SET next_step_at = next_step_at")
            migration = asyncio.create_task(migrate(fresh.url, direction, revision))
            await asyncio.sleep(0.1)
        await migration
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await fresh.execute(
            "UPDATE mkwanja.payments SET next_step = NULL, next_step_at = NULL WHERE id = $1",
            payment_id,
        )
    assert caught.value.constraint_name == constraint
    await migrate(fresh.url)
    assert await differences(fresh.url) == []
