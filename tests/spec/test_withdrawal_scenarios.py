"""Withdrawals, whatever Daraja and the network do: paid once under one id, or not at all, or
asked about.
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

# Each of these is about our own credential, not about the payment: nothing but the first shows what
# they do alone.
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


async def test_a_withdrawal_that_was_paid_succeeds_however_it_is_told(system: System) -> None:
    """A withdrawal that was paid succeeds once, whatever became of the answer and in whatever
    shape the result comes.
    """
    ids = await play(system, "b2c", _PAID)
    assert (await system.payment(ids["approve"]))["recipient_name"] == "JANE DOE"


async def test_a_withdrawal_that_was_not_paid_fails_with_a_reason(system: System) -> None:
    """A withdrawal that Daraja could not pay fails, and says why."""
    await play(system, "b2c", PAYOUT_FAILURES)


async def test_each_result_code_of_a_withdrawal_has_its_reason(system: System) -> None:
    """A result code that the contract calls final ends a withdrawal with one reason of the
    closed list.
    """
    await play(system, "b2c", results(_CODES))


async def test_a_refused_credential_is_a_fault_of_our_settings(system: System) -> None:
    """A result that refuses our initiator fails the withdrawal as configuration, safe to retry."""
    for row in results(_CREDENTIAL_CODES):
        await play(system, "b2c", [row])
        await system.release_brakes()  # or nothing more would be sent


async def test_a_withdrawal_that_daraja_refuses_fails_at_once(system: System) -> None:
    """A definite no to the request itself fails the withdrawal, and is safe to retry."""
    await play(system, "b2c", _REFUSED)


async def test_a_withdrawal_that_may_have_acted_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    """A withdrawal whose request left and got no definite answer is in doubt, keeps a due time
    and is not sent again.
    """
    await play(system, "b2c", _IN_DOUBT)


async def test_a_busy_daraja_proves_nothing(system: System) -> None:
    """ "System is busy" and maintenance do not prove that nothing happened: the withdrawal is in
    doubt, and stays open.
    """
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
    """A lost result, or one that names another amount, finalizes nothing."""
    await play(system, "b2c", PAYOUTS_AWAITED)


async def test_what_a_result_does_not_decide_transaction_status_does(system: System) -> None:
    """An incomplete or unknown result, a timeout message, or a code to be verified: Daraja is
    asked, and its word ends it.
    """
    await play(system, "b2c", _INQUIRED, results_after_answers=True)


async def test_a_duplicate_told_by_result_is_no_failure(system: System) -> None:
    """Result 15 says that the id was used before, not that the withdrawal failed: it stays open
    and is not sent again.
    """
    payment_id = await begin(system, "b2c", "duplicate_ocid_async")
    [callback] = await system.eventually(lambda: system.callbacks(payment_id))
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["stage"] in {"awaiting_result", "in_doubt"}) == (
        "pending",
        True,
    )
    assert callback["disposition"] == "inquiry_brought_forward"
    assert await count_sends(system, payment_id) == 1


async def test_the_purpose_chooses_the_command(system: System) -> None:
    """Each purpose of a withdrawal is sent as Daraja's own command, and none means business."""
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
