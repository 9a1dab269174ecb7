"""Deposits in doubt: no key, so nothing is sent twice; Daraja is asked, its URL is listened to,
and silence is no proof.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    event_types,
    inquiries,
    load_awaited,
    receipt_of,
    wait_for_inquiries,
    wait_until_observed,
)
from tests.spec.playing import AWAITED, IN_DOUBT, PAID, failed, observe
from tests.spec.system import System

_NO_RESULT = failed("no_result_confirmed", None, safe=False)
_TEN_MINUTES = {"seconds": 600}


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that asks soon."""
    return inquiring_system


async def test_a_deposit_whose_callback_was_lost_is_found_by_asking(system: System) -> None:
    """STK query says that it was paid and names no receipt: the deposit succeeds without one,
    and a later callback adds it.
    """
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


async def test_a_deposit_whose_answer_was_lost_is_ended_by_its_address(system: System) -> None:
    """Without a CheckoutRequestID there is nothing to ask by; the callback finds the deposit by
    its URL.
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


async def test_silence_ends_a_deposit_that_cannot_be_asked_about_only_after_its_window(
    system: System,
) -> None:
    """No id and no callback: after the window it fails as not confirmed, not safe to retry; a
    late success corrects it.
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


async def test_silence_ends_a_deposit_only_when_asked_after_its_window(system: System) -> None:
    """Three answers without a result to questions after the window end it, five where one was
    Daraja's vaguest code.
    """
    begun = [
        begin_in_doubt(system, "stk", "slow_result", InquiryRule(name), **_TEN_MINUTES)
        for name in _SILENT
    ]
    ids = dict(zip(_SILENT, await asyncio.gather(*begun), strict=True))
    await wait_until_observed(system, dict.fromkeys(ids, _NO_RESULT), ids, flagged_or_not=True)
    for name, payment_id in ids.items():
        assert (
            len(await wait_for_inquiries(system, payment_id, 1, after_window=True)) == _SILENT[name]
        ), name
        [row] = await system.rows(
            "SELECT next_step_at - now() AS wait FROM mkwanja.payments WHERE id = $1::uuid",
            payment_id,
        )
        assert 500 < row["wait"].total_seconds() <= 600, "it is asked about again after ten minutes"
    one = await load_awaited(system, ids["query_too_early"], "stk")
    await deliver(system, one.url, one.result(receipt="UKN7SLNT01"))
    assert (await system.payment(one.id))["status"] == "success"
    assert await event_types(system, one.id) == ["failed", "corrected"]


async def test_still_under_processing_is_an_answer_and_no_silence(system: System) -> None:
    """A deposit that M-PESA says is under processing stays pending past its window, a quarter of
    an hour at the most.
    """
    payment_id = await begin_in_doubt(
        system, "stk", "slow_result", InquiryRule("in_flight_a"), **_TEN_MINUTES
    )
    found = await wait_for_inquiries(system, payment_id, 7, after_window=True)
    assert {inquiry["verdict"] for inquiry in found[:6]} == {"under_way"}
    assert (await system.payment(payment_id))["stage"] == "awaiting_result"
    earlier = (
        "UPDATE mkwanja.attempts SET {0} = {0} - interval '15 minutes' WHERE payment_id = $1::uuid"
    )
    for column in ("claimed_at", "ended_at"):
        await system.execute(earlier.format(column), payment_id)
    await wait_until_observed(system, {"it": _NO_RESULT}, {"it": payment_id}, flagged_or_not=True)


async def test_a_second_look_corrects_what_failed_for_silence(system: System) -> None:
    """A deposit that failed for silence is asked about again, and a success found then is a
    correction.
    """
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


async def test_what_is_no_answer_ends_no_deposit(system: System) -> None:
    """Broken connections, HTML, other errors and answers about another payment are no silence:
    the deposit stays pending.
    """
    begun = [
        begin_in_doubt(system, "stk", "slow_result", InquiryRule(name), **_TEN_MINUTES)
        for name in _NO_ANSWERS
    ]
    ids = dict(zip(_NO_ANSWERS, await asyncio.gather(*begun), strict=True))
    await asyncio.gather(
        *(
            wait_for_inquiries(system, payment_id, 6, after_window=True)
            for payment_id in ids.values()
        )
    )
    assert {
        label: one.stage for label, one in (await observe(system, ids)).items()
    } == dict.fromkeys(ids, "awaiting_result")


async def test_being_told_to_ask_less_ends_no_deposit(system: System) -> None:
    """429 is no answer: a deposit that Daraja will not let us ask about stays pending, and is
    found when it does.
    """
    payment_id = await begin_in_doubt(
        system, "stk", "lost_callback", InquiryRule("spike_arrest_apigee", times=7)
    )
    await wait_for_inquiries(system, payment_id, 7)
    assert "failed" not in await system.stages(payment_id)
    assert (await system.settled(payment_id))["status"] == "success"
    await system.assert_money_agrees([payment_id])


async def test_while_daraja_is_out_of_reach_a_deposit_stays_pending(system: System) -> None:
    """Past its window a deposit that nobody can be asked about is pending still; once Daraja is
    back its truth is found.
    """
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


async def test_a_claim_of_success_keeps_a_deposit_open(system: System) -> None:
    """While a stored callback says paid and not what, no silence ends the deposit: it is
    pending, and a person is called.
    """
    payment_id = await begin_in_doubt(
        system, "stk", "slow_result", InquiryRule("query_too_early"), **_TEN_MINUTES
    )
    await system.in_stage(payment_id, "awaiting_result")
    one = await load_awaited(system, payment_id, "stk")
    await deliver(system, one.url, one.result(receipt=...))
    await wait_for_inquiries(system, payment_id, 6, after_window=True)
    assert await observe(system, {"it": payment_id}) == {"it": replace(AWAITED, needs_review=True)}


async def test_a_failure_learned_by_asking_needs_two_answers_that_agree(system: System) -> None:
    """One query that says failed ends nothing; two with the same code do, whatever other codes
    came between.
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
    for label, (_, questions) in answers.items():
        assert [inquiry["verdict"] for inquiry in await inquiries(system, ids[label])] == [
            "failed"
        ] * questions


async def test_a_query_that_is_wrong_once_ends_nothing(system: System) -> None:
    """Queries have contradicted the truth: one that says failed, then one that says paid, is a
    success.
    """
    payment_id = await begin_in_doubt(
        system, "stk", "lost_callback", InquiryRule("query_contradicts", {"code": 1037}, 1)
    )
    await wait_until_observed(system, {"it": PAID}, {"it": payment_id})
    assert [inquiry["verdict"] for inquiry in await inquiries(system, payment_id)] == [
        "failed",
        "paid",
    ]
    assert await event_types(system, payment_id) == ["succeeded"]


_IN_FLIGHT = (
    "in_flight_a",
    "in_flight_b",
    "in_flight_c",
    "stray_500",
    "query_too_early",
    "query_unknown",
    "html_200",
)


async def test_a_payment_under_way_is_never_read_as_failed(system: System) -> None:
    """Every shape of "not yet", and an error for a known id, ends nothing: the truth that
    follows is a success.
    """
    begun = [
        begin_in_doubt(system, "stk", "lost_callback", InquiryRule(name, times=2))
        for name in _IN_FLIGHT
    ]
    ids = dict(zip(_IN_FLIGHT, await asyncio.gather(*begun), strict=True))
    await wait_until_observed(system, dict.fromkeys(ids, PAID), ids)
    await system.assert_money_agrees(list(ids.values()))
    for payment_id in ids.values():
        assert await event_types(system, payment_id) == ["succeeded"]


async def test_a_deposit_in_doubt_is_never_sent_again(system: System) -> None:
    """A deposit has no key: cut or told that Daraja is busy, it is sent once, and fails for
    silence without another prompt.
    """
    names = ("cut_before_acting", "system_busy", "maintenance")
    ids = {name: await begin_in_doubt(system, "stk", name, times=1) for name in names}
    for payment_id in ids.values():
        assert IN_DOUBT.stage == (await system.in_stage(payment_id, "in_doubt"))["stage"]
    await wait_until_observed(system, dict.fromkeys(ids, _NO_RESULT), ids, flagged_or_not=True)
