"""The meter of a busy caller always says the same as the sum over the caller's payments."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from domain.adapters.postgres.accepting import ACCEPT
from domain.adapters.postgres.limiting import Ceilings
from domain.adapters.postgres.meters import BUSY_ROWS
from domain.adapters.postgres.payment_columns import accepted_arrays
from domain.errors import LimitExceeded
from domain.policy import LimitName
from domain.stages import Stage
from domain.values import Caller
from tests.integration import metering
from tests.integration.conftest import Store, failure, new_id, success
from tests.integration.metering import (
    a_caller,
    a_phone,
    busy_caller,
    charged,
    failure_in_doubt,
    fill,
    metered,
    used,
    wrong_meters,
)
from tests.stack.databases import connection

_METERS = "SELECT count(*) FROM mkwanja.limit_meters"
_CHANGES = "SELECT count(*) FROM mkwanja.limit_changes"
_MANY = 1_000_000


async def accept_one(store: Store, caller: Caller, amount_kes: int = 1) -> UUID:
    new = charged(caller, per_day=_MANY, amount_kes=amount_kes)
    await store.accept(new)
    return new.id


class TestOpening:
    async def test_only_a_caller_or_phone_with_many_payments_gets_a_meter(
        self, fresh: Store
    ) -> None:
        caller, phone = a_caller(), a_phone()
        await fill(fresh, caller, phone, BUSY_ROWS - 1)
        limits = {"per_day": _MANY, "phone_per_day": _MANY}
        for expected in (0, 0, 2, 2, 2):
            new = charged(caller, phone_number=phone, amount_kes=1, **limits)  # type: ignore[arg-type]
            await fresh.accept(new)
            assert await fresh.one(_METERS) == expected
        assert await metered(fresh, caller) == BUSY_ROWS + 4
        assert await wrong_meters(fresh) == []

    async def test_a_payment_that_missed_the_meter_is_in_its_sum(self, fresh: Store) -> None:
        """Its transaction began before the meter, and ends after three more acceptances."""
        caller = a_caller()
        await fill(fresh, caller, a_phone())
        async with connection(fresh.url) as raw:
            async with raw.transaction():
                await raw.execute(metering.FILL, caller.key, a_phone(), 7)
                for _ in range(3):
                    await accept_one(fresh, caller)
                assert await fresh.one(_METERS) == 1
                assert await metered(fresh, caller) is None
            await accept_one(fresh, caller)
        assert await metered(fresh, caller) == BUSY_ROWS + 1 + 7 + 4
        assert await wrong_meters(fresh) == []

    async def test_a_payment_that_began_while_the_meter_was_inserted_is_in_its_sum(
        self, fresh: Store
    ) -> None:
        """Its transaction has a higher number than the one that inserts the meter."""
        caller = a_caller()
        await fill(fresh, caller, a_phone())
        opener = charged(caller, per_day=_MANY, amount_kes=1)
        parameters = accepted_arrays([(opener, "{}", new_id())])
        parameters |= Ceilings.of_policy([opener]).parameters()
        async with connection(fresh.url) as raw, raw.transaction():
            async with fresh.database.calls() as opening:
                await opening.call(ACCEPT, parameters)
                await raw.execute(metering.FILL, caller.key, a_phone(), 7)
            for _ in range(3):
                await accept_one(fresh, caller)
            assert await metered(fresh, caller) is None
        await accept_one(fresh, caller)
        assert await metered(fresh, caller) == BUSY_ROWS + 1 + 1 + 7 + 4
        assert await wrong_meters(fresh) == []

    async def test_the_limit_is_exact_while_the_meter_is_opened(self, fresh: Store) -> None:
        caller = a_caller()
        await fill(fresh, caller, a_phone())
        for number in range(6):
            limit = BUSY_ROWS + 1 + number
            with pytest.raises(LimitExceeded):
                await fresh.accept(charged(caller, per_day=limit, amount_kes=1))
            await fresh.accept(charged(caller, per_day=limit + 1, amount_kes=1))
        assert await metered(fresh, caller) == BUSY_ROWS + 7

    async def test_a_refused_request_opens_the_meter_too(self, fresh: Store) -> None:
        """A caller above a new limit is not summed again for each of its requests."""
        caller = a_caller()
        await fill(fresh, caller, a_phone())
        for _ in range(3):
            with pytest.raises(LimitExceeded) as refused:
                await fresh.accept(charged(caller, per_day=50, amount_kes=1))
            assert "0 are left" in str(refused.value)
        assert await metered(fresh, caller) == BUSY_ROWS + 1

    async def test_meters_may_be_deleted_at_any_time(self, fresh: Store) -> None:
        caller = await busy_caller(fresh)
        await fresh.execute("DELETE FROM mkwanja.limit_meters")
        before = await used(fresh, LimitName.CALLER_DAY, caller.key)
        for number in range(4):
            with pytest.raises(LimitExceeded):
                await fresh.accept(charged(caller, per_day=before + number, amount_kes=1))
            await fresh.accept(charged(caller, per_day=before + number + 1, amount_kes=1))
        assert await metered(fresh, caller) == before + 4


class TestChanges:
    async def test_a_payment_counts_by_its_meter_as_by_the_sum(self, fresh: Store) -> None:
        """A failure gives back, a correction counts again, and a doubtful failure counts."""
        caller = await busy_caller(fresh)
        start = await metered(fresh, caller)
        assert start is not None
        steps = []
        failed, doubtful, paid = [await accept_one(fresh, caller, 250) for _ in range(3)]
        for payment_id in (failed, doubtful, paid):
            await fresh.claim(payment_id)
        steps.append(await metered(fresh, caller))
        await fresh.change(failure(failed))
        steps.append(await metered(fresh, caller))
        await fresh.change(failure_in_doubt(doubtful))
        await fresh.change(success(paid))
        steps.append(await metered(fresh, caller))
        await fresh.change(success(failed))
        assert (await fresh.payment(failed)).stage is Stage.SUCCEEDED
        steps.append(await metered(fresh, caller))
        assert steps == [start + 750, start + 500, start + 500, start + 750]
        assert await wrong_meters(fresh) == []

    async def test_a_meter_takes_in_its_changes(self, fresh: Store) -> None:
        """The number of changes stays limited, and the amount stays the same."""
        caller = await busy_caller(fresh)
        for _ in range(3 * BUSY_ROWS):
            await accept_one(fresh, caller)
        assert await fresh.one(_CHANGES) <= BUSY_ROWS + 2
        assert await metered(fresh, caller) == 4 * BUSY_ROWS + 4
        assert await wrong_meters(fresh) == []

    async def test_a_replay_and_a_refused_request_add_nothing(
        self, fresh: Store, second_worker: Store
    ) -> None:
        """Both share their commit with payments that are accepted."""
        caller = await busy_caller(fresh)
        start = await metered(fresh, caller)
        assert start is not None
        first = charged(caller, per_day=_MANY, amount_kes=1, key="order-1")
        await fresh.accept(first)
        batch = [
            replace(first, id=new_id())
            if number % 3 == 0
            else charged(caller, per_day=start + 11, amount_kes=1)
            for number in range(60)
        ]
        results = await asyncio.gather(
            *((fresh, second_worker)[n % 2].accept(new) for n, new in enumerate(batch)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, LimitExceeded) for result in results) == 30
        assert await metered(fresh, caller) == start + 11
        assert await wrong_meters(fresh) == []

    async def test_a_payment_of_yesterday_changes_the_meter_of_its_day(self, fresh: Store) -> None:
        caller = await busy_caller(fresh)
        start = await metered(fresh, caller)
        late = await accept_one(fresh, caller, 100)
        await fresh.execute(
            "INSERT INTO mkwanja.limit_meters (day, limit_name, subject, amount, count_after)"
            " SELECT day - 1, limit_name, subject, 0, 0 FROM mkwanja.limit_meters"
        )
        await metering.move_to_yesterday(fresh, late)
        assert await metered(fresh, caller) == start
        assert await wrong_meters(fresh) == []
        await fresh.claim(late)
        await fresh.change(failure(late))
        assert await metered(fresh, caller) == start
        assert await wrong_meters(fresh) == []

    @pytest.mark.usefixtures("impatient")
    async def test_a_frozen_change_of_a_payment_delays_no_acceptance(self, fresh: Store) -> None:
        """A transaction that gives back holds no lock that an acceptance of its caller needs."""
        caller = await busy_caller(fresh)
        given_back = await accept_one(fresh, caller)
        async with connection(fresh.url) as raw, raw.transaction():
            await raw.execute(
                "UPDATE mkwanja.payments SET stage = 'failed', failure_reason = 'expired',"
                " failure_safe_to_retry = true, finalized_at = now() WHERE id = $1",
                given_back,
            )
            for _ in range(2 * BUSY_ROWS):
                await accept_one(fresh, caller)
        assert await wrong_meters(fresh) == []


async def test_the_maintenance_of_meters_removes_some_of_former_days(fresh: Store) -> None:
    """An acceptance removes only a few rows. The meters of today and yesterday stay."""
    for days in (1, 2, 3):
        await fresh.execute(
            "INSERT INTO mkwanja.limit_meters (day, limit_name, subject)"
            f" SELECT ({metering.TODAY}) - $1::int, 'phone.amount_per_day', n::text"
            " FROM generate_series(1, 150) AS n",
            days,
        )
        await fresh.execute(
            "INSERT INTO mkwanja.limit_changes (day, limit_name, subject, amount)"
            f" SELECT ({metering.TODAY}) - $1::int, 'phone.amount_per_day', n::text, 1"
            " FROM generate_series(1, 1500) AS n",
            days,
        )
    caller = a_caller()
    await fill(fresh, caller, a_phone())
    for _ in range(3):
        meters, changes = await fresh.one(_METERS), await fresh.one(_CHANGES)
        await accept_one(fresh, caller)
        assert meters - await fresh.one(_METERS) <= 100
        assert changes - await fresh.one(_CHANGES) <= 1000
    old = f"SELECT count(*) FROM mkwanja.{{}} WHERE day < ({metering.TODAY}) - 1"
    assert await fresh.one(old.format("limit_meters")) == 0
    assert await fresh.one(old.format("limit_changes")) == 0
    kept = f"SELECT count(*) FROM mkwanja.limit_meters WHERE day = ({metering.TODAY}) - 1"
    assert await fresh.one(kept) == 150
