"""Migrate a used database from 0013 to 0014 and back, also beside processes of 0013."""

from __future__ import annotations

import asyncio

import pytest

from domain.policy import LimitName
from tests.integration.conftest import Store, failure
from tests.integration.metering import (
    a_caller,
    a_phone,
    charged,
    fill,
    metered,
    used,
    wrong_meters,
)
from tests.integration.migrating import differences, migrate
from tests.stack.databases import connection

pytestmark = pytest.mark.whole  # a released migration never changes

_MANY = 1_000_000


async def test_a_limit_counts_payments_from_before_the_upgrade(fresh: Store) -> None:
    """Processes of the previous release write payments before, during and after the upgrade."""
    caller = a_caller()
    await migrate(fresh.url, "downgrade", "0013")
    await fill(fresh, caller, a_phone())
    async with connection(fresh.url) as raw:
        async with raw.transaction():
            await raw.execute("SELECT FROM mkwanja.payments LIMIT 1 FOR UPDATE")
            await fill(fresh, caller, a_phone(), 5)
            upgrade = asyncio.create_task(migrate(fresh.url))
            await asyncio.sleep(0.1)
        await upgrade
    assert await differences(fresh.url) == []
    given_back = charged(caller, per_day=_MANY)
    await fresh.accept(given_back)
    for _ in range(3):
        await fill(fresh, caller, a_phone(), 3)
        await fresh.accept(charged(caller, per_day=_MANY))
    await fresh.claim(given_back.id)
    await fresh.change(failure(given_back.id))
    assert await metered(fresh, caller) == await used(fresh, LimitName.CALLER_DAY, caller.key)
    assert await wrong_meters(fresh) == []


async def test_a_downgrade_removes_the_meters_and_a_second_upgrade_opens_new_ones(
    fresh: Store,
) -> None:
    caller = a_caller()
    await fill(fresh, caller, a_phone())
    for _ in range(3):
        await fresh.accept(charged(caller, per_day=_MANY))
    await migrate(fresh.url, "downgrade", "0013")
    await fill(fresh, caller, a_phone(), 7)
    await migrate(fresh.url)
    assert await metered(fresh, caller) is None
    for _ in range(3):
        await fresh.accept(charged(caller, per_day=_MANY))
    assert await metered(fresh, caller) == await used(fresh, LimitName.CALLER_DAY, caller.key)
