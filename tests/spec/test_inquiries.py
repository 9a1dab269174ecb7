"""Each inquiry has its own callback address, which decides how a message is parsed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.spec.delivering import ACCEPTED, deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    wait_for_inquiries,
)
from tests.spec.system import System


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


async def test_an_answer_is_accepted_only_at_the_address_of_its_inquiry(system: System) -> None:
    """An address with another number, operation or payment gets an empty 403."""
    payment_id = await begin_in_doubt(
        system, "b2c", "slow_result", InquiryRule("lost_callback"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 2)  # the first inquiry has been sent by then
    url = await system.callback_url(payment_id, "status-1")
    base, _, operation, token = url.rsplit("/", 3)
    before = len(await system.callbacks(payment_id))
    for wrong in (
        f"{base}/{payment_id}/status-2/{token}",
        f"{base}/{payment_id}/status-1-timeout/{token}",
        f"{base}/{payment_id}/status-0/{token}",
        f"{base}/{payment_id}/status-01/{token}",
        f"{base}/{payment_id}/withdrawal/{token}",
        f"{base}/{uuid4()}/{operation}/{token}",
    ):
        answer = await deliver(system, wrong, {})
        assert (answer.status, answer.body) == (403, b""), wrong
    assert len(await system.callbacks(payment_id)) == before
    assert (await deliver(system, url, b"{")).json() == ACCEPTED
    assert (await system.callbacks(payment_id))[-1]["disposition"] == "unreadable"


async def test_the_operation_of_the_address_decides_how_a_message_is_parsed(system: System) -> None:
    """A result at an inquiry's address, or an answer at the result's address, ends nothing."""
    payment_id = await begin_in_doubt(
        system, "b2c", "slow_result", InquiryRule("lost_callback"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 2)  # the first inquiry has been sent by then
    amount = (await system.payment(payment_id))["amount"]
    messages: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("status-1", {"TransactionID": "UKN7OPER01"}, {"TransactionAmount": amount}),
        ("withdrawal", {}, {"TransactionStatus": "Completed", "ReceiptNo": "UKN7OPER02"}),
    )
    for operation, fields, parameters in messages:
        items = [{"Key": key, "Value": value} for key, value in parameters.items()]
        result = {"ResultCode": 0, "ResultParameters": {"ResultParameter": items}, **fields}
        body = {"Result": result}
        url = await system.callback_url(payment_id, operation)
        assert (await deliver(system, url, body)).json() == ACCEPTED
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["receipt"]) == ("pending", None)
