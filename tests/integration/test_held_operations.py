"""A held operation in PostgreSQL: answers hold and release it, one payment probes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from domain.adapters.postgres.brakes import Brakes
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.stages import Stage
from domain.times import OPERATION_COOL_DOWN_MAX
from tests.integration.conftest import Store, new_id
from tests.integration.held import (
    B2C,
    brake_row,
    claimed,
    end_cool_down,
    hold,
    is_held,
    record_answer,
)
from tests.integration.inquiries import read_evidence
from tests.integration.scripted import charge_limit

SETTINGS = Refused(Failure(FailureReason.CONFIGURATION, True, "400.002.02"))
RECIPIENT = Refused(Failure(FailureReason.INVALID_RECIPIENT, True, "400.002.02"))
HELD = frozenset({B2C})


async def brake_changes(store: Store) -> list[tuple[str, bool]]:
    rows = await store.rows(
        "SELECT name, is_engaged FROM mkwanja.brake_history ORDER BY changed_at"
    )
    return [(item["name"], item["is_engaged"]) for item in rows]


# --- the hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
async def test_a_refused_product_holds_only_its_operation_and_for_all_workers(
    fresh: Store, second_worker: Store, kind: Kind
) -> None:
    waiting = [await fresh.accepted(each) for each in Kind]
    await hold(fresh, kind)
    won = {
        each: await second_worker.claim(payment_id)
        for each, payment_id in zip(Kind, waiting, strict=True)
    }
    assert {each for each, payment in won.items() if payment is None} == {kind}
    found = await second_worker.claiming.find_due(waiting[list(Kind).index(kind)])
    assert found is not None
    assert found.is_held
    assert await brake_changes(fresh) == [(RULES[kind].operation.value, True)]


async def test_the_refused_payment_waits_again(fresh: Store) -> None:
    sent = await claimed(fresh)
    await record_answer(fresh, sent, ProductRefused())
    payment = await fresh.payment(sent[0])
    assert (payment.stage, payment.send_count) == (Stage.ACCEPTED, 0)


@pytest.mark.parametrize("kind", Kind)
async def test_a_payment_of_a_held_operation_is_not_charged_to_the_shared_limit(
    fresh: Store, kind: Kind
) -> None:
    await hold(fresh, kind)
    assert await charge_limit(fresh, await fresh.accepted(kind)) == []
    another = next(each for each in Kind if each is not kind)
    assert await charge_limit(fresh, await fresh.accepted(another)) == [another]


async def test_a_held_operation_does_not_count_as_stopped_payouts(fresh: Store) -> None:
    await hold(fresh)
    payment_id = await fresh.accepted(Kind.BILL_PAYMENT)
    for is_claim in (False, True):
        known = await read_evidence(fresh, payment_id, is_claim=is_claim)
        assert (known.payouts_are_stopped, known.breaker_is_open, known.held_operations) == (
            False,
            False,
            HELD,
        )
    plan = await fresh.sweeping.plan_sweep(limit=10, overdue_by=timedelta(0))
    assert (plan.payouts_are_stopped, plan.held_operations, plan.probes_due) == (
        False,
        HELD,
        frozenset(),
    )


async def test_three_refusals_of_our_settings_in_a_row_hold_the_operation(
    fresh: Store, second_worker: Store
) -> None:
    """The refusals are counted across workers."""
    sent = [await claimed(fresh) for _ in range(3)]
    for number, (store, item) in enumerate(zip([fresh, second_worker, fresh], sent, strict=True)):
        assert not await is_held(fresh), number
        await record_answer(store, item, SETTINGS)
    assert await is_held(fresh)
    assert "3 times" in (await brake_row(fresh))["reason"]
    assert await fresh.claim(await fresh.accepted(Kind.WITHDRAWAL)) is None


async def test_three_refusals_of_our_settings_at_once_hold_the_operation(fresh: Store) -> None:
    sent = [await claimed(fresh) for _ in range(3)]
    await asyncio.gather(*(record_answer(fresh, item, SETTINGS) for item in sent))
    assert await is_held(fresh)


@pytest.mark.parametrize(
    "proof", [None, RECIPIENT, DuplicateSubmission()], ids=["acknowledged", "refused", "duplicate"]
)
async def test_another_definite_answer_resets_the_count_of_refusals(
    fresh: Store, proof: ProviderError | None
) -> None:
    for error in (SETTINGS, SETTINGS, proof, SETTINGS, SETTINGS):
        await record_answer(fresh, await claimed(fresh), error)
    assert not await is_held(fresh)
    assert (await brake_row(fresh))["refusals"] == 2


async def test_a_refusal_that_is_recorded_again_counts_once(fresh: Store) -> None:
    """This happens after a COMMIT of unknown outcome."""
    sent = await claimed(fresh)
    for _ in range(3):
        await record_answer(fresh, sent, SETTINGS)
    assert (await brake_row(fresh))["refusals"] == 1


async def test_refusals_of_different_operations_are_counted_apart(fresh: Store) -> None:
    for kind in (Kind.WITHDRAWAL, Kind.BILL_PAYMENT, Kind.DEPOSIT, Kind.WITHDRAWAL):
        await record_answer(fresh, await claimed(fresh, kind), SETTINGS)
    assert await brake_changes(fresh) == []


NO_EVIDENCE = [Unreachable(), Throttled(), TokenRefused(), Resendable(), OutcomeUnknown()]


@pytest.mark.parametrize("error", NO_EVIDENCE, ids=lambda error: type(error).__name__)
async def test_an_answer_without_evidence_changes_neither_the_hold_nor_the_count(
    fresh: Store, error: ProviderError
) -> None:
    for refusal in (SETTINGS, SETTINGS, error):
        await record_answer(fresh, await claimed(fresh), refusal)
    assert (await brake_row(fresh))["refusals"] == 2
    assert await brake_changes(fresh) == []


# --- the probe ------------------------------------------------------------------------------------


async def test_one_waiting_payment_is_claimed_after_the_cool_down(
    fresh: Store, second_worker: Store
) -> None:
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
        assert await is_held(fresh)
        assert not any([await fresh.claim(payment_id) for payment_id in waiting])
    attempts = await fresh.one("SELECT count(*) FROM mkwanja.attempts")
    assert attempts == 4


async def test_payments_of_other_operations_are_claimed_beside_a_probe_as_no_probe(
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
        await record_answer(fresh, await claimed(fresh), ProductRefused())
        found = await brake_row(fresh)
        assert found["cool_down"].total_seconds() == seconds
        assert found["probe_at"] - found["probed_at"] == found["cool_down"]
    assert await brake_changes(fresh) == [("b2c", True)]


async def test_a_lost_probe_costs_only_its_cool_down(fresh: Store) -> None:
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(2)]
    await hold(fresh)
    await end_cool_down(fresh)
    assert await fresh.claim(waiting[0]) is not None  # its worker then dies
    assert await fresh.claim(waiting[1]) is None
    await end_cool_down(fresh)
    assert await fresh.claim(waiting[1]) is not None


@pytest.mark.parametrize(
    "obstacle", ["payouts are stopped", "a person is to look at it", "it is too old"]
)
async def test_a_payment_that_may_not_be_claimed_is_no_probe(fresh: Store, obstacle: str) -> None:
    payment_id = await fresh.accepted(Kind.WITHDRAWAL)
    await hold(fresh)
    await end_cool_down(fresh)
    if obstacle == "payouts are stopped":
        await Brakes(fresh.database).set("kill_switch", is_engaged=True, reason="a test")
    elif obstacle == "it is too old":
        await fresh.execute("UPDATE mkwanja.payments SET expires_at = now()")
    else:
        await fresh.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id
        )
    assert await fresh.claim(payment_id) is None
    assert (await brake_row(fresh))["probes"] == 0


@pytest.mark.parametrize(
    "proof", [None, RECIPIENT, DuplicateSubmission()], ids=["acknowledged", "refused", "duplicate"]
)
async def test_a_proof_that_the_operation_works_releases_it_in_its_commit(
    fresh: Store, proof: ProviderError | None
) -> None:
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(5)]
    await hold(fresh)
    await end_cool_down(fresh)
    await record_answer(fresh, await claimed(fresh), proof)
    assert not await is_held(fresh)
    won = await asyncio.gather(*(fresh.claim(payment_id) for payment_id in waiting))
    assert all(payment is not None and not payment.is_probe for payment in won)
    assert await brake_changes(fresh) == [("b2c", True), ("b2c", False)]


@pytest.mark.parametrize(
    "error", [*NO_EVIDENCE, SETTINGS, ProductRefused()], ids=lambda error: type(error).__name__
)
async def test_a_probe_that_proves_nothing_leaves_the_operation_held(
    fresh: Store, error: ProviderError
) -> None:
    await hold(fresh)
    await end_cool_down(fresh)
    await record_answer(fresh, await claimed(fresh), error)
    assert await is_held(fresh)
    assert await brake_changes(fresh) == [("b2c", True)]


async def test_an_answer_to_a_send_before_the_hold_does_not_release_it(fresh: Store) -> None:
    earlier = await claimed(fresh)
    await hold(fresh)
    await record_answer(fresh, earlier, None)
    assert await is_held(fresh)


async def test_a_refusal_of_a_send_before_the_release_does_not_hold_it_again(
    fresh: Store,
) -> None:
    earlier = [await claimed(fresh) for _ in range(4)]
    await hold(fresh)
    await Brakes(fresh.database).set(B2C.value, is_engaged=False, reason="the product was added")
    for sent, error in zip(earlier, [ProductRefused(), SETTINGS, SETTINGS, SETTINGS], strict=True):
        await record_answer(fresh, sent, error)
    assert not await is_held(fresh)
    assert await brake_changes(fresh) == [("b2c", True), ("b2c", False)]


async def test_an_operator_releases_all_waiting_payments(fresh: Store) -> None:
    waiting = [await fresh.accepted(Kind.WITHDRAWAL) for _ in range(3)]
    await hold(fresh)
    [before] = [item for item in await Brakes(fresh.database).operations() if item.brake.is_engaged]
    assert (before.brake.name, before.waiting) == ("b2c", 4)
    await Brakes(fresh.database).set(B2C.value, is_engaged=False, reason="the product was added")
    assert all([await fresh.claim(payment_id) for payment_id in waiting])


async def test_claims_and_answers_of_all_kinds_at_once_do_not_deadlock(
    fresh: Store, second_worker: Store
) -> None:
    """Both workers hold, probe and release operations meanwhile."""
    for kind in Kind:
        await hold(fresh, kind)

    async def live(store: Store, number: int) -> None:
        sent = await store.accepted(list(Kind)[number % 3]), new_id()
        await store.execute(
            "UPDATE mkwanja.brakes SET probe_at = now() WHERE is_engaged AND probe_at IS NOT NULL"
        )
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


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
async def test_stopped_payouts_are_not_charged_to_the_shared_limit(
    fresh: Store, kind: Kind
) -> None:
    """Workers look at each waiting payout every few seconds. Deposits must not pay for that."""
    await fresh.execute(
        "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'test' WHERE name = 'kill_switch'"
    )
    payment_id = await fresh.accepted(kind)
    assert await charge_limit(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await charge_limit(fresh, await fresh.accepted(Kind.DEPOSIT)) == [Kind.DEPOSIT]


async def test_a_payment_that_needs_review_is_neither_prepared_nor_claimed(
    fresh: Store,
) -> None:
    """Daraja sent a message about it although, by our records, it was never sent."""
    payment_id = await fresh.accepted()
    await fresh.execute("UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id)
    assert await charge_limit(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
