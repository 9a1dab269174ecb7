"""Bill payments, whatever Daraja and the network do: Daraja gives them no key, so nothing may
ever be sent twice.
"""

from __future__ import annotations

from dataclasses import replace

from tests.spec.playing import (
    AWAITED,
    CORRECTED,
    IN_DOUBT,
    PAID,
    PAID_BY_INQUIRY,
    Play,
    failed,
    play,
    refusals_in_other_envelopes,
    results,
)
from tests.spec.system import System

_PAID = [
    Play("approve", PAID),
    Play("slow", PAID, {"seconds": 1}),
    Play("slow_result", PAID, {"seconds": 1}),
    Play("duplicate_callbacks", PAID),
    Play("callback_before_answer", PAID),
    Play("answer_lost_after_acting", PAID),
    Play("internal_error_after_acting", PAID),
    Play("redirect_after_acting", PAID),
    Play("html_200", PAID),
    Play("garbage_200", PAID),
    Play("empty_200", PAID),
    Play("string_date", PAID),
    Play("string_codes", PAID),
    Play("missing_value", PAID),
    Play("shuffled_items", PAID),
    Play("timeout_message", PAID, {"seconds": 0.5}),
    Play("failure_then_success", CORRECTED),
    Play("late_success_after_failure", CORRECTED),
]

_FAILED = [
    Play("insufficient_funds", failed("insufficient_funds", "1")),
    Play("unregistered_recipient", failed("invalid_recipient", "2040")),
    Play("invalid_recipient", failed("invalid_recipient", "SFC_IC0003")),
    Play("single_object_parameter", failed("invalid_recipient", "2040")),
    Play("string_codes", failed("insufficient_funds", "1"), {"code": 1}),
    Play("duplicate_callbacks", failed("insufficient_funds", "1"), {"code": 1}),
    Play("callback_before_answer", failed("insufficient_funds", "1"), {"code": 1}),
    Play("answer_lost_after_acting", failed("insufficient_funds", "1"), {"code": 1}),
    Play("timeout_message", failed("insufficient_funds", "1"), {"code": 1, "seconds": 0.5}),
]

_CODES = {
    "1": ("insufficient_funds", True),
    "3": ("limit_exceeded", True),
    "4": ("limit_exceeded", True),
    "8": ("limit_exceeded", True),
    "11": ("configuration", True),
    "25": ("configuration", True),
    "2006": ("rejected_by_provider", True),
    "2028": ("configuration", True),
    "2040": ("invalid_recipient", True),
    "SFC_IC0003": ("invalid_recipient", True),
}

_REFUSED = [
    Play("our_field_refused", failed("configuration", "400.002.02"), {"form": "PartyA"}),
    *refusals_in_other_envelopes(),
    Play(
        "invalid_request",
        failed("rejected_by_provider", "400.002.02"),
        {"field": "AccountReference"},
    ),
]

_IN_DOUBT = [
    Play("answer_and_callback_lost", replace(IN_DOUBT, moved=1)),
    Play("cut_before_acting", IN_DOUBT),
    Play("internal_error_without_acting", IN_DOUBT),
    Play("system_internal_error", IN_DOUBT),
    Play("system_busy", IN_DOUBT),
    Play("maintenance", IN_DOUBT),
    Play("redirect_without_acting", IN_DOUBT),
    Play("html_200", IN_DOUBT, {"act": False}),
    Play("html_503", IN_DOUBT),
    Play("garbage_200", IN_DOUBT, {"act": False}),
    Play("empty_200", IN_DOUBT, {"act": False}),
    Play("error_envelope_200", IN_DOUBT),
]

_SAID_FAILED = failed("rejected_by_provider", "Failed")

_AWAITED = [
    Play("lost_callback", replace(AWAITED, moved=1)),
    Play("wrong_amount", replace(AWAITED, moved=1, needs_review=True)),
]

# What the result does not decide, Daraja is asked at once.
_ASKED = [
    Play("missing_metadata", PAID_BY_INQUIRY),
    Play("missing_metadata", PAID_BY_INQUIRY, {"absent": True}),
    Play("missing_receipt", PAID_BY_INQUIRY),
    Play("single_object_parameter", PAID_BY_INQUIRY, {"code": 0}),
    Play("timeout_message_only", failed("expired", "Expired", safe=False)),
    Play("unknown_code", _SAID_FAILED),
    *(Play("result_code", _SAID_FAILED, {"code": code}) for code in (17, 26, 100000000, "00")),
]


async def test_a_bill_that_was_paid_succeeds_however_it_is_told(system: System) -> None:
    """A bill that was paid succeeds once, whatever became of the answer and in whatever shape
    the result comes.
    """
    ids = await play(system, "b2b", _PAID)
    assert (await system.payment(ids["approve"]))["recipient_name"] == "SUPPLIER LTD"


async def test_a_bill_that_was_not_paid_fails_with_a_reason(system: System) -> None:
    """A bill payment that Daraja could not make fails, and says why."""
    await play(system, "b2b", _FAILED)


async def test_each_result_code_of_a_bill_payment_has_its_reason(system: System) -> None:
    """A result code that the contract calls final ends a bill payment with one reason of the
    closed list.
    """
    await play(system, "b2b", results(_CODES))


async def test_a_bill_payment_that_daraja_refuses_fails_at_once(system: System) -> None:
    """A definite no to the request itself fails the bill payment, and is safe to retry."""
    await play(system, "b2b", _REFUSED)


async def test_a_bill_payment_that_may_have_acted_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    """A bill payment whose request left and got no definite answer is in doubt, and never sent
    again.
    """
    await play(system, "b2b", _IN_DOUBT)


async def test_a_bill_payment_without_a_definite_result_stays_open(system: System) -> None:
    """A lost result, or one that names another amount, finalizes nothing."""
    await play(system, "b2b", _AWAITED)


async def test_what_a_result_does_not_decide_transaction_status_does(system: System) -> None:
    """An incomplete or unknown result, a timeout message, or a code to be verified: Daraja is
    asked, and its word ends it.
    """
    await play(system, "b2b", _ASKED, results_after_answers=True)
