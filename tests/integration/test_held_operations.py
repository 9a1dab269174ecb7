"""Daraja's answers hold and release an operation, and one payment probes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from domain.adapters.postgres.brakes import Brakes
from domain.errors import (
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.stages import Stage
from domain.times import OPERATION_COOL_DOWN_MAX
from tests.integration.conftest import Store, new_id
from tests.integration.held import (
    B2C,
    brake_changes,
    brake_row,
    end_cool_down,
    hold,
    is_engaged,
    record_answer,
)
from tests.integration.scripted import charge_limit

SETTINGS = Refused(Failure(FailureReason.CONFIGURATION, True, "400.002.02"))
RECIPIENT = Refused(Failure(FailureReason.INVALID_RECIPIENT, True, "400.002.02"))


async def send(store: Store, error: ProviderError | None, kind: Kind = Kind.WITHDRAWAL) -> None:
    """Claim a payment, and record Daraja's answer to it."""
    await record_answer(store, await store.claimed(kind), error)


# --- the hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
async def test_a_refused_product_holds_only_its_operation_and_for_all_workers(
    fresh: Store, second_worker: Store, kind: Kind
) -> None:
    waiting = {each: await fresh.accepted(each) for each in Kind}
    await hold(fresh, kind)
    won = {each: await second_worker.claim(waiting[each]) for each in Kind}
    assert {each for each, payment in won.items() if payment is None} == {kind}
    found = await second_worker.claiming.find_next_step(waiting[kind])
    assert found is not None
    assert found.is_held
    assert await brake_changes(fresh) == [(RULES[kind].operation.value, True)]


@pytest.mark.parametrize("obstacle", ["operation held", "payouts are stopped", "it needs review"])
async def test_a_payment_that_may_not_be_claimed_is_not_charged_to_the_shared_limit(
    fresh: Store, obstacle: str
) -> None:
    """Workers try each waiting payment every few seconds. These tries must not use up the limit."""
    payment_id = await fresh.accepted(Kind.WITHDRAWAL)
    if obstacle == "operation held":
        await hold(fresh)
    elif obstacle == "payouts are stopped":
        await Brakes(fresh.database).set("kill_switch", is_engaged=True, reason="a test")
    else:
        await fresh.execute("UPDATE mkwanja.payments SET needs_review = true")
    assert await charge_limit(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await charge_limit(fresh, await fresh.accepted(Kind.DEPOSIT)) == [Kind.DEPOSIT]


async def test_three_refusals_of_our_settings_in_a_row_hold_the_operation(
    fresh: Store, second_worker: Store
) -> None:
    """The count includes all workers. A refusal that is recorded twice counts once."""
    for number, store in enumerate([fresh, second_worker, fresh]):
        assert (await brake_row(fresh))["refusals"] == number
        sent = await fresh.claimed(Kind.WITHDRAWAL)
        for _ in range(2):
            await record_answer(store, sent, SETTINGS)
    assert await is_engaged(fresh)
    assert "3 times" in (await brake_row(fresh))["reason"]
    assert await fresh.claim(await fresh.accepted(Kind.WITHDRAWAL)) is None


async def test_three_refusals_of_our_settings_at_once_hold_the_operation(fresh: Store) -> None:
    sent = [await fresh.claimed(Kind.WITHDRAWAL) for _ in range(3)]
    await asyncio.gather(*(record_answer(fresh, item, SETTINGS) for item in sent))
    assert await is_engaged(fresh)


@pytest.mark.parametrize(
    ("kind", "error", "refusals"),
    [
        pytest.param(
            Kind.WITHDRAWAL, RECIPIENT, 1, id="a proof that the operation works resets the count"
        ),
        pytest.param(
            Kind.WITHDRAWAL, Unreachable(), 3, id="an answer without evidence does not reset it"
        ),
        pytest.param(Kind.BILL_PAYMENT, SETTINGS, 3, id="another operation has its own count"),
    ],
)
async def test_only_refusals_of_one_operation_without_a_proof_between_them_are_counted(
    fresh: Store, kind: Kind, error: ProviderError, refusals: int
) -> None:
    await send(fresh, SETTINGS)
    await send(fresh, SETTINGS)
    await send(fresh, error, kind)
    assert await brake_changes(fresh) == []
    await send(fresh, SETTINGS)
    assert await is_engaged(fresh) is (refusals == 3)
    assert (await brake_row(fresh))["refusals"] == refusals % 3


# --- the probe ------------------------------------------------------------------------------------


async def test_one_waiting_payment_is_claimed_after_the_cool_down(
    fresh: Store, second_worker: Store
) -> None:
    """If the probe gets no answer, the next cool-down ends with another probe."""
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(20)]
    await hold(fresh)
    for _ in range(3):
        await end_cool_down(fresh)
        stores = [fresh, second_worker] * 10
        won = await asyncio.gather(
            *(store.claim(payment_id) for store, payment_id in zip(stores, waiting, strict=True))
        )
        [probe] = [payment for payment in won if payment is not None]
        assert probe.is_probe
        assert await is_engaged(fresh)
        assert not any([await fresh.claim(payment_id) for payment_id in waiting])
    assert await fresh.one("SELECT count(*) FROM mkwanja.attempts") == 4


async def test_payments_of_other_operations_are_claimed_and_are_no_probes(
    fresh: Store,
) -> None:
    waiting = [await fresh.accepted(kind) for kind in Kind]
    await hold(fresh)
    await end_cool_down(fresh)
    won = await asyncio.gather(*(fresh.claim(payment_id) for payment_id in waiting))
    assert {payment.kind: payment.is_probe for payment in won if payment} == {
        kind: kind is Kind.WITHDRAWAL for kind in Kind
    }


async def test_each_probe_begins_a_cool_down_twice_as_long_up_to_its_ceiling(fresh: Store) -> None:
    await hold(fresh)
    assert (await brake_row(fresh))["cool_down"] == timedelta(seconds=30)
    for seconds in (60, 120, 240, 480, *[OPERATION_COOL_DOWN_MAX.total_seconds()] * 2):
        await end_cool_down(fresh)
        await send(fresh, ProductRefused())
        found = await brake_row(fresh)
        assert found["cool_down"].total_seconds() == seconds
        assert found["probe_at"] - found["probed_at"] == found["cool_down"]
    assert await brake_changes(fresh) == [("b2c", True)]


@pytest.mark.parametrize(
    "obstacle",
    ["is_engaged = true, reason = 'test'", "needs_review = true", "expires_at = now()"],
    ids=["payouts are stopped", "it needs review", "it is too old"],
)
async def test_a_payment_that_may_not_be_claimed_is_no_probe(fresh: Store, obstacle: str) -> None:
    payment_id = await fresh.accepted(Kind.WITHDRAWAL)
    await hold(fresh)
    await end_cool_down(fresh)
    is_brake = "is_engaged" in obstacle
    table = "mkwanja.brakes" if is_brake else "mkwanja.payments"
    condition = "name = 'kill_switch'" if is_brake else "true"
    await fresh.execute(f"UPDATE {table} SET {obstacle} WHERE {condition}")  # noqa: S608
    assert await fresh.claim(payment_id) is None
    assert (await brake_row(fresh))["probes"] == 0


async def test_a_proof_that_the_operation_works_releases_it_in_its_commit(fresh: Store) -> None:
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(5)]
    await hold(fresh)
    await end_cool_down(fresh)
    await send(fresh, RECIPIENT)
    assert not await is_engaged(fresh)
    won = await asyncio.gather(*(fresh.claim(payment_id) for payment_id in waiting))
    assert all(payment is not None and not payment.is_probe for payment in won)
    assert await brake_changes(fresh) == [("b2c", True), ("b2c", False)]


@pytest.mark.parametrize(
    "error", [OutcomeUnknown(), SETTINGS], ids=["no evidence", "another refusal"]
)
async def test_a_probe_that_proves_nothing_leaves_the_operation_held(
    fresh: Store, error: ProviderError
) -> None:
    await hold(fresh)
    await end_cool_down(fresh)
    await send(fresh, error)
    assert await brake_changes(fresh) == [("b2c", True)]


async def test_answers_to_sends_before_the_last_change_change_nothing(fresh: Store) -> None:
    """An old proof does not release a new hold. An old refusal does not cause a new hold."""
    earlier = [await fresh.claimed(Kind.WITHDRAWAL) for _ in range(5)]
    await hold(fresh)
    await record_answer(fresh, earlier.pop(), None)
    assert await is_engaged(fresh)
    await Brakes(fresh.database).set(B2C.value, is_engaged=False, reason="the product was added")
    for sent, error in zip(earlier, [ProductRefused(), SETTINGS, SETTINGS, SETTINGS], strict=True):
        await record_answer(fresh, sent, error)
    assert await brake_changes(fresh) == [("b2c", True), ("b2c", False)]


async def test_an_operator_releases_all_waiting_payments(fresh: Store) -> None:
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(3)]
    await hold(fresh)
    [before] = [item for item in await Brakes(fresh.database).operations() if item.brake.is_engaged]
    assert (before.brake.name, before.waiting) == ("b2c", 4)
    await Brakes(fresh.database).set(B2C.value, is_engaged=False, reason="the product was added")
    assert all([await fresh.claim(payment_id) for payment_id in waiting])


# Locks the rows in the order of their names, like the product.
_END_COOL_DOWNS = """
WITH held AS (
    SELECT name FROM mkwanja.brakes WHERE is_engaged AND probe_at IS NOT NULL
    ORDER BY name FOR UPDATE
)
UPDATE mkwanja.brakes SET probe_at = now() FROM held WHERE brakes.name = held.name
"""


async def test_claims_and_answers_of_all_kinds_at_once_do_not_deadlock(
    fresh: Store, second_worker: Store
) -> None:
    """Two workers hold, probe and release operations at the same time."""
    for kind in Kind:
        await hold(fresh, kind)

    async def live(store: Store, number: int) -> None:
        sent = await store.accepted(list(Kind)[number % 3]), new_id()
        await store.execute(_END_COOL_DOWNS)
        if await store.claim(*sent) is not None:
            await record_answer(
                store, sent, [None, ProductRefused(), SETTINGS, RECIPIENT][number % 4]
            )

    for _ in range(3):
        await asyncio.gather(
            *(live(store, number) for number in range(24) for store in (fresh, second_worker))
        )
    await second_worker.database.close()
    assert await fresh.deadlocks() == 0
