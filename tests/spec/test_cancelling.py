"""A caller may cancel a payment only while it is certainly unsent. A cancellation is final."""

from __future__ import annotations

import asyncio

from tests.spec.playing import Api, begin, count_sends, stopped_payouts, sweep
from tests.spec.requesting import cancel, expect_problem, send_request
from tests.spec.system import System

_CANCELLED = {
    "reason": "cancelled_by_caller",
    "message": "",
    "provider_code": None,
    "safe_to_retry": True,
}


async def test_a_caller_cancels_a_waiting_payment(system: System) -> None:
    """A second cancellation gets the same answer, whatever its body. The payment is never sent."""
    async with stopped_payouts(system):
        payment_ids = [await system.withdrawal(), await system.bill_payment()]
        for payment_id in payment_ids:
            payment = (await cancel(system, payment_id)).expect(200).json()
            assert (payment["status"], payment["stage"]) == ("failed", "failed")
            assert payment["failure"] | {"message": ""} == _CANCELLED
            assert payment["finalized_at"] is not None
            again = await send_request(
                system,
                "POST",
                f"/v1/payments/{payment_id}/cancel",
                headers=[("Content-Type", "text/rubbish; charset=none")],
                data=b"{nothing",
                token=system.stack.issuer.backend_token(),
            )
            assert again.expect(200).json() == payment == await system.payment(payment_id)
            assert await system.stages(payment_id) == ["accepted", "failed"]
    later = await system.withdrawal(phone_number="0722000299")
    assert (await system.settled(later))["status"] == "success"
    await sweep(system, payment_ids)
    assert [await count_sends(system, payment_id) for payment_id in payment_ids] == [0, 0]
    await system.assert_money_agrees([*payment_ids, later])


async def test_a_caller_cannot_cancel_a_payment_that_may_have_been_sent(system: System) -> None:
    """The answer is 409, and the payment does not change. If it has ended, the answer says how."""
    under_way = "Poll its status for the result."
    payments: list[tuple[Api, str, str, str]] = [
        ("stk", "lost_callback", "awaiting_result", under_way),
        ("b2c", "cut_before_acting", "in_doubt", under_way),
        ("b2b", "approve", "succeeded", "The payment has ended: it succeeded."),
        ("stk", "cancel", "failed", "has ended: it failed (cancelled_by_customer)."),
    ]
    for api, scenario, stage, text in payments:
        payment_id = await begin(system, api, scenario)
        before = await system.in_stage(payment_id, stage)
        answer = await cancel(system, payment_id)
        problem = expect_problem(answer, 409, "too_late_to_cancel")
        assert problem["retryable"] is False
        assert text in problem["detail"]
        after = await system.payment(payment_id)
        assert (after["stage"], after["failure"]) == (stage, before["failure"])


async def test_a_cancellation_and_a_claim_exclude_each_other(system: System) -> None:
    """Either the caller gets 200 and the payment is never sent, or 409 and it is paid."""
    async with stopped_payouts(system):
        payment_ids = [
            await system.withdrawal(phone_number=f"07220003{number:02}") for number in range(20)
        ]
        overdue = "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = ANY($1::uuid[])"
        await system.execute(overdue, payment_ids)

    async def cancel_later(number: int, payment_id: str) -> int:
        # The cancellations are spread over the time in which the worker claims the payments.
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
