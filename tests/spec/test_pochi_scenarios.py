"""Pochi payments, whatever Daraja and the network do.

They end like withdrawals, because B2Pochi has the form of B2C, but they are never sent again.
"""

from __future__ import annotations

from tests.spec.playing import (
    IN_DOUBT,
    PAID,
    PAID_BY_INQUIRY,
    Play,
    begin,
    count_sends,
    failed,
    play,
    stopped_payouts,
)
from tests.spec.requesting import POCHI_PAYMENT, caller, expect_problem
from tests.spec.system import System

_ENDED = [
    Play("approve", PAID),
    Play("duplicate_callbacks", PAID),
    Play("callback_before_answer", PAID),
    Play("answer_lost_after_acting", PAID),
    Play("string_codes", PAID),
    Play("insufficient_funds", failed("insufficient_funds", "1")),
    Play("invalid_recipient", failed("invalid_recipient", "SFC_IC0003")),
    Play("invalid_request", failed("invalid_recipient", "400.002.02"), {"field": "PartyB"}),
]

_IN_DOUBT = [
    Play("cut_before_acting", IN_DOUBT),
    Play("duplicate_ocid", IN_DOUBT),
    Play("html_503", IN_DOUBT),
]

_INQUIRED = [
    Play("missing_receipt", PAID_BY_INQUIRY),
    Play("timeout_message_only", PAID, {"moves_money": True}),
    Play("unknown_code", failed("rejected_by_provider", "Failed")),
]


async def test_a_pochi_payment_ends_as_its_result_says(system: System) -> None:
    """Paid once, or failed with a reason, in whatever form the result comes."""
    await play(system, "b2pochi", _ENDED)


async def test_a_pochi_payment_that_may_have_acted_is_in_doubt_and_not_sent_again(
    system: System,
) -> None:
    await play(system, "b2pochi", _IN_DOUBT)


async def test_transaction_status_settles_a_pochi_payment_that_its_result_does_not_decide(
    system: System,
) -> None:
    await play(system, "b2pochi", _INQUIRED, results_after_answers=True)


async def test_a_pochi_payment_is_sent_to_the_till_under_its_own_id(system: System) -> None:
    payment_id = await system.pochi_payment(phone_number="0733000333", remarks="Order 771")
    payment = await system.settled(payment_id)
    assert (payment["kind"], payment["status"], payment["phone_number"]) == (
        "pochi_payment",
        "success",
        "254733000333",
    )
    [request] = await system.provider_requests(payment_id)
    assert request["path"] == "/mpesa/b2pochi/v1/paymentrequest"
    sent = {
        name: request["body"][name]
        for name in ("CommandID", "OriginatorConversationID", "PartyB", "Remarks")
    }
    assert sent == {
        "CommandID": "BusinessPayToPochi",
        "OriginatorConversationID": payment_id,
        "PartyB": "254733000333",
        "Remarks": "Order 771",
    }
    await system.assert_money_agrees([payment_id])


async def test_the_kill_switch_stops_pochi_payments_and_no_deposits(system: System) -> None:
    async with stopped_payouts(system):
        held, deposit = await system.pochi_payment(), await system.deposit()
        await system.settled(deposit)
        assert await count_sends(system, held) == 0
    assert (await system.settled(held))["status"] == "success"


async def test_a_missing_product_holds_pochi_payments_and_no_withdrawals(system: System) -> None:
    """Most apps lack B2Pochi. Its operation is held, and withdrawals go on."""
    await system.control("POST", "/switches", {"missing_products": ["b2pochi"]})
    held = await system.pochi_payment()
    await system.eventually(lambda: system.rows("SELECT name FROM mkwanja.brakes WHERE is_engaged"))
    withdrawal = await system.withdrawal()
    assert (await system.settled(withdrawal))["status"] == "success"
    assert (await system.payment(held))["status"] == "pending"
    [brake] = await system.rows("SELECT name FROM mkwanja.brakes WHERE is_engaged")
    assert brake["name"] == "b2pochi"
    await system.control("POST", "/switches", {"missing_products": []})
    await system.release_brakes()
    assert (await system.settled(held))["status"] == "success"


async def test_the_problem_names_the_wrong_field_of_a_pochi_payment(system: System) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({**POCHI_PAYMENT, "amount": 9}, "/amount"),
        ({**POCHI_PAYMENT, "amount": 250_001}, "/amount"),
        ({**POCHI_PAYMENT, "purpose": "salary"}, "/purpose"),
        ({**POCHI_PAYMENT, "account_reference": "A1"}, "/account_reference"),
        ({"amount": 640}, "/phone_number"),
        ({**POCHI_PAYMENT, "phone_number": "556677"}, "/phone_number"),
        ({**POCHI_PAYMENT, "remarks": "x"}, "/remarks"),
    ]
    for body, pointer in wrong:
        found = expect_problem(
            await system.backend.pay("/v1/pochi-payments", body), 422, "invalid_request"
        )
        assert [fault["pointer"] for fault in found["errors"]] == [pointer]


async def test_only_a_backend_may_make_a_pochi_payment(system: System) -> None:
    async with caller(system, sub="amina") as user:
        expect_problem(await user.pay("/v1/pochi-payments", POCHI_PAYMENT), 403, "not_permitted")


async def test_a_pochi_payment_that_daraja_does_not_know_is_never_sent_again(
    inquiring_system: System,
) -> None:
    """No source says that Daraja refuses a second use of its id, so a resend could pay twice."""
    system = inquiring_system
    payment_id = await begin(system, "b2pochi", "cut_before_acting", times=1)
    await system.in_stage(payment_id, "in_doubt")
    not_found = (
        "SELECT number FROM mkwanja.inquiries WHERE payment_id = $1::uuid AND verdict = 'not_found'"
    )
    await system.eventually(lambda: system.rows(not_found, payment_id), lambda rows: len(rows) >= 5)
    assert await count_sends(system, payment_id) == 1


async def test_a_pochi_payment_is_not_sent_again_if_daraja_was_busy(
    inquiring_system: System,
) -> None:
    system = inquiring_system
    payment_id = await begin(system, "b2pochi", "system_busy", times=1)
    await system.in_stage(payment_id, "in_doubt")
    answered = (
        "SELECT number FROM mkwanja.inquiries WHERE payment_id = $1::uuid AND verdict IS NOT NULL"
    )
    await system.eventually(lambda: system.rows(answered, payment_id), lambda rows: len(rows) >= 2)
    assert await count_sends(system, payment_id) == 1
