"""The whole life of one payment of each kind, from the request to the receipt."""

from __future__ import annotations

from tests.spec.system import System

_LIFE = ["accepted", "submitting", "awaiting_result", "succeeded"]


async def test_a_deposit_lives_from_request_to_receipt(system: System) -> None:
    """A deposit is accepted, submitted, acknowledged, and succeeds by the customer's approval."""
    payment_id = await system.deposit(amount=321)
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["failure"]) == ("success", None)
    assert await system.stages(payment_id) == _LIFE
    [movement] = await system.movements(payment_id)
    assert (movement["amount"], movement["receipt"]) == (321, payment["receipt"])


async def test_a_withdrawal_lives_from_request_to_receipt(system: System) -> None:
    """A withdrawal is paid once, under the payment's own id, and shows the recipient's name."""
    payment_id = await system.withdrawal(amount=1500)
    payment = await system.settled(payment_id)
    assert payment["status"] == "success"
    assert payment["recipient_name"]
    assert await system.stages(payment_id) == _LIFE
    [movement] = await system.movements(payment_id)
    assert (movement["reference"], movement["amount"]) == (payment_id, 1500)


async def test_a_paybill_is_paid(system: System) -> None:
    """A bill payment to a paybill moves the amount to it, with the account reference."""
    payment_id = await system.bill_payment(amount=77, account_reference="PO771", paybill="888881")
    assert (await system.settled(payment_id))["status"] == "success"
    [movement] = await system.movements(payment_id)
    assert (movement["party"], movement["account_reference"], movement["amount"]) == (
        "888881",
        "PO771",
        77,
    )


async def test_a_till_is_paid(system: System) -> None:
    """A bill payment to a till moves the amount to it."""
    payment_id = await system.bill_payment(amount=78, till="556677")
    assert (await system.settled(payment_id))["status"] == "success"
    [movement] = await system.movements(payment_id)
    assert (movement["party"], movement["amount"]) == ("556677", 78)
