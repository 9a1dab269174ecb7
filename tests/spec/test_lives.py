"""The whole life of a deposit, a withdrawal and two bill payments, from request to receipt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.system import System


@pytest.mark.parametrize(
    ("kind", "request_body", "moved"),
    [
        ("deposit", {"amount": 321}, {"amount": 321}),
        ("withdrawal", {"amount": 1500}, {"amount": 1500}),
        (
            "bill_payment",
            {"amount": 77, "paybill": "888881", "account_reference": "PO771"},
            {"amount": 77, "party": "888881", "account_reference": "PO771"},
        ),
        ("bill_payment", {"amount": 78, "till": "556677"}, {"amount": 78, "party": "556677"}),
    ],
    ids=["deposit", "withdrawal", "paybill", "till"],
)
async def test_a_payment_lives_from_request_to_receipt(
    system: System, kind: str, request_body: dict[str, Any], moved: dict[str, Any]
) -> None:
    """The payment is submitted and acknowledged. Its money moves once, to the right party."""
    payment_id = await getattr(system, kind)(**request_body)
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["failure"]) == ("success", None)
    expected_stages = ["accepted", "submitting", "awaiting_result", "succeeded"]
    assert await system.stages(payment_id) == expected_stages
    [movement] = await system.movements(payment_id)
    assert movement["receipt"] == payment["receipt"]
    assert {name: movement[name] for name in moved} == moved
    if kind == "withdrawal":
        assert payment["recipient_name"]
        assert movement["reference"] == payment_id
