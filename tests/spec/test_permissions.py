"""What a user may not do or see, in more detail than in `test_permission_matrix.py`."""

from __future__ import annotations

from uuid import uuid4

from tests.spec.operating import operate
from tests.spec.requesting import (
    BILL_PAYMENT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    caller,
    expect_problem,
    new_subject,
    post,
    send_request,
)
from tests.spec.system import System

PAYOUTS = {
    "withdrawals": WITHDRAWAL,
    "bill-payments": BILL_PAYMENT,
    "pochi-payments": POCHI_PAYMENT,
}


async def test_a_user_may_make_no_payout(system: System) -> None:
    """The answer is 403 for any body, and nothing is stored."""
    key = str(uuid4())
    for kind, body in PAYOUTS.items():
        for sent in (body, {"amount": "rubbish"}):
            answer = await post(system, f"/v1/{kind}", sent, key=key)
            expect_problem(answer, 403, "not_permitted")
    assert not await system.rows("SELECT id FROM mkwanja.payments WHERE idempotency_key = $1", key)


async def test_another_callers_payment_is_not_found(system: System) -> None:
    """Reads and cancellations are answered as for a payment that does not exist."""
    of_another, of_a_backend = await system.deposit(), await system.withdrawal()
    token = system.stack.issuer.user_token(new_subject())
    for method, suffix in (("GET", ""), ("GET", "/history"), ("POST", "/cancel")):
        answers = [
            expect_problem(
                await send_request(system, method, f"/v1/payments/{one}{suffix}", token=token),
                404,
                "payment_not_found",
            )
            for one in (of_another, of_a_backend, str(uuid4()), "rubbish")
        ]
        assert all(answer == answers[0] for answer in answers)
    for payment_id in (of_another, of_a_backend):
        assert (await system.settled(payment_id))["status"] == "success"


async def test_a_user_does_not_see_which_operator_decided_and_why(system: System) -> None:
    """The user sees that there was a decision. A backend also sees operator and reason."""
    owner = new_subject()
    payment_id = await system.withdrawal(owner=owner)
    await system.settled(payment_id)
    reason = "line 14 of the statement"
    by_hand = ("ask", payment_id, "--reason", reason, "--operator", "wanjiru")
    for command in (by_hand, ("resolve", payment_id, "reviewed", *by_hand[2:])):
        await system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1::uuid", payment_id
        )
        (await operate(system, *command)).expect(0)
    async with caller(system, sub=owner) as user:
        answer = (await user.get(f"/v1/payments/{payment_id}/history")).expect(200)
        shown = {item["what"]: item["detail"] for item in answer.json()["items"]}
        assert (shown["inquiry_asked_for"], shown["reviewed"]) == ({}, {})
        answers = [
            answer.body,
            *[
                (await user.get(path)).expect(200).body
                for path in (f"/v1/payments/{payment_id}", "/v1/payments", "/v1/events")
            ],
        ]
        assert not [body for body in answers if b"wanjiru" in body or reason.encode() in body]
    known = {item["what"]: item["detail"] for item in await system.backend.history(payment_id)}
    assert (
        known["inquiry_asked_for"] == known["reviewed"] == {"operator": "wanjiru", "reason": reason}
    )
