"""Payments of every kind under all failures of the customer, of Daraja and of the network.

Each payment ends in agreement with the simulator's ledger, or waits for Daraja's report. The tables
have the simulator's scenarios. The unit tests have a table of all result codes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.spec.playing import (
    AWAITED,
    IN_DOUBT,
    PAID,
    PAID_LATER,
    Api,
    Play,
    begin,
    count_sends,
    failed,
    play,
)
from tests.spec.system import System

# These payments are flagged: the service had published a failure, or had stored a success without
# receipt or amount.
_CORRECTED = _PAID_BY_INQUIRY = replace(PAID, needs_review=True)
_REPORTED_FAILED = failed("rejected_by_provider", "Failed")

_EACH_PAID = (
    *(
        Play(scenario, PAID)
        for scenario in (
            "approve", "duplicate_callbacks", "callback_before_answer", "answer_lost_after_acting",
            "internal_error_after_acting", "redirect_after_acting", "html_200", "garbage_200",
            "empty_200", "string_date", "string_codes", "shuffled_items",
        )
    ),
    Play("slow", PAID, {"seconds": 1}),
    Play("slow_result", PAID, {"seconds": 1}),
    Play("failure_then_success", _CORRECTED),
    Play("late_success_after_failure", _CORRECTED),
    # Daraja throttled the first send before it acted.
    Play("spike_arrest_apigee", PAID_LATER, times=1),
    Play("spike_arrest_json", PAID_LATER, times=1),
)  # fmt: skip
_PAYOUT_PAID = (
    *_EACH_PAID,
    Play("missing_value", PAID),
    Play("receipt_under_amount", PAID),
    # The id belongs to no payment, and the ConversationID is right.
    Play("result_names_another_id", PAID),
    Play("timeout_message", PAID, {"seconds": 0.5}),
)
_B2C_PAID = (*_PAYOUT_PAID, Play("single_object_parameter", PAID, {"code": 0}))
_PAID: dict[Api, tuple[Play, ...]] = {
    "stk": (*_EACH_PAID, Play("masked_phone", PAID)),
    "b2c": _B2C_PAID,
    "b2b": _PAYOUT_PAID,
    "b2pochi": _B2C_PAID,
}

_NO_FUNDS = failed("insufficient_funds", "1")
_EACH_FAILED = (
    Play("insufficient_funds", _NO_FUNDS),
    *(
        Play(scenario, _NO_FUNDS, {"code": 1})
        for scenario in (
            "duplicate_callbacks", "callback_before_answer", "answer_lost_after_acting",
            "string_codes",
        )
    ),
    # Refusals in forms that Daraja does not document.
    Play(
        "refused_otherwise",
        failed("rejected_by_provider", "BAD_REQUEST", safe=False),
        {"form": "unknown_code"},
    ),
    Play("refused_otherwise", failed("rejected_by_provider", None, safe=False), {"form": "page"}),
)  # fmt: skip
_PAYOUT_FAILED = (
    *_EACH_FAILED,
    Play("invalid_recipient", failed("invalid_recipient", "SFC_IC0003")),
    Play("single_object_parameter", failed("invalid_recipient", "2040")),
    Play("timeout_message", _NO_FUNDS, {"code": 1, "seconds": 0.5}),
)
_RECIPIENT_REFUSED = Play(
    "invalid_request", failed("invalid_recipient", "400.002.02"), {"field": "PartyB"}
)
_FAILED: dict[Api, tuple[Play, ...]] = {
    "stk": (
        *_EACH_FAILED,
        Play("cancel", failed("cancelled_by_customer", "1032")),
        Play("ignore", failed("no_response", "1037", safe=False)),
        Play("wrong_pin", failed("wrong_pin", "2001")),
        Play("merchant_missing", failed("configuration", "500.001.1001")),
        Play("subscriber_locked", failed("subscriber_busy", "500.001.1001")),
        Play(
            "invalid_request", failed("invalid_recipient", "400.002.02"), {"field": "PhoneNumber"}
        ),
    ),
    "b2c": (
        *_PAYOUT_FAILED,
        _RECIPIENT_REFUSED,
        Play("our_field_refused", failed("configuration", "400.002.02"), {"form": "ResultURL"}),
    ),
    "b2b": (
        *_PAYOUT_FAILED,
        Play("our_field_refused", failed("configuration", "400.002.02"), {"form": "PartyA"}),
        Play(
            "invalid_request",
            failed("rejected_by_provider", "400.002.02"),
            {"field": "AccountReference"},
        ),
    ),
    "b2pochi": (*_PAYOUT_FAILED, _RECIPIENT_REFUSED),
}

_MOVED_IN_DOUBT, _MOVED_AWAITED = replace(IN_DOUBT, moved=1), replace(AWAITED, moved=1)
_EACH_OPEN = (
    Play("answer_and_callback_lost", _MOVED_IN_DOUBT),
    *(
        Play(scenario, IN_DOUBT)
        for scenario in (
            "cut_before_acting", "internal_error_without_acting", "redirect_without_acting",
            "html_503", "error_envelope_200",
        )
    ),
    *(
        Play(scenario, IN_DOUBT, {"act": False})
        for scenario in ("html_200", "garbage_200", "empty_200")
    ),
    Play("lost_callback", _MOVED_AWAITED),
    Play("wrong_amount", replace(_MOVED_AWAITED, needs_review=True)),
)  # fmt: skip
_EACH_BUSY = (Play("system_busy", IN_DOUBT), Play("maintenance", IN_DOUBT))
_ID_REFUSED = (Play("duplicate_ocid", IN_DOUBT), Play("duplicate_ocid_async", AWAITED))
_OPEN: dict[Api, tuple[Play, ...]] = {
    "stk": (
        *_EACH_OPEN,
        *_EACH_BUSY,
        Play("unknown_code", AWAITED),
        *(Play("result_code", AWAITED, {"code": code}) for code in (1001, "00")),
    ),
    "b2c": (*_EACH_OPEN, *_ID_REFUSED),
    "b2b": (*_EACH_OPEN, *_EACH_BUSY),
    "b2pochi": (*_EACH_OPEN, *_EACH_BUSY, *_ID_REFUSED),
}

_EACH_INQUIRED = (
    Play("missing_metadata", _PAID_BY_INQUIRY),
    Play("missing_metadata", _PAID_BY_INQUIRY, {"absent": True}),
    Play("missing_receipt", _PAID_BY_INQUIRY),
)
_PAYOUT_INQUIRED = (
    *_EACH_INQUIRED,
    Play("timeout_message_only", failed("expired", "Expired", safe=False)),
    Play("unknown_code", _REPORTED_FAILED),
    *(Play("result_code", _REPORTED_FAILED, {"code": code}) for code in (17, "00")),
)
_B2C_INQUIRED = (*_PAYOUT_INQUIRED, Play("timeout_message_only", PAID, {"moves_money": True}))
_INQUIRED: dict[Api, tuple[Play, ...]] = {
    "stk": _EACH_INQUIRED,
    "b2c": _B2C_INQUIRED,
    "b2b": (*_PAYOUT_INQUIRED, Play("single_object_parameter", _PAID_BY_INQUIRY, {"code": 0})),
    "b2pochi": _B2C_INQUIRED,
}

_each_api = pytest.mark.parametrize("api", _PAID)


@_each_api
async def test_a_paid_payment_succeeds_once_whatever_the_form_of_its_result(
    system: System, api: Api
) -> None:
    """It also succeeds if Daraja's answer to the send was lost, or if Daraja throttled it once."""
    await play(system, api, _PAID[api])


@_each_api
async def test_a_payment_that_was_refused_or_not_paid_fails_with_a_reason(
    system: System, api: Api
) -> None:
    """The failure says whether a retry is safe."""
    await play(system, api, _FAILED[api])


@_each_api
async def test_a_payment_without_a_definite_answer_or_result_stays_open_and_is_not_sent_again(
    system: System, api: Api
) -> None:
    await play(system, api, _OPEN[api])


@_each_api
async def test_an_inquiry_settles_a_payment_that_its_result_does_not_decide(
    system: System, api: Api
) -> None:
    """The result is incomplete, is a timeout message, or has an unknown or unclear code."""
    await play(system, api, _INQUIRED[api], results_after_answers=True)


async def test_money_that_moves_after_a_refusal_corrects_it(system: System) -> None:
    """Daraja refuses in an unknown form, but moves the money. The success outranks the refusal."""
    forms = ("status_error", "nothing")
    table = [Play("refused_otherwise", _CORRECTED, {"form": form, "act": True}) for form in forms]
    await play(system, "stk", table)


async def test_the_history_shows_backends_the_text_of_a_refusal(system: System) -> None:
    """An app's user does not see the text, because the text may name our settings."""
    payment_id = await begin(system, "stk", "refused_otherwise", form="status_error")
    await system.settled(payment_id)
    [*_, last] = await system.backend.history(payment_id)
    assert (last["what"], last["detail"]["http_status"]) == ("refused", "400")
    assert "The element AccountReference is invalid." in last["detail"]["provider_said"]
    [*_, seen_by_user] = await system.user.history(payment_id)
    assert "provider_said" not in seen_by_user["detail"]


async def test_the_worker_replaces_expired_tokens_and_pays_once(system: System) -> None:
    """All access tokens expire at once. Each payment is sent again at most once."""
    await system.settled(await system.deposit())
    await system.control("POST", "/tokens/expire")
    payment_ids = await _one_of_each_kind(system)
    await system.wait_until_paid(payment_ids)
    for payment_id in payment_ids:
        assert await count_sends(system, payment_id) <= 2


async def test_payments_wait_while_daraja_refuses_connections(system: System) -> None:
    """The worker can write no byte. Once Daraja is back, each payment is sent and paid once."""
    await system.control("POST", "/listener", {"open": False, "seconds": None})
    try:
        payment_ids = await _one_of_each_kind(system)
        sql = "SELECT DISTINCT payment_id FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[])"
        await system.eventually(
            lambda: system.rows(sql, payment_ids), lambda rows: len(rows) == len(payment_ids)
        )
    finally:
        await system.control("POST", "/listener", {"open": True})
    await system.wait_until_paid(payment_ids)
    for payment_id in payment_ids:
        assert await count_sends(system, payment_id) == 1


async def _one_of_each_kind(system: System) -> list[str]:
    makers = (system.deposit, system.withdrawal, system.bill_payment, system.pochi_payment)
    return [await make() for make in makers]


@pytest.mark.parametrize("scenario", ["cut_before_acting", "system_busy"])
async def test_a_pochi_payment_that_daraja_does_not_know_is_never_sent_again(
    inquiring_system: System, scenario: str
) -> None:
    """No source says that Daraja refuses a second use of the id, so a resend could pay twice."""
    system = inquiring_system
    payment_id = await begin(system, "b2pochi", scenario, times=1)
    not_found = (
        "SELECT number FROM mkwanja.inquiries WHERE payment_id = $1::uuid AND verdict = 'not_found'"
    )
    await system.eventually(lambda: system.rows(not_found, payment_id), lambda rows: len(rows) >= 5)
    assert (await system.payment(payment_id))["stage"] == "in_doubt"
    assert await count_sends(system, payment_id) == 1
