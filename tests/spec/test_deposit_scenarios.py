"""Deposits under all failures of the customer, of Daraja and of the network.

Each deposit ends in the state of its money, or waits for Daraja's report.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.spec.in_doubt import event_types
from tests.spec.playing import (
    AWAITED,
    CORRECTED,
    IN_DOUBT,
    PAID,
    PAID_BY_INQUIRY,
    PAID_LATER,
    SUCCESSES,
    Api,
    Play,
    begin,
    count_sends,
    failed,
    play,
    refusals_in_other_envelopes,
    results,
)
from tests.spec.system import System

_PAID = [*SUCCESSES, Play("balance_without_value", PAID), Play("masked_phone", PAID)]

_FAILED = [
    Play("cancel", failed("cancelled_by_customer", "1032")),
    Play("ignore", failed("no_response", "1037", safe=False)),
    Play("wrong_pin", failed("wrong_pin", "2001")),
    Play("insufficient_funds", failed("insufficient_funds", "1")),
    Play("duplicate_callbacks", failed("cancelled_by_customer", "1032"), {"code": 1032}),
    Play("callback_before_answer", failed("cancelled_by_customer", "1032"), {"code": 1032}),
    Play("answer_lost_after_acting", failed("cancelled_by_customer", "1032"), {"code": 1032}),
    Play("string_codes", failed("no_response", "1037", safe=False), {"code": 1037}),
]

_CODES = {
    "1": ("insufficient_funds", True),
    "2": ("limit_exceeded", True),
    "3": ("limit_exceeded", True),
    "4": ("limit_exceeded", True),
    "8": ("limit_exceeded", True),
    "1019": ("expired", False),
    "1031": ("cancelled_by_customer", True),
    "1032": ("cancelled_by_customer", True),
    "1036": ("no_response", False),
    "1037": ("no_response", False),
    "2001": ("wrong_pin", True),
    "2028": ("configuration", True),
    "8006": ("wrong_pin", True),
    "E3008": ("rejected_by_provider", True),
    "SFC_IC0003": ("configuration", True),
}

_REFUSED = [
    Play("merchant_missing", failed("configuration", "500.001.1001")),
    Play("wrong_credentials", failed("configuration", "500.001.1001")),
    Play("subscriber_locked", failed("subscriber_busy", "500.001.1001")),
    Play("invalid_request", failed("invalid_recipient", "400.002.02"), {"field": "PhoneNumber"}),
    *refusals_in_other_envelopes(),
]

_REFUSED_YET_PAID = [
    Play("refused_otherwise", CORRECTED, {"form": "status_error", "act": True}),
    Play("refused_otherwise", CORRECTED, {"form": "nothing", "act": True}),
]

_PAID_LATER = [
    Play("spike_arrest_apigee", PAID_LATER, times=1),
    Play("spike_arrest_json", PAID_LATER, times=1),
    Play("quota", PAID_LATER, times=1),
]

_IN_DOUBT = [
    Play("answer_and_callback_lost", replace(IN_DOUBT, moved=1)),
    Play("cut_before_acting", IN_DOUBT),
    Play("internal_error_without_acting", IN_DOUBT),
    Play(
        "internal_error_without_acting",
        IN_DOUBT,
        {"error_code": "500.001.1001", "error_message": "Words of no known error"},
    ),
    Play("system_busy", IN_DOUBT),
    Play("maintenance", IN_DOUBT),
    Play("redirect_without_acting", IN_DOUBT),
    Play("html_200", IN_DOUBT, {"act": False}),
    Play("html_503", IN_DOUBT),
    Play("garbage_200", IN_DOUBT, {"act": False}),
    Play("empty_200", IN_DOUBT, {"act": False}),
    Play("error_envelope_200", IN_DOUBT),
]

_AWAITED = [
    Play("lost_callback", replace(AWAITED, moved=1)),
    Play("wrong_amount", replace(AWAITED, moved=1, needs_review=True)),
    Play("unknown_code", AWAITED),
    *(
        Play("result_code", AWAITED, {"code": code})
        for code in (17, 26, 1001, 1025, 4999, 9999, "E9999", "0.0", "00")
    ),
]


_INCOMPLETE = [
    Play("missing_metadata", PAID_BY_INQUIRY),
    Play("missing_metadata", PAID_BY_INQUIRY, {"absent": True}),
    Play("missing_receipt", PAID_BY_INQUIRY),
]


async def test_a_paid_deposit_succeeds_whatever_the_form_of_its_result(system: System) -> None:
    """It succeeds once, also if the answer to the request was lost."""
    await play(system, "stk", _PAID)


async def test_a_deposit_that_the_customer_did_not_pay_fails_with_a_reason(system: System) -> None:
    """The customer declined, missed or could not pay it. The failure says if a retry is safe."""
    await play(system, "stk", _FAILED)


async def test_each_result_code_of_a_deposit_has_its_reason(system: System) -> None:
    """Every final code of the contract maps to one reason of the closed list."""
    await play(system, "stk", results(_CODES))


async def test_a_deposit_that_daraja_refuses_fails_at_once(system: System) -> None:
    """If Daraja clearly refuses the request itself, the caller may safely retry."""
    await play(system, "stk", _REFUSED)


async def test_money_that_moves_after_a_refusal_corrects_it(system: System) -> None:
    """Daraja refuses in an unknown form, and the money moves anyway: a success outranks it."""
    await play(system, "stk", _REFUSED_YET_PAID)


async def test_the_history_shows_backends_the_text_of_a_refusal(system: System) -> None:
    """It explains a refusal without a code.

    An app's user does not see the text, because it may name our settings.
    """
    payment_id = await begin(system, "stk", "refused_otherwise", form="status_error")
    assert (await system.settled(payment_id))["failure"]["reason"] == "rejected_by_provider"
    [*_, last] = await system.backend.history(payment_id)
    assert (last["what"], last["detail"]["http_status"]) == ("refused", "400")
    assert "The element AccountReference is invalid." in last["detail"]["provider_said"]
    [*_, seen_by_user] = await system.user.history(payment_id)
    assert "provider_said" not in seen_by_user["detail"]


async def test_the_worker_resends_a_payment_that_daraja_throttled(system: System) -> None:
    """Daraja refused it before it acted (too many requests). It is paid once."""
    apis: list[Api] = ["stk", "b2c", "b2b"]
    await asyncio.gather(*(play(system, api, _PAID_LATER) for api in apis))


async def test_a_deposit_without_a_clear_answer_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    """It keeps a due time."""
    await play(system, "stk", _IN_DOUBT)


async def test_a_deposit_without_a_definite_result_stays_open(system: System) -> None:
    """The result is lost or unknown, or names another amount, or its code must be verified."""
    await play(system, "stk", _AWAITED)


async def test_the_worker_inquires_about_a_success_without_receipt_or_amount(
    system: System,
) -> None:
    """It inquires at once. Daraja confirms the payment, and the deposit is flagged."""
    ids = await play(system, "stk", _INCOMPLETE, results_after_answers=True)
    assert {(await system.payment(payment_id))["receipt"] for payment_id in ids.values()} == {None}


async def test_a_late_success_corrects_a_failed_deposit(system: System) -> None:
    """Its history and its events show both reports."""
    payment_id = await begin(system, "stk", "late_success_after_failure")
    await system.in_stage(payment_id, "failed")
    payment = await system.in_stage(payment_id, "succeeded")
    assert (payment["status"], payment["failure"]) == ("success", None)
    assert await system.stages(payment_id) == [
        "accepted",
        "submitting",
        "awaiting_result",
        "failed",
        "succeeded",
    ]
    assert await event_types(system, payment_id) == ["failed", "corrected"]
    await system.assert_money_agrees([payment_id])


@pytest.mark.parametrize("api", ["stk", "b2c", "b2b"])
async def test_the_worker_replaces_a_refused_token_once(system: System, api: Api) -> None:
    """Each API refuses an invalid token differently. The payment is paid once."""
    await play(system, api, [Play("token_expired", PAID_LATER, times=1)])


async def test_the_worker_replaces_expired_tokens_and_pays_once(system: System) -> None:
    """All access tokens expire at once. Each payment is sent again at most once."""
    await system.settled(await system.deposit())
    await system.control("POST", "/tokens/expire")
    payment_ids = [
        await system.deposit(phone_number="0722100001"),
        await system.withdrawal(phone_number="0722100002"),
        await system.bill_payment(),
    ]
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
        assert await count_sends(system, payment_id) <= 2
    await system.assert_money_agrees(payment_ids)


async def test_payments_wait_while_daraja_refuses_connections(system: System) -> None:
    """No byte can have been written. Once Daraja is back, each is sent once and paid once."""
    await system.control("POST", "/listener", {"open": False, "seconds": None})
    try:
        payment_ids = [
            await system.deposit(phone_number="0722100003"),
            await system.withdrawal(phone_number="0722100004"),
            await system.bill_payment(till="556699"),
        ]
        sql = "SELECT DISTINCT payment_id FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[])"
        await system.eventually(
            lambda: system.rows(sql, payment_ids), lambda rows: len(rows) == len(payment_ids)
        )
    finally:
        await system.control("POST", "/listener", {"open": True})
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
        assert await count_sends(system, payment_id) == 1
    await system.assert_money_agrees(payment_ids)
