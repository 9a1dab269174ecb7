"""Withdrawals, whatever Daraja and the network do.

Each is paid once under one id, or not at all, or inquired about.
"""

from __future__ import annotations

from typing import Any

from tests.spec.playing import (
    IN_DOUBT,
    PAID,
    PAYOUT_FAILURES,
    PAYOUTS_AWAITED,
    PAYOUTS_IN_DOUBT,
    PAYOUTS_INQUIRED,
    REPORTED_FAILED,
    SUCCESSES,
    Play,
    begin,
    count_sends,
    failed,
    play,
    refusals_in_other_envelopes,
    results,
)
from tests.spec.system import System

_PAID = [
    *SUCCESSES,
    Play("missing_value", PAID),
    Play("single_object_parameter", PAID, {"code": 0}),
    Play("timeout_message", PAID, {"seconds": 0.5}),
]

_CODES = {
    "1": ("insufficient_funds", True),
    "2": ("limit_exceeded", True),
    "3": ("limit_exceeded", True),
    "4": ("limit_exceeded", True),
    "8": ("limit_exceeded", True),
    "11": ("configuration", True),
    "22": ("configuration", True),
    "24": ("configuration", True),
    "25": ("configuration", True),
    "29": ("configuration", True),
    "2006": ("rejected_by_provider", True),
    "2028": ("configuration", True),
    "2040": ("invalid_recipient", True),
    "SFC_IC0003": ("invalid_recipient", True),
    "TP40153": ("configuration", True),
}

# These codes are about our credential, not about the payment. Each opens the breaker, so each is
# played alone.
_CREDENTIAL_CODES = dict.fromkeys(("18", "20", "21", "2001", "8006"), ("configuration", True))

_REFUSED = [
    Play("invalid_request", failed("configuration", "400.002.02"), {"field": "QueueTimeOutURL"}),
    Play("invalid_request", failed("invalid_recipient", "400.002.02"), {"field": "PartyB"}),
    *refusals_in_other_envelopes(),
]

_IN_DOUBT = [*PAYOUTS_IN_DOUBT, Play("duplicate_ocid", IN_DOUBT)]

_INQUIRED = [
    *PAYOUTS_INQUIRED,
    Play("timeout_message_only", PAID, {"moves_money": True}),
    *(
        Play("result_code", REPORTED_FAILED, {"code": code})
        for code in (17, 19, 26, 100000000, "R000002", "0.0", "00")
    ),
]


async def test_a_paid_withdrawal_succeeds_whatever_the_form_of_its_result(system: System) -> None:
    """It succeeds once, also if Daraja's answer to the send was lost."""
    ids = await play(system, "b2c", _PAID)
    assert (await system.payment(ids["approve"]))["recipient_name"] == "JANE DOE"


async def test_a_withdrawal_that_was_not_paid_fails_with_a_reason(system: System) -> None:
    await play(system, "b2c", PAYOUT_FAILURES)


async def test_each_result_code_of_a_withdrawal_has_its_reason(system: System) -> None:
    """Each code that the contract calls final leads to one reason of the closed list."""
    await play(system, "b2c", results(_CODES))


async def test_a_refused_credential_fails_a_withdrawal_as_configuration(system: System) -> None:
    """Daraja refused our initiator. The failure is safe to retry."""
    for row in results(_CREDENTIAL_CODES):
        await play(system, "b2c", [row])
        await system.release_brakes()  # otherwise the next payment would not be sent


async def test_a_withdrawal_that_daraja_refuses_fails_at_once(system: System) -> None:
    """Daraja definitely refused the request itself."""
    await play(system, "b2c", _REFUSED)


async def test_a_withdrawal_without_a_clear_answer_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    """The request left, so Daraja may have acted. The withdrawal keeps a due time."""
    await play(system, "b2c", _IN_DOUBT)


async def test_a_withdrawal_stays_in_doubt_if_daraja_was_busy(system: System) -> None:
    """The answers "busy" and "maintenance" do not prove that nothing happened."""
    busy, closed = (
        await begin(system, "b2c", "system_busy"),
        await begin(system, "b2c", "maintenance"),
    )
    for payment_id in (busy, closed):
        assert (await system.in_stage(payment_id, "in_doubt"))["status"] == "pending"
        assert await system.rows(
            "SELECT id FROM mkwanja.payments WHERE id = $1::uuid AND next_step_at IS NOT NULL",
            payment_id,
        )
    await system.assert_money_agrees([busy, closed])


async def test_a_withdrawal_without_a_definite_result_stays_open(system: System) -> None:
    """A lost result, or one with another amount, finalizes nothing."""
    await play(system, "b2c", PAYOUTS_AWAITED)


async def test_transaction_status_settles_a_withdrawal_that_its_result_does_not_decide(
    system: System,
) -> None:
    """The result is incomplete or unknown, a timeout message, or a code to be verified."""
    await play(system, "b2c", _INQUIRED, results_after_answers=True)


async def test_a_duplicate_reported_by_a_result_is_no_failure(system: System) -> None:
    """Result 15 means that the id was used before. The withdrawal stays open, sent once."""
    payment_id = await begin(system, "b2c", "duplicate_ocid_async")
    [callback] = await system.eventually(lambda: system.callbacks(payment_id))
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["stage"] in {"awaiting_result", "in_doubt"}) == (
        "pending",
        True,
    )
    assert callback["disposition"] == "inquiry_brought_forward"
    assert await count_sends(system, payment_id) == 1


async def test_the_purpose_of_a_withdrawal_selects_darajas_command(system: System) -> None:
    """Without a purpose, it is BusinessPayment."""
    commands = {
        "business": "BusinessPayment",
        "salary": "SalaryPayment",
        "promotion": "PromotionPayment",
    }
    for purpose, command in [*commands.items(), (None, "BusinessPayment")]:
        chosen: dict[str, Any] = {"purpose": purpose} if purpose else {}
        payment_id = await system.withdrawal(**chosen)
        assert (await system.settled(payment_id))["purpose"] == (purpose or "business")
        [request] = await system.provider_requests(payment_id)
        assert (request["body"]["CommandID"], request["body"]["OriginatorConversationID"]) == (
            command,
            payment_id,
        )
