"""The simulator's tokens and payments, over HTTP: answers, results and money (daraja.md §1 to §5).

The ledger judges every proof, so these tests compare it with the answers and the results.
"""

import asyncio
import re
from typing import Any

import pytest

from tests.simulator.probe import PATHS, Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

PUSH = PATHS["stk"]
REFERENCES = {
    "stk": {"AccountReference": "REF1"},
    "b2b": {"AccountReference": "REF1"},
    "b2c": {"OriginatorConversationID": "REF1"},
    "b2pochi": {"OriginatorConversationID": "REF1"},
}


def parameters(result: dict[str, Any]) -> dict[str, object]:
    """Return the parameters of a result by key. The last value of a repeated key counts."""
    items = result["ResultParameters"]["ResultParameter"]
    return {item["Key"]: item.get("Value") for item in items}


class TestMoney:
    """The ledger is right after one, two or many calls."""

    async def test_an_approved_prompt_moves_money_once_with_one_callback(
        self, probe: Probe
    ) -> None:
        """Answer, callback and ledger agree, in the shapes of §2.2 and §2.3."""
        body = probe.body("stk", PhoneNumber="254711000111")
        answer = (await probe.call(PUSH, body)).body
        checkout = answer["CheckoutRequestID"]
        assert answer["ResponseCode"] == "0"
        assert re.fullmatch(r"ws_CO_\d{14}\d711000111", checkout)
        assert re.fullmatch(r"(\w{4}-){3}\w{12}\d{4,}", answer["MerchantRequestID"])
        await probe.simulator.idle()
        (result,) = probe.receiver.received
        assert result.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert result.headers["BusinessShortCode"] == probe.settings["DARAJA_SHORTCODE"]
        callback = result.body["Body"]["stkCallback"]
        assert (callback["ResultCode"], callback["CheckoutRequestID"]) == (0, checkout)
        items = callback["CallbackMetadata"]["Item"]
        values = {item["Name"]: item.get("Value") for item in items}
        assert (values["Amount"], values["PhoneNumber"]) == (250.0, 254711000111)
        assert {"Name": "Balance"} in items
        (entry,) = (await probe.control("GET", "/ledger")).body["items"]
        expected = {
            "kind": "stk",
            "amount": 250,
            "phone_number": "254711000111",
            "reference": body["AccountReference"],
            "receipt": values["MpesaReceiptNumber"],
            "provider_id": checkout,
            "result_url": body["CallBackURL"],
        }
        assert entry.items() >= expected.items()

    @pytest.mark.parametrize("api", ["b2c", "b2pochi"])
    async def test_a_payout_moves_money_once_with_one_result(self, probe: Probe, api: str) -> None:
        """Acknowledgement, result and ledger agree."""
        answer = await probe.finish(api, OriginatorConversationID="p1")
        assert answer["OriginatorConversationID"] == "p1"
        assert answer["ConversationID"].startswith("AG_")
        (received,) = probe.receiver.received
        result = received.body["Result"]
        assert (result["ResultCode"], result["ConversationID"]) == (0, answer["ConversationID"])
        found = parameters(result)
        assert found["TransactionAmount"] == 1500
        assert found["TransactionReceipt"] == result["TransactionID"]
        (movement,) = probe.simulator.ledger.movements
        assert (movement.reference, movement.amount) == ("p1", 1500)
        assert movement.receipt == result["TransactionID"]

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"CommandID": "BusinessBuyGoods", "RecieverIdentifierType": "2", "PartyB": "5551234"},
            {"CommandID": "BusinessBuyGoods", "RecieverIdentifierType": 4, "PartyB": 555123},
        ],
        ids=["paybill", "till as 2", "till as 4"],
    )
    async def test_a_business_is_paid_and_the_codes_are_strings(
        self, probe: Probe, changes: dict[str, object]
    ) -> None:
        """The codes of a success are strings, and the codes of a failure are numbers."""
        answer = await probe.finish("b2b", AccountReference="PO771", **changes)
        result = probe.receiver.received[0].body["Result"]
        assert (result["ResultType"], result["ResultCode"]) == ("0", "0")
        assert parameters(result)["Amount"] == "1800.00"
        assert result["ConversationID"] == answer["ConversationID"]
        (item,) = (await probe.control("GET", "/ledger")).body["items"]
        assert (item["kind"], item["reference"], item["amount"]) == ("b2b", "PO771", 1800)
        assert item["party"] == str(changes.get("PartyB", "888880"))

    @pytest.mark.parametrize(
        ("api", "movements"), [("stk", 2), ("b2b", 2), ("b2pochi", 2), ("b2c", 1)]
    )
    async def test_only_a_withdrawal_has_a_key_so_every_other_repeat_pays_again(
        self, probe: Probe, api: str, movements: int
    ) -> None:
        body = probe.body(api, **REFERENCES[api])
        for _ in range(2):
            await probe.call(PATHS[api], body)
            await probe.simulator.idle()
        assert probe.simulator.ledger.count("REF1") == movements

    async def test_many_payments_at_once_move_their_money_once_each(self, probe: Probe) -> None:
        credential = probe.credential()
        for _ in range(5):
            await asyncio.gather(
                *(probe.send("stk", AccountReference="DEPOSITS") for _ in range(20)),
                *(probe.send("b2c", SecurityCredential=credential) for _ in range(20)),
                *(
                    probe.send("b2b", SecurityCredential=credential, AccountReference="BILLS")
                    for _ in range(20)
                ),
            )
        await probe.simulator.idle()
        totals = probe.simulator.ledger.by_reference()
        assert totals.pop("DEPOSITS") == {"count": 100, "amount": 25_000}
        assert totals.pop("BILLS") == {"count": 100, "amount": 180_000}
        assert len(totals) == 100
        assert {total["count"] for total in totals.values()} == {1}
        assert len(probe.receiver.received) == 300

    async def test_the_checkout_ids_of_one_phone_number_are_unique(self, probe: Probe) -> None:
        """There are ten ids for each second. Further prompts get the ids of later tenths."""
        probe.simulator.switches.change({"subscriber_lock": False})
        answers = await asyncio.gather(
            *(probe.send("stk", PhoneNumber="254711000111") for _ in range(40))
        )
        assert len({answer.body["CheckoutRequestID"] for answer in answers}) == 40


class TestRefusals:
    """Calls that are refused at once, and calls that are refused by a result."""

    @pytest.mark.parametrize(
        ("policy", "status"), [("invalidate_previous", 404), ("keep_all", 200)]
    )
    async def test_a_new_token_ends_the_previous_one_unless_a_switch_keeps_all(
        self, probe: Probe, policy: str, status: int
    ) -> None:
        """The official FAQ says so. No source has seen that Daraja enforces this."""
        probe.simulator.switches.change({"token_policy": policy})
        first = probe.token
        await probe.fetch_token()
        probe.token = first
        assert (await probe.send("stk")).status == status

    @pytest.mark.parametrize(
        ("api", "field", "value"),
        [
            ("stk", "BusinessShortCode", "12"),
            ("stk", "Timestamp", "20261301000000"),
            ("stk", "TransactionType", "CustomerPay"),
            ("stk", "Amount", "0"),
            ("stk", "Amount", "10.5"),
            ("stk", "Amount", 250_001),
            ("stk", "PhoneNumber", "254811000111"),
            ("stk", "PartyA", "0711000111"),
            ("stk", "PartyB", "shop"),
            ("stk", "CallBackURL", "https://pay.example.co.ke/<id>"),
            ("stk", "CallBackURL", "https://Pay.example.co.ke/cb"),
            ("stk", "CallBackURL", "http://pay.example.co.ke/cb"),
            ("stk", "AccountReference", "ABCDEFGHIJKLM"),
            ("stk", "TransactionDesc", "fourteen chars"),
            ("b2c", "OriginatorConversationID", None),
            ("b2c", "InitiatorName", None),
            ("b2c", "CommandID", None),
            ("b2c", "Remarks", None),
            ("b2c", "ResultURL", None),
            ("b2b", "Initiator", None),
            ("status", "TransactionID", None),
        ],
    )
    async def test_an_invalid_field_is_named_and_the_call_has_no_effect(
        self, probe: Probe, api: str, field: str, value: object
    ) -> None:
        """The error has Daraja's own field name, which differs for TransactionDesc (§2.1, §8.4)."""
        answer = await probe.send(api, **{field: value})
        called = "Remarks" if field == "TransactionDesc" else field
        assert answer.error == (400, "400.002.02", f"Bad Request - Invalid {called}")
        assert not probe.simulator.courier.pending

    async def test_a_phone_number_with_a_live_prompt_is_locked_until_it_ends(
        self, probe: Probe
    ) -> None:
        """A phone number may have one prompt at a time. A switch allows more."""
        statuses = [(await probe.send("stk", PhoneNumber="254711000111")).status for _ in range(2)]
        await probe.simulator.idle()
        statuses.append((await probe.send("stk", PhoneNumber="254711000111")).status)
        probe.simulator.switches.change({"subscriber_lock": False})
        statuses.append((await probe.send("stk", PhoneNumber="254711000111")).status)
        assert statuses == [200, 500, 200, 200]

    @pytest.mark.parametrize(
        ("api", "changes", "code"),
        [
            ("b2c", {"Amount": 9}, 2),
            ("b2c", {"Amount": 10}, 0),
            ("b2c", {"Amount": 250_000}, 0),
            ("b2c", {"Amount": 250_001}, 3),
            ("b2c", {"PartyA": "600111"}, 2028),
            ("b2c", {"PartyB": "254211000111"}, "SFC_IC0003"),
            ("b2c", {"SecurityCredential": "not base64!"}, 2001),
            ("b2c", {"InitiatorName": "a stranger"}, 2001),
            ("b2b", {"RecieverIdentifierType": "2"}, "SFC_IC0003"),
            ("stk", {"PartyB": "888880"}, 2028),
        ],
    )
    async def test_a_refusal_after_acceptance_is_delivered_as_a_result(
        self, probe: Probe, api: str, changes: dict[str, object], code: object
    ) -> None:
        """The call itself was accepted (§4.6)."""
        assert (await probe.send(api, **changes)).status == 200
        await probe.simulator.idle()
        assert probe.receiver.codes == [code]
        assert len(probe.simulator.ledger.movements) == (code == 0)

    async def test_wrong_credentials_end_as_2001_and_then_lock_the_initiator(
        self, probe: Probe
    ) -> None:
        """Inquiries count too. After three refusals, even the right credential gets 8006 (§4.5)."""
        wrong = probe.credential("wrong")
        await probe.finish("status", OriginatorConversationID="p1", SecurityCredential=wrong)
        for _ in range(2):
            await probe.finish("b2c", SecurityCredential=wrong)
        await probe.finish("b2c")
        assert probe.receiver.codes == [2001, 2001, 2001, 8006]
        assert not probe.simulator.ledger.movements
