"""Bill payments under all failures of Daraja and of the network.

Daraja accepts no key for them, so a bill payment in doubt must never be sent again.
"""

from __future__ import annotations

from tests.spec.playing import (
    IN_DOUBT,
    PAID,
    PAID_BY_INQUIRY,
    PAYOUT_FAILURES,
    PAYOUTS_AWAITED,
    PAYOUTS_IN_DOUBT,
    PAYOUTS_INQUIRED,
    REPORTED_FAILED,
    SUCCESSES,
    Play,
    failed,
    play,
    refusals_in_other_envelopes,
    results,
)
from tests.spec.system import System

_PAID = [
    *SUCCESSES,
    Play("missing_value", PAID),
    Play("timeout_message", PAID, {"seconds": 0.5}),
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

_IN_DOUBT = [*PAYOUTS_IN_DOUBT, Play("system_busy", IN_DOUBT), Play("maintenance", IN_DOUBT)]

_INQUIRED = [
    *PAYOUTS_INQUIRED,
    Play("single_object_parameter", PAID_BY_INQUIRY, {"code": 0}),
    *(Play("result_code", REPORTED_FAILED, {"code": code}) for code in (17, 26, 100000000, "00")),
]


async def test_a_paid_bill_succeeds_whatever_the_form_of_its_result(system: System) -> None:
    """It succeeds once, also if the answer to the request was lost."""
    ids = await play(system, "b2b", _PAID)
    assert (await system.payment(ids["approve"]))["recipient_name"] == "SUPPLIER LTD"


async def test_a_bill_that_was_not_paid_fails_with_a_reason(system: System) -> None:
    await play(system, "b2b", PAYOUT_FAILURES)


async def test_each_result_code_of_a_bill_payment_has_its_reason(system: System) -> None:
    """Every final code of the contract maps to one reason of the closed list."""
    await play(system, "b2b", results(_CODES))


async def test_a_bill_payment_that_daraja_refuses_fails_at_once(system: System) -> None:
    """If Daraja clearly refuses the request itself, the caller may safely retry."""
    await play(system, "b2b", _REFUSED)


async def test_a_bill_payment_without_a_clear_answer_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    await play(system, "b2b", _IN_DOUBT)


async def test_a_bill_payment_without_a_definite_result_stays_open(system: System) -> None:
    """The result is lost, or it names another amount."""
    await play(system, "b2b", PAYOUTS_AWAITED)


async def test_transaction_status_settles_a_bill_that_its_result_does_not_decide(
    system: System,
) -> None:
    """The result is incomplete, unknown, a timeout message, or has a code to verify."""
    await play(system, "b2b", _INQUIRED, results_after_answers=True)
