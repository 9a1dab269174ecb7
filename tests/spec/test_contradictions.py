"""Reports that contradict each other: a success outranks a failure.

The service stores and counts every contradiction, flags its payment, and publishes corrections.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.spec.delivering import OPERATIONS, AwaitedPayment, deliver_result
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    count_stored,
    event_types,
    history_facts,
    load_awaited,
    wait_for_inquiries,
)
from tests.spec.listening import listening
from tests.spec.playing import Api
from tests.spec.system import System

_APIS: list[Api] = ["stk", "b2c", "b2b"]
_FAILED = {"stk": 1032, "b2c": 1, "b2b": 1}


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


_receipt_numbers = itertools.count(10)


def _new_receipt() -> str:
    return f"UKN7CNTR{next(_receipt_numbers)}"


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


async def _assert_success(
    system: System, payment_id: str, *events: str, receipt: str | None
) -> None:
    """Check that the payment succeeded, is flagged, and published these events."""
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["failure"]) == ("success", None)
    assert (payment["receipt"], payment["needs_review"]) == (receipt, True)
    assert await event_types(system, payment_id) == list(events)


async def _assert_stored(system: System, one: AwaitedPayment, *dispositions: str) -> None:
    """Check the dispositions of the payment's own callbacks, in their order."""
    rows = await system.callbacks(one.id)
    found = [row["disposition"] for row in rows if row["operation"] == OPERATIONS[one.api]]
    assert found == list(dispositions)


async def _assert_facts(system: System, payment_id: str, *facts: str) -> None:
    """Check the facts of the payment's history after its acknowledgement."""
    assert (await history_facts(system, payment_id))[3:] == list(facts)


@pytest.mark.parametrize("api", _APIS)
async def test_a_late_success_corrects_a_failure(system: System, api: Api) -> None:
    """The payment succeeds and is flagged. Its second event is of the type "corrected"."""
    one, receipt = await _begin_awaited(system, api), _new_receipt()
    await deliver_result(system, one, code=_FAILED[api])
    assert (await system.payment(one.id))["status"] == "failed"
    before = await count_stored(system, "corrected")
    async with listening(system) as listener:
        await deliver_result(system, one, receipt=receipt)
        received = await system.eventually(lambda: listener.events(one.id))
    assert [event["type"] for event in received] == ["mkwanja.payment.corrected"]
    assert await count_stored(system, "corrected") == before + 1
    await _assert_success(system, one.id, "failed", "corrected", receipt=receipt)
    await _assert_facts(system, one.id, "failure_reported", "success_reported")
    await _assert_stored(system, one, "finalized", "corrected")


@pytest.mark.parametrize("api", _APIS)
async def test_a_failure_after_a_success_only_flags_the_payment(system: System, api: Api) -> None:
    """The failure is stored each time, and no event is published."""
    one, receipt = await _begin_awaited(system, api), _new_receipt()
    await deliver_result(system, one, receipt=receipt)
    before = await count_stored(system, "contradiction")
    for _ in range(2):
        await deliver_result(system, one, code=_FAILED[api])
    assert await count_stored(system, "contradiction") == before + 2
    await _assert_success(system, one.id, "succeeded", receipt=receipt)
    await _assert_facts(system, one.id, "success_reported", "contradiction")
    await _assert_stored(system, one, "finalized", "contradiction", "contradiction")


async def test_a_success_without_receipt_gets_its_receipt_later(system: System) -> None:
    """The callback has no receipt and flags the deposit. An STK query settles the deposit.

    A later callback adds the receipt, and an event publishes it.
    """
    one = await _begin_awaited(system, "stk", InquiryRule("query_contradicts", {"code": 0}))
    receipt = _new_receipt()
    await deliver_result(system, one, receipt=...)
    await system.in_stage(one.id, "succeeded")
    await _assert_success(system, one.id, "succeeded", receipt=None)
    async with listening(system) as listener:
        await deliver_result(system, one, receipt=receipt)
        [event] = await system.eventually(lambda: listener.events(one.id))
    assert event["type"] == "mkwanja.payment.receipt_added"
    assert event["data"]["receipt"] == receipt
    await deliver_result(system, one, receipt=_new_receipt())
    await _assert_success(system, one.id, "succeeded", "receipt_added", receipt=receipt)
    await _assert_stored(system, one, "success_without_receipt", "receipt_added", "contradiction")


async def test_a_successful_callback_outranks_a_failed_query(system: System) -> None:
    """One query that reports a failure ends nothing. A second one fails the deposit.

    A callback with a success then corrects the deposit.
    """
    failed_query, receipt = InquiryRule("query_contradicts", {"code": 1037}, 1), _new_receipt()
    once = await _begin_awaited(system, "stk", failed_query, InquiryRule("cut_before_acting"))
    await wait_for_inquiries(system, once.id, 1)
    await deliver_result(system, once, receipt=receipt)
    assert (await system.payment(once.id))["receipt"] == receipt
    assert await event_types(system, once.id) == ["succeeded"]
    twice = await _begin_awaited(system, "stk", InquiryRule("query_contradicts", {"code": 1037}))
    failure, receipt = (await system.settled(twice.id))["failure"], _new_receipt()
    assert (failure["reason"], failure["safe_to_retry"]) == ("no_response", False)
    await deliver_result(system, twice, receipt=receipt)
    await _assert_success(system, twice.id, "failed", "corrected", receipt=receipt)
