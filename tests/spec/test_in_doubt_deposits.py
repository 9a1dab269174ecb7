"""Deposits in doubt: they are never sent again, because they have no resend key.

The service inquires by STK query and waits for a callback. Silence does not prove that nothing was
paid.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_each,
    begin_in_doubt,
    event_types,
    inquiries,
    load_awaited,
    receipt_of,
    wait_for_inquiries,
    wait_for_inquiries_about_each,
    wait_until_observed,
)
from tests.spec.playing import PAID, failed, observe
from tests.spec.system import System

_NO_RESULT = failed("no_result_confirmed", None, safe=False)
_TEN_MINUTES = {"seconds": 600}


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


async def test_an_inquiry_settles_a_deposit_whose_callback_was_lost(system: System) -> None:
    """STK query returns no receipt. A later callback adds the receipt."""
    payment_id = await begin_in_doubt(system, "stk", "held_callback")
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["receipt"], payment["needs_review"]) == (
        "success",
        None,
        False,
    )
    await system.assert_money_agrees([payment_id])
    await system.control("POST", "/callbacks/release", {"url_contains": payment_id})
    payment = await system.payment(payment_id)
    assert payment["receipt"] == await receipt_of(system, payment_id)
    assert await event_types(system, payment_id) == ["succeeded", "receipt_added"]
    last = (await system.backend.history(payment_id))[-1]
    assert (last["stage"], last["what"]) == ("succeeded", "success_reported")


async def test_a_callback_settles_a_deposit_whose_acknowledgement_was_lost(system: System) -> None:
    """Daraja's acknowledgement is lost, and with it the `CheckoutRequestID`.

    So the worker cannot inquire. The callback's address still names the deposit.
    """
    scenarios = {"paid": {}, "declined": {"code": 1032}}
    ids = {
        label: await begin_in_doubt(system, "stk", "answer_lost_after_acting", **p)
        for label, p in scenarios.items()
    }
    expected = {"paid": PAID, "declined": failed("cancelled_by_customer", "1032")}
    await wait_until_observed(system, expected, ids)
    await system.assert_money_agrees(list(ids.values()))
    for payment_id in ids.values():
        assert await inquiries(system, payment_id) == []


async def test_a_deposit_without_a_checkout_request_id_fails_only_after_its_result_window(
    system: System,
) -> None:
    """Daraja's answer and its callback are lost, so no inquiry is possible.

    The failure says that a retry is not safe. A late success corrects the deposit.
    """
    payment_id = await begin_in_doubt(system, "stk", "answer_and_callback_lost")
    await wait_until_observed(
        system, {"it": replace(_NO_RESULT, moved=1)}, {"it": payment_id}, flagged_or_not=True
    )
    [attempt] = await system.rows(
        "SELECT * FROM mkwanja.attempts WHERE payment_id = $1::uuid", payment_id
    )
    [row] = await system.rows("SELECT * FROM mkwanja.payments WHERE id = $1::uuid", payment_id)
    assert (row["finalized_at"] - attempt["ended_at"]).total_seconds() >= 3
    assert await inquiries(system, payment_id) == []
    one = await load_awaited(system, payment_id, "stk")
    receipt = await receipt_of(system, payment_id)
    assert (await deliver(system, one.url, one.result(receipt=receipt))).status == 200
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["receipt"], payment["failure"]) == ("success", receipt, None)
    assert payment["needs_review"]
    assert await event_types(system, payment_id) == ["failed", "corrected"]


_SILENT = {
    "query_too_early": 3,
    "in_flight_b": 5,
    "in_flight_c": 5,
    "stray_500": 5,
    "query_unknown": 5,
}


async def test_only_inquiries_after_the_result_window_count_as_silence(system: System) -> None:
    """A deposit fails after Daraja answered three inquiries without a result.

    If one of these answers has the code 500.001.1001, five answers are needed.
    """
    ids = await begin_each(
        {
            name: begin_in_doubt(system, "stk", "slow_result", InquiryRule(name), **_TEN_MINUTES)
            for name in _SILENT
        }
    )
    await wait_until_observed(system, dict.fromkeys(ids, _NO_RESULT), ids, flagged_or_not=True)
    for name, payment_id in ids.items():
        assert (
            len(await wait_for_inquiries(system, payment_id, 1, after_window=True)) == _SILENT[name]
        ), name
        [row] = await system.rows(
            "SELECT next_step_at - now() AS wait FROM mkwanja.payments WHERE id = $1::uuid",
            payment_id,
        )
        assert 500 < row["wait"].total_seconds() <= 600, "the next inquiry comes after ten minutes"
    one = await load_awaited(system, ids["query_too_early"], "stk")
    await deliver(system, one.url, one.result(receipt="UKN7SLNT01"))
    assert (await system.payment(one.id))["status"] == "success"
    assert await event_types(system, one.id) == ["failed", "corrected"]


async def test_a_later_inquiry_corrects_a_deposit_that_failed_for_silence(system: System) -> None:
    payment_id = await begin_in_doubt(
        system, "stk", "lost_callback", InquiryRule("query_too_early")
    )
    payment = await system.in_stage(payment_id, "failed")
    assert payment["failure"]["reason"] == _NO_RESULT.reason
    await system.scenario("approve", api="stk_query", phone_number=payment["phone_number"])
    await system.execute(
        "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = $1::uuid", payment_id
    )
    await system.in_stage(payment_id, "succeeded")
    assert await event_types(system, payment_id) == ["failed", "corrected"]
    await system.assert_money_agrees([payment_id])


_NO_ANSWERS = [
    "html_503",
    "html_200",
    "internal_error_without_acting",
    "maintenance",
    "system_busy",
    "cut_before_acting",
    "wrong_credentials",
    "merchant_missing",
    "query_foreign_ids",
]


async def test_an_inquiry_without_an_answer_ends_no_deposit(system: System) -> None:
    """None of these answers is silence.

    The connection breaks, or Daraja answers with HTML, about another payment, "system is busy", an
    internal error, or an error that says that our credentials or our merchant are wrong.
    """
    ids = await begin_each(
        {
            name: begin_in_doubt(system, "stk", "slow_result", InquiryRule(name), **_TEN_MINUTES)
            for name in _NO_ANSWERS
        }
    )
    await wait_for_inquiries_about_each(system, ids.values(), 6, after_window=True)
    seen = await observe(system, ids)
    assert {one.stage for one in seen.values()} == {"awaiting_result"}


async def test_a_deposit_stays_pending_while_daraja_cannot_be_reached(system: System) -> None:
    """The deposit stays pending past its window. Once Daraja is back, an inquiry settles it."""
    payment_id = await begin_in_doubt(
        system, "stk", "lost_callback", InquiryRule("in_flight_a", times=1)
    )
    await system.in_stage(payment_id, "awaiting_result")
    await system.eventually(lambda: system.movements(payment_id))
    await system.control("POST", "/listener", {"open": False, "seconds": None})
    try:
        found = await wait_for_inquiries(system, payment_id, 4, after_window=True)
        assert (await system.payment(payment_id))["stage"] == "awaiting_result"
        assert not any(inquiry["verdict"] == "paid" for inquiry in found)
    finally:
        await system.control("POST", "/listener", {"open": True})
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["failure"]) == ("success", None)
    await system.assert_money_agrees([payment_id])


async def test_a_failure_found_by_inquiries_needs_two_answers_with_one_code(system: System) -> None:
    """One answer that says "failed" does not end the deposit. Two answers with the same code do.

    Answers with other codes may come between them.
    """
    answers = {
        "at once": (InquiryRule("query_contradicts", {"code": 1032}), 2),
        "in turn": (InquiryRule("query_codes_in_turn", {"codes": ["1032", "1037", "1"]}), 4),
    }
    ids = {
        label: await begin_in_doubt(system, "stk", "slow_result", answer, **_TEN_MINUTES)
        for label, (answer, _) in answers.items()
    }
    await wait_until_observed(
        system, dict.fromkeys(ids, failed("cancelled_by_customer", "1032")), ids
    )
    for label, (_, count) in answers.items():
        assert [inquiry["verdict"] for inquiry in await inquiries(system, ids[label])] == [
            "failed"
        ] * count


_IN_FLIGHT = (
    "in_flight_a",
    "in_flight_b",
    "in_flight_c",
    "stray_500",
    "query_too_early",
    "query_unknown",
    "html_200",
)


async def test_a_deposit_under_way_is_never_read_as_failed(system: System) -> None:
    """Daraja has the deposit, but answers "not yet", an error, or HTML.

    Later the deposit succeeds.
    """
    ids = await begin_each(
        {
            name: begin_in_doubt(system, "stk", "lost_callback", InquiryRule(name, times=2))
            for name in _IN_FLIGHT
        }
    )
    await wait_until_observed(system, dict.fromkeys(ids, PAID), ids)
    await system.assert_money_agrees(list(ids.values()))
    for payment_id in ids.values():
        assert await event_types(system, payment_id) == ["succeeded"]
