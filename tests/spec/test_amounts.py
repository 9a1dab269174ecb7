"""An operator settles a payment if Daraja reports another amount than the requested one.

The operator reads the amount on M-PESA's statement. Until then, the service publishes no event.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    event_types,
    inquiries,
    receipt_of,
    wait_for_inquiries,
)
from tests.spec.operating import operate
from tests.spec.playing import begin
from tests.spec.system import System

_REASON = "statement of 1 March, page 2"
_WITHOUT_AMOUNT = InquiryRule("status_missing_parameters", {"without": ["Amount"]})


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


async def _resolve(system: System, payment_id: str, decision: str, *more: str, **env: str) -> Any:
    return await operate(
        system, "resolve", payment_id, decision, "--reason", _REASON, *more, env=env
    )


@pytest.mark.parametrize(
    ("api", "answers"), [("stk", ()), ("b2c", (_WITHOUT_AMOUNT,)), ("b2b", (_WITHOUT_AMOUNT,))]
)
async def test_a_payment_whose_amounts_disagree_waits_for_an_operator(
    system: System, api: Any, answers: Any
) -> None:
    """A callback names another amount, and Daraja's answers report a success without an amount."""
    payment_id = await begin_in_doubt(system, api, "wrong_amount", *answers)
    await system.eventually(
        lambda: inquiries(system, payment_id),
        lambda rows: sum(row["verdict"] == "paid" for row in rows) >= 2,
    )
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["needs_review"]) == ("pending", True)
    assert payment["amount_settled"] is None
    assert await event_types(system, payment_id) == []
    [row] = await system.rows(
        "SELECT next_step_at FROM mkwanja.payments WHERE id = $1::uuid", payment_id
    )
    assert row["next_step_at"] is not None

    receipt, statement = await receipt_of(system, payment_id), payment["amount"] + 1
    paid = (system, payment_id, "paid", "--receipt", receipt)
    assert "--amount" in (await _resolve(*paid)).expect(1).lines[0]
    (await _resolve(*paid, "--amount", "4 0")).expect(2)
    (await _resolve(*paid, "--amount", str(statement))).expect(0)
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["receipt"]) == ("success", receipt)
    assert not payment["needs_review"]
    assert (payment["amount"], payment["amount_settled"]) == (statement - 1, statement)
    assert await event_types(system, payment_id) == ["succeeded"]
    sql = (
        "SELECT event_body FROM mkwanja.payment_history"
        " WHERE payment_id = $1::uuid AND event_body IS NOT NULL"
    )
    [event] = await system.rows(sql, payment_id)
    assert f'"amount_settled":{statement},' in event["event_body"]
    last = (await system.backend.history(payment_id))[-1]
    assert (last["what"], last["detail"]["amount"]) == ("resolved_paid", str(statement))


async def test_an_operator_resolves_as_unpaid_only_after_the_window(system: System) -> None:
    """Before the end of the result window, the command fails and names the earliest time for a try.

    The command uses the worker's time settings if the command's environment has them.
    """
    payment_id = await begin(system, "b2c", "slow_result", seconds=600)
    await system.in_stage(payment_id, "awaiting_result")
    refused = (await _resolve(system, payment_id, "unpaid")).expect(1)
    assert "its result may still arrive. Try again after 20" in refused.lines[0]
    await wait_for_inquiries(system, payment_id, 1)
    short = {"NOT_FOUND_TRUSTED_AFTER_SECONDS": "0.1", "INQUIRY_INTERVAL_MAX_SECONDS": "0.1"}
    (await _resolve(system, payment_id, "unpaid", **short)).expect(0)
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["amount_settled"]) == ("failed", None)
