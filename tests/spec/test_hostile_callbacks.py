"""The receiver stores a hostile message to a genuine address and settles nothing.

A genuine message still settles the payment afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from domain.callback_address import make_address
from tests.spec.delivering import (
    ACCEPTED,
    OPERATIONS,
    AwaitedPayment,
    begin_awaited,
    deliver,
    deliver_result,
)
from tests.spec.hostile_callbacks import (
    HOSTILE,
    TWINS,
    forged_receipt,
    settled_receipt,
    success_text,
)
from tests.spec.playing import Api
from tests.spec.system import System
from tests.unit.status_messages import parameters, status

APIS: list[Api] = ["stk", "b2c", "b2b"]
_AT_ONCE = 16


@pytest.fixture
async def silent(system: System) -> AsyncIterator[System]:
    """The shared system. Its simulator is so slow that it sends no result during the test."""
    await system.control("POST", "/switches", {"time_scale": 1})
    yield system
    logs = system.stack.logs()["callbacks.1"]
    assert "callback_not_processed" not in logs
    assert "callback_not_read" not in logs
    assert "Traceback" not in logs


async def _settle(system: System, one: AwaitedPayment) -> None:
    await deliver_result(system, one, receipt=settled_receipt(one))
    payment = await system.payment(one.id)
    seen = payment["status"], payment["receipt"], payment["amount"]
    assert seen == ("success", settled_receipt(one), one.amount)


async def _assert_untouched(system: System, one: AwaitedPayment) -> None:
    payment = await system.payment(one.id)
    seen = payment["stage"], payment["amount"], payment["receipt"], payment["failure"]
    if seen != ("awaiting_result", one.amount, None, None):
        settled = [
            (row["disposition"], bytes(row["body"])[:300])
            for row in await system.callbacks(one.id)
            if row["disposition"] in ("finalized", "corrected", "receipt_added")
        ]
        pytest.fail(f"{seen} by {settled}")


def _address(system: System, payment_id: str, operation: str) -> str:
    """The payment's callback address for this operation."""
    secret = system.stack.env("callbacks")["CALLBACK_SECRETS"].split(",")[0]
    return make_address(system.stack.callbacks_url, secret, UUID(payment_id), operation)


async def _deliver_all(
    system: System, one: AwaitedPayment, bodies: dict[str, tuple[str, bytes]]
) -> None:
    """Deliver every body to its address, and check that it is stored and settles nothing."""
    rows = list(bodies.items())
    for batch in (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)):
        answers = await asyncio.gather(*(deliver(system, url, body) for _, (url, body) in batch))
        for (case, _), answer in zip(batch, answers, strict=True):
            assert (answer.status, answer.status == 200 and answer.json()) == (200, ACCEPTED), case
        await _assert_untouched(system, one)
    stored = {
        bytes(row["body_sha256"]): bytes(row["body"]) for row in await system.callbacks(one.id)
    }
    for case, (_, body) in bodies.items():
        assert stored.get(hashlib.sha256(body).digest()) == body, case


@pytest.mark.sampled(1)
@pytest.mark.parametrize("api", APIS)
async def test_no_hostile_body_settles_a_payment(silent: System, api: Api) -> None:
    """The bodies are forged, replayed, swapped, repeated, mistyped, broken, nested or huge.

    The real result still settles the payment afterwards.
    """
    one, other = await begin_awaited(silent, api), await begin_awaited(silent, api)
    await _settle(silent, other)
    before = await silent.payment(other.id)
    bodies = {case: (one.url, make(one, other)) for case, make in HOSTILE.items()}
    await _deliver_all(silent, one, bodies)
    assert await silent.payment(other.id) == before
    await _settle(silent, one)
    forged = "SELECT id FROM mkwanja.payments WHERE receipt ILIKE 'EVLX%'"
    assert await silent.rows(forged) == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("api", APIS)
async def test_an_unusual_but_clear_body_settles_its_payment(silent: System, api: Api) -> None:
    """The receiver accepts the twins of the hostile bodies, so it does not refuse every body."""

    async def settle_by(case: str) -> AwaitedPayment:
        one = await begin_awaited(silent, api)
        answer = await deliver(silent, one.url, TWINS[case](one, one))
        assert (answer.status, answer.json()) == (200, ACCEPTED), case
        payment = await silent.payment(one.id)
        seen = payment["status"], payment["receipt"], payment["amount"], payment["needs_review"]
        assert seen == ("success", forged_receipt(one), one.amount, False), case
        return one

    ones = await asyncio.gather(*(settle_by(case) for case in TWINS))
    # Rename these legitimate receipts, because another test searches for forged ones.
    await silent.execute(
        "UPDATE mkwanja.payments SET receipt = replace(receipt, 'EVLX', 'UKTX')"
        " WHERE id = ANY($1::uuid[])",
        [one.id for one in ones],
    )


@pytest.mark.parametrize("api", APIS)
async def test_a_success_at_the_address_of_another_operation_settles_nothing(
    silent: System, api: Api
) -> None:
    """The address is for timeouts, answers to inquiries, or results of other kinds."""
    one = await begin_awaited(silent, api)
    others = {*OPERATIONS.values(), "withdrawal-timeout", "bill-payment-timeout"}
    others |= {"status-1", "status-1-timeout", "status-999999"}
    await _deliver_all(
        silent,
        one,
        {
            operation: (
                _address(silent, one.id, operation),
                success_text(one, ResultDesc=operation).encode(),
            )
            for operation in others - {OPERATIONS[api]}
        },
    )
    await _settle(silent, one)


@pytest.mark.parametrize("api", ["b2c", "b2b"])
async def test_a_hostile_answer_to_an_inquiry_settles_nothing(silent: System, api: Api) -> None:
    """The answer names another payment or amount, or contradicts itself. Its address is genuine.

    `tests/unit/test_daraja_status_reports.py` has more such answers.
    """
    one = await begin_awaited(silent, api)
    right = {"Amount": one.amount, "ReceiptNo": forged_receipt(one), **one.ids}
    url = _address(silent, one.id, "status-1")
    wrong_values: dict[str, dict[str, Any]] = {
        "another amount": {"Amount": 1},
        "the ConversationID of another payment": {"ConversationID": "AG_other"},
        "a status in lower case": {"TransactionStatus": "completed"},
        "a failure of another amount": {"TransactionStatus": "Failed", "Amount": 1},
        "another payment's failure": {"TransactionStatus": "Failed", "ConversationID": "AG_other"},
    }
    bodies = {
        case: json.dumps(status(0, parameters(**{**right, **wrong}))).encode()
        for case, wrong in wrong_values.items()
    }
    good = json.dumps(status(0, parameters(**right))).encode()
    for case, old, new in (
        ("the code twice", b'"ResultCode": 0', b'"ResultCode": 1, "ResultCode": 0'),
        ("a value twice", b'"Value": "Completed"', b'"Value": "Failed", "Value": "Completed"'),
    ):
        bodies[case] = good.replace(old, new)
    assert len(set(bodies.values()) - {good}) == len(bodies)
    await _deliver_all(silent, one, {case: (url, body) for case, body in bodies.items()})
    right["ReceiptNo"] = settled_receipt(one)
    await deliver(silent, url, status(0, parameters(**right)))
    assert (await silent.payment(one.id))["receipt"] == settled_receipt(one)


async def test_one_receipt_for_six_payments_at_once_settles_one(silent: System) -> None:
    """The other five payments are flagged and stay open, and their real results settle them."""
    ones = [await begin_awaited(silent) for _ in range(6)]
    await asyncio.gather(*(deliver_result(silent, one, receipt="UKN7ATONCE") for one in ones))
    payments = [await silent.payment(one.id) for one in ones]
    left = [pair for pair in zip(ones, payments, strict=True) if pair[1]["stage"] != "succeeded"]
    seen = [(found["stage"], found["receipt"], found["needs_review"]) for _, found in left]
    assert seen == [("awaiting_result", None, True)] * 5
    for one, _ in left:
        await _settle(silent, one)
