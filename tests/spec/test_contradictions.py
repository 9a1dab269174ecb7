"""Reports that contradict each other: a success outranks a failure.

The service stores and counts every contradiction, flags its payment, and publishes corrections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.spec.delivering import OPERATIONS, AwaitedPayment, deliver_result
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    count_stored,
    event_types,
    history_facts,
    inquiries,
    load_awaited,
    receipt_of,
    wait_for_inquiries,
)
from tests.spec.listening import listening
from tests.spec.playing import Api, failed
from tests.spec.system import System

_APIS: list[Api] = ["stk", "b2c", "b2b"]
_FAILED = {"stk": 1032, "b2c": 1, "b2b": 1}


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that soon inquires."""
    return inquiring_system


@asynccontextmanager
async def _expect_stored(system: System, disposition: str, times: int = 1) -> AsyncIterator[None]:
    """Check that the receiver counts `times` callbacks of that disposition in the block."""
    before = await count_stored(system, disposition)
    yield
    assert await count_stored(system, disposition) == before + times, disposition


async def _begin_awaited(
    system: System, api: Api, *answers: InquiryRule, **params: Any
) -> AwaitedPayment:
    """Make a payment that Daraja acknowledged, and whose results the test delivers.

    Without `answers`, Daraja answers no inquiry about it.
    """
    if not answers:
        answers = (InquiryRule("cut_before_acting"),)
    payment_id = await begin_in_doubt(system, api, "slow_result", *answers, seconds=600, **params)
    await system.in_stage(payment_id, "awaiting_result")
    return await load_awaited(system, payment_id, api)


async def _dispositions(system: System, one: AwaitedPayment) -> list[str]:
    rows = await system.callbacks(one.id)
    return [row["disposition"] for row in rows if row["operation"] == OPERATIONS[one.api]]


async def _facts(system: System, payment_id: str) -> list[str]:
    """The facts of the payment's history after its acknowledgement."""
    return (await history_facts(system, payment_id))[3:]


@pytest.mark.parametrize("api", _APIS)
async def test_a_late_success_corrects_a_failure(system: System, api: Api) -> None:
    """The payment succeeds and is flagged. Its second event is of the type "corrected"."""
    one = await _begin_awaited(system, api)
    await deliver_result(system, one, code=_FAILED[api])
    assert (await system.payment(one.id))["status"] == "failed"
    async with _expect_stored(system, "corrected"), listening(system) as listener:
        await deliver_result(system, one, receipt=f"UKN7LATE{api[1:]}"[:10].upper())
        received = await system.eventually(lambda: listener.events(one.id))
    payment = await system.payment(one.id)
    assert (payment["status"], payment["failure"], payment["needs_review"]) == (
        "success",
        None,
        True,
    )
    assert payment["receipt"] is not None
    assert [event["type"] for event in received] == ["mkwanja.payment.corrected"]
    assert await event_types(system, one.id) == ["failed", "corrected"]
    assert await _facts(system, one.id) == ["failure_reported", "success_reported"]
    assert await _dispositions(system, one) == ["finalized", "corrected"]


@pytest.mark.parametrize("api", _APIS)
async def test_a_failure_after_a_success_only_flags_the_payment(system: System, api: Api) -> None:
    """The failure is stored, and no event is published."""
    one = await _begin_awaited(system, api)
    receipt = {"stk": "UKN7KEEP01", "b2c": "UKN7KEEP02", "b2b": "UKN7KEEP03"}[api]
    await deliver_result(system, one, receipt=receipt)
    async with _expect_stored(system, "contradiction", 2):
        await deliver_result(system, one, code=_FAILED[api])
        await deliver_result(system, one, code=_FAILED[api])
    payment = await system.payment(one.id)
    assert (payment["status"], payment["receipt"], payment["needs_review"]) == (
        "success",
        receipt,
        True,
    )
    assert await event_types(system, one.id) == ["succeeded"]
    assert await _facts(system, one.id) == ["success_reported", "contradiction"]
    assert await _dispositions(system, one) == ["finalized", "contradiction", "contradiction"]


@pytest.mark.parametrize("api", _APIS)
async def test_a_second_receipt_flags_the_payment(system: System, api: Api) -> None:
    """The payment keeps the first receipt. The second callback is stored."""
    one = await _begin_awaited(system, api)
    first, second = {
        "stk": ("UKN7TWOR01", "UKN7TWOR02"),
        "b2c": ("UKN7TWOR03", "UKN7TWOR04"),
        "b2b": ("UKN7TWOR05", "UKN7TWOR06"),
    }[api]
    await deliver_result(system, one, receipt=first)
    async with _expect_stored(system, "contradiction"):
        await deliver_result(system, one, receipt=second)
    payment = await system.payment(one.id)
    assert (payment["receipt"], payment["needs_review"]) == (first, True)
    assert await event_types(system, one.id) == ["succeeded"]
    assert (await _facts(system, one.id))[-1] == "contradiction"


@pytest.mark.parametrize("api", _APIS)
async def test_a_success_with_another_amount_flags_the_payment(system: System, api: Api) -> None:
    """It finalizes nothing. A later success with the right amount does."""
    one = await _begin_awaited(system, api)
    async with _expect_stored(system, "amount_differs"):
        await deliver_result(system, one, amount=one.amount + 1, receipt="UKN7AMNT09")
    payment = await system.payment(one.id)
    assert (payment["stage"], payment["receipt"], payment["needs_review"]) == (
        "awaiting_result",
        None,
        True,
    )
    assert await _facts(system, one.id) == ["amount_differs"]
    assert await event_types(system, one.id) == []
    await deliver_result(
        system, one, receipt={"stk": "UKN7AMNT01", "b2c": "UKN7AMNT02", "b2b": "UKN7AMNT03"}[api]
    )
    payment = await system.payment(one.id)
    assert (payment["status"], payment["needs_review"]) == ("success", True)


async def test_a_success_without_receipt_gets_its_receipt_later(system: System) -> None:
    """A callback without a receipt is flagged, and the query settles the deposit without one.

    A later callback adds the receipt, and an event publishes it.
    """
    one = await _begin_awaited(system, "stk", InquiryRule("query_contradicts", {"code": 0}))
    async with _expect_stored(system, "success_without_receipt"):
        await deliver_result(system, one, receipt=...)
    payment = await system.in_stage(one.id, "succeeded")
    assert (payment["receipt"], payment["needs_review"]) == (None, True)
    async with _expect_stored(system, "receipt_added"), listening(system) as listener:
        await deliver_result(system, one, receipt="UKN7ADDED1")
        [event] = await system.eventually(lambda: listener.events(one.id))
    assert (event["type"], event["data"]["receipt"]) == (
        "mkwanja.payment.receipt_added",
        "UKN7ADDED1",
    )
    assert (await system.payment(one.id))["receipt"] == "UKN7ADDED1"
    assert await event_types(system, one.id) == ["succeeded", "receipt_added"]
    async with _expect_stored(system, "contradiction"):
        await deliver_result(system, one, receipt="UKN7ADDED2")
    assert (await system.payment(one.id))["receipt"] == "UKN7ADDED1"


async def test_a_payout_found_without_receipt_gets_its_receipt_later(system: System) -> None:
    """Transaction Status settles the withdrawal without one. Its own result adds it."""
    payment_id = await begin_in_doubt(
        system, "b2c", "held_callback", InquiryRule("status_missing_receipt")
    )
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["receipt"]) == ("success", None)
    await system.control("POST", "/callbacks/release", {"url_contains": payment_id})
    assert (await system.payment(payment_id))["receipt"] == await receipt_of(system, payment_id)
    assert await event_types(system, payment_id) == ["succeeded", "receipt_added"]
    await system.assert_money_agrees([payment_id])


async def test_a_successful_callback_outranks_a_failed_query(system: System) -> None:
    """After one such query the deposit is still open. After two it has failed and is corrected."""
    once = await _begin_awaited(
        system,
        "stk",
        InquiryRule("query_contradicts", {"code": 1037}, 1),
        InquiryRule("cut_before_acting"),
    )
    await wait_for_inquiries(system, once.id, 1)
    await deliver_result(system, once, receipt="UKN7QRYA01")
    payment = await system.payment(once.id)
    assert (payment["status"], payment["receipt"]) == ("success", "UKN7QRYA01")
    assert await event_types(system, once.id) == ["succeeded"]
    twice = await _begin_awaited(system, "stk", InquiryRule("query_contradicts", {"code": 1037}))
    payment = await system.settled(twice.id)
    assert (payment["failure"]["reason"], payment["failure"]["safe_to_retry"]) == (
        "no_response",
        False,
    )
    await deliver_result(system, twice, receipt="UKN7QRYA02")
    payment = await system.payment(twice.id)
    assert (payment["status"], payment["needs_review"]) == ("success", True)
    assert await event_types(system, twice.id) == ["failed", "corrected"]


async def test_a_failed_status_answer_does_not_change_a_success(system: System) -> None:
    """The late answer "Failed" to our inquiry is stored, and the payment is flagged."""
    one = await _begin_awaited(
        system,
        "b2c",
        InquiryRule("held_callback", {"status": "Failed"}, 1),
        InquiryRule("cut_before_acting"),
    )
    await wait_for_inquiries(system, one.id, 1)
    await deliver_result(system, one, receipt="UKN7STAT01")
    async with _expect_stored(system, "contradiction"):
        await _release_answer(system, one.id)
    payment = await system.payment(one.id)
    assert (payment["status"], payment["receipt"], payment["needs_review"]) == (
        "success",
        "UKN7STAT01",
        True,
    )
    assert await _facts(system, one.id) == ["success_reported", "contradiction"]


async def test_a_completed_status_answer_corrects_a_failure(system: System) -> None:
    """The answer comes after a callback that reported a failure."""
    one = await _begin_awaited(
        system,
        "b2c",
        InquiryRule("held_callback", {"status": "Completed"}, 1),
        InquiryRule("cut_before_acting"),
    )
    await wait_for_inquiries(system, one.id, 1)
    await deliver_result(system, one, code=1)
    assert (await system.payment(one.id))["failure"]["reason"] == failed(
        "insufficient_funds", "1"
    ).reason
    async with _expect_stored(system, "corrected"):
        await _release_answer(system, one.id)
    payment = await system.payment(one.id)
    assert (payment["status"], payment["needs_review"]) == ("success", True)
    assert await event_types(system, one.id) == ["failed", "corrected"]


async def test_a_reversal_after_a_success_flags_the_payment(system: System) -> None:
    """The payment stays succeeded."""
    one = await _begin_awaited(
        system,
        "b2c",
        InquiryRule("held_callback", {"status": "Reversed"}, 1),
        InquiryRule("cut_before_acting"),
    )
    await wait_for_inquiries(system, one.id, 1)
    await deliver_result(system, one, receipt="UKN7RVRS01")
    await _release_answer(system, one.id)
    payment = await system.payment(one.id)
    assert (payment["status"], payment["needs_review"]) == ("success", True)
    assert len(await inquiries(system, one.id)) >= 1


async def _release_answer(system: System, payment_id: str) -> None:
    """Wait for the held answer to our inquiry, and deliver it."""

    async def held() -> Any:
        return [
            d for d in (await system.control("GET", "/callbacks"))["held"] if payment_id in d["url"]
        ]

    await system.eventually(held)
    await system.control("POST", "/callbacks/release", {"url_contains": payment_id})
