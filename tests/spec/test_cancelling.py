"""Cancelling a payment: possible only while it is certainly unsent, and final."""

from __future__ import annotations

import asyncio

from tests.spec.playing import begin, count_sends, stopped_payouts, sweep
from tests.spec.requesting import DEPOSIT, caller, cancel, expect_problem, new_subject, send_request
from tests.spec.system import System

_CANCELLED = {"reason": "cancelled_by_caller", "provider_code": None, "safe_to_retry": True}


async def test_a_caller_cancels_a_waiting_payment(system: System) -> None:
    """A second cancellation gets the same answer. The payment is never sent."""
    async with stopped_payouts(system):
        withdrawal, bill = await system.withdrawal(), await system.bill_payment()
        for payment_id in (withdrawal, bill):
            first = (await cancel(system, payment_id)).expect(200)
            payment = first.json()
            failure = {
                name: value for name, value in payment["failure"].items() if name != "message"
            }
            assert (payment["status"], payment["stage"], failure) == (
                "failed",
                "failed",
                _CANCELLED,
            )
            assert payment["finalized_at"] is not None
            again = (await cancel(system, payment_id)).expect(200)
            assert again.json() == payment == await system.payment(payment_id)
            assert await system.stages(payment_id) == ["accepted", "failed"]
    later = await system.withdrawal(phone_number="0722000299")
    assert (await system.settled(later))["status"] == "success"
    await sweep(system, [withdrawal, bill])
    assert [await count_sends(system, payment_id) for payment_id in (withdrawal, bill)] == [0, 0]
    await system.assert_money_agrees([withdrawal, bill, later])


async def test_a_stopped_payout_waits_and_is_then_paid_once(system: System) -> None:
    """Deposits go on meanwhile."""
    async with stopped_payouts(system):
        withdrawal, deposit = await system.withdrawal(), await system.deposit()
        assert (await system.settled(deposit))["status"] == "success"
        await sweep(system, [withdrawal])
        assert (
            (await system.payment(withdrawal))["stage"],
            await count_sends(system, withdrawal),
        ) == ("accepted", 0)
    assert (await system.settled(withdrawal))["status"] == "success"
    assert await count_sends(system, withdrawal) == 1
    await system.assert_money_agrees([withdrawal, deposit])


async def test_a_caller_cannot_cancel_a_payment_that_may_have_been_sent(system: System) -> None:
    """409; the payment does not change."""
    awaited, doubtful = (
        await begin(system, "stk", "lost_callback"),
        await begin(system, "b2c", "cut_before_acting"),
    )
    paid, failed = await begin(system, "b2b", "approve"), await begin(system, "stk", "cancel")
    stages = {awaited: "awaiting_result", doubtful: "in_doubt", paid: "succeeded", failed: "failed"}
    for payment_id, stage in stages.items():
        before = await system.in_stage(payment_id, stage)
        answer = await cancel(system, payment_id)
        assert expect_problem(answer, 409, "too_late_to_cancel")["retryable"] is False
        after = await system.payment(payment_id)
        assert (after["stage"], after["failure"]) == (stage, before["failure"])


async def test_a_cancellation_and_a_claim_exclude_each_other(system: System) -> None:
    """Exactly one wins: the payment is cancelled and never sent, or 409 and paid."""
    async with stopped_payouts(system):
        payment_ids = [
            await system.withdrawal(phone_number=f"07220003{number:02}") for number in range(20)
        ]
        overdue = "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = ANY($1::uuid[])"
        await system.execute(overdue, payment_ids)

    async def cancel_later(number: int, payment_id: str) -> int:
        # Spread over the time in which the sweeper and the worker claim the payments.
        await asyncio.sleep(number * 0.02)
        return (await cancel(system, payment_id)).status

    statuses = await asyncio.gather(
        *(cancel_later(number, payment_id) for number, payment_id in enumerate(payment_ids))
    )
    assert set(statuses) <= {200, 409}
    for payment_id, status in zip(payment_ids, statuses, strict=True):
        payment = await system.settled(payment_id)
        assert payment["status"] == ("failed" if status == 200 else "success")
        assert await count_sends(system, payment_id) == (0 if status == 200 else 1)
    await system.assert_money_agrees(payment_ids)


async def test_a_user_cancels_only_its_own_payments(system: System) -> None:
    """For another user the payment does not exist: 404."""
    await system.control("POST", "/listener", {"open": False, "seconds": None})
    try:
        async with (
            caller(system, sub=new_subject()) as one,
            caller(system, sub=(other := new_subject())),
        ):
            payment_id = (await one.pay("/v1/deposits", DEPOSIT)).expect(202).json()["id"]
            path = f"/v1/payments/{payment_id}/cancel"
            token = system.stack.issuer.user_token(other)
            expect_problem(
                await send_request(system, "POST", path, token=token), 404, "payment_not_found"
            )
            assert (await one.payment(payment_id))["status"] == "pending"
    finally:
        await system.control("POST", "/listener", {"open": True})
    assert (await system.settled(payment_id))["status"] == "success"


async def test_the_service_ignores_the_body_of_a_cancellation(system: System) -> None:
    """It also ignores the Content-Type."""
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        headers = [("Content-Type", "text/rubbish; charset=none")]
        path = f"/v1/payments/{payment_id}/cancel"
        answer = await send_request(
            system,
            "POST",
            path,
            headers=headers,
            data=b"{nothing",
            token=system.stack.issuer.backend_token(),
        )
        assert answer.expect(200).json()["failure"]["reason"] == "cancelled_by_caller"
