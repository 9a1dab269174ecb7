"""Inquiries: each is numbered, stored before it is sent, and has an address of its own."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.spec.delivering import ACCEPTED, deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    inquiries,
    observe_one,
    wait_for_inquiries,
)
from tests.spec.playing import AWAITED, Api
from tests.spec.system import System

_APIS: list[Api] = ["stk", "b2c", "b2b"]


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


@pytest.mark.parametrize("api", _APIS)
async def test_every_inquiry_is_numbered_and_stored_answered_or_not(
    system: System, api: Api
) -> None:
    """The exchange with Daraja is stored, too."""
    payment_id = await begin_in_doubt(
        system, api, "slow_result", InquiryRule("cut_before_acting"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 4)
    found = await inquiries(system, payment_id)
    assert [inquiry["number"] for inquiry in found] == list(range(1, len(found) + 1))
    assert [inquiry["asked_at"] for inquiry in found] == sorted(
        inquiry["asked_at"] for inquiry in found
    )
    assert {inquiry["verdict"] for inquiry in found} <= {None, "no_answer"}
    sql = (
        "SELECT * FROM mkwanja.daraja_exchanges WHERE payment_id = $1::uuid AND attempt_id IS NULL"
    )
    exchanges = await system.eventually(
        lambda: system.rows(sql, payment_id), lambda rows: len(rows) >= 3
    )
    assert {exchange["api"] for exchange in exchanges} == {
        "stk_query" if api == "stk" else "status"
    }
    assert await observe_one(system, payment_id) == AWAITED


async def test_an_answer_is_accepted_only_at_the_address_of_its_inquiry(system: System) -> None:
    """An address with another number, operation or payment gets an empty 403."""
    payment_id = await begin_in_doubt(
        system, "b2c", "slow_result", InquiryRule("lost_callback"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 1)
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
    """A payment's result at an inquiry's address ends nothing, and the other way round."""
    payment_id = await begin_in_doubt(
        system, "b2c", "slow_result", InquiryRule("lost_callback"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 1)
    result = {
        "Result": {"ResultCode": 0, "ResultDesc": "Sent by a test.", "TransactionID": "UKN7OPER01"}
    }
    parameters = [
        {"Key": "TransactionAmount", "Value": (await system.payment(payment_id))["amount"]}
    ]
    as_payout = {
        "Result": {**result["Result"], "ResultParameters": {"ResultParameter": parameters}}
    }
    assert (
        await deliver(system, await system.callback_url(payment_id, "status-1"), as_payout)
    ).json() == ACCEPTED
    assert (await system.payment(payment_id))["status"] == "pending"
    status = [
        {"Key": "TransactionStatus", "Value": "Completed"},
        {"Key": "ReceiptNo", "Value": "UKN7OPER02"},
    ]
    as_status = {"Result": {"ResultCode": 0, "ResultParameters": {"ResultParameter": status}}}
    assert (
        await deliver(system, await system.callback_url(payment_id, "withdrawal"), as_status)
    ).json() == ACCEPTED
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["receipt"]) == ("pending", None)


async def test_without_redis_no_worker_inquires_and_no_payment_is_lost(system: System) -> None:
    """All workers share one budget, in Redis. The payments keep their due times for later."""
    if not system.stack.redis.can_be_stopped:
        pytest.skip("this Redis is not ours to stop")
    payment_ids = [
        await begin_in_doubt(
            system, api, "lost_callback", InquiryRule("cut_before_acting", times=1)
        )
        for api in _APIS
    ]
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "awaiting_result")
    await system.stack.redis.kill()
    try:
        sql = "SELECT count(*) AS asked FROM mkwanja.inquiries WHERE payment_id = ANY($1::uuid[])"
        due = (
            "SELECT id FROM mkwanja.payments WHERE id = ANY($1::uuid[]) AND"
            " next_step_at <= now() - interval '1 second'"
        )
        await system.eventually(
            lambda: system.rows(due, payment_ids), lambda rows: len(rows) == len(payment_ids)
        )
        [before] = await system.rows(sql, payment_ids)
        await asyncio.gather(*(system.payment(payment_id) for payment_id in payment_ids))
        assert await system.rows(sql, payment_ids) == [before]
    finally:
        await system.stack.redis.start()
    await system.wait_until_paid(payment_ids)
