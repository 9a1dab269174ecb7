"""The simulator's payouts and inquiries about them, over HTTP (daraja.md §4, §5, §6.1)."""

from typing import Any

import pytest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


async def only_result(probe: Probe) -> dict[str, Any]:
    """Wait until no result is pending, and return the only one."""
    await probe.simulator.idle()
    (received,) = probe.receiver.received
    result: dict[str, Any] = received.body["Result"]
    return result


def parameters(result: dict[str, Any]) -> dict[str, object]:
    """Return the parameters by key, the last one of a repeated key."""
    items = result["ResultParameters"]["ResultParameter"]
    return {item["Key"]: item.get("Value") for item in items}


class TestB2C:
    """Payouts to a phone number (§4)."""

    async def test_a_payout_moves_money_once_with_one_result(self, probe: Probe) -> None:
        """Acknowledgement, result and ledger agree."""
        answer = await probe.b2c(OriginatorConversationID="payout-000017-a1")
        assert answer.status == 200
        assert answer.body["OriginatorConversationID"] == "payout-000017-a1"
        assert answer.body["ConversationID"].startswith("AG_")
        result = await only_result(probe)
        assert (result["ResultCode"], result["ConversationID"]) == (
            0,
            answer.body["ConversationID"],
        )
        found = parameters(result)
        assert found["TransactionAmount"] == 1500
        assert found["TransactionReceipt"] == result["TransactionID"]
        (movement,) = probe.simulator.ledger.movements
        assert (movement.reference, movement.amount) == ("payout-000017-a1", 1500)
        assert movement.receipt == result["TransactionID"]

    async def test_a_result_may_name_an_id_of_daraja_s_own_making(self, probe: Probe) -> None:
        """As in the portal's sample (§4.3), or another payment's id. ConversationID is true."""
        probe.simulator.scenario("result_names_another_id", api="b2c", times=1)
        first = (await probe.b2c(OriginatorConversationID="first")).body
        result = await only_result(probe)
        assert result["ConversationID"] == first["ConversationID"]
        assert result["OriginatorConversationID"] != "first"
        probe.receiver.received.clear()
        probe.simulator.scenario(
            "result_names_another_id", api="b2c", times=1, params={"of": "first"}
        )
        await probe.b2c(OriginatorConversationID="second")
        assert (await only_result(probe))["OriginatorConversationID"] == "first"

    async def test_a_receipt_may_be_under_the_name_of_the_amount(self, probe: Probe) -> None:
        """An independent server was seen to do so (§4.3)."""
        probe.simulator.scenario("receipt_under_amount", api="b2c", times=1)
        await probe.b2c(OriginatorConversationID="p1")
        result = await only_result(probe)
        items = result["ResultParameters"]["ResultParameter"]
        told = [item["Value"] for item in items if item["Key"] == "TransactionAmount"]
        assert told == [1500, result["TransactionID"]]

    async def test_a_repeated_id_is_refused_and_pays_nothing(self, probe: Probe) -> None:
        """For ever, and after any outcome of the first call (§4.2)."""
        body = probe.b2c_body()
        assert (await probe.call("/mpesa/b2c/v3/paymentrequest", body)).status == 200
        for _ in range(2):
            answer = await probe.call("/mpesa/b2c/v3/paymentrequest", body)
            assert answer.error == (500, "500.002.1001", "Duplicate OriginatorConversationID.")
            await probe.simulator.idle()
        assert probe.simulator.ledger.count(str(body["OriginatorConversationID"])) == 1

    async def test_a_failed_payout_uses_up_its_id(self, probe: Probe) -> None:
        """Daraja checks for duplicates first."""
        probe.simulator.scenario("insufficient_funds", times=1)
        await probe.b2c(OriginatorConversationID="p1")
        assert (await only_result(probe))["ResultCode"] == 1
        assert (await probe.b2c(OriginatorConversationID="p1")).error[1] == "500.002.1001"
        assert not probe.simulator.ledger.movements

    async def test_a_repeated_id_may_be_refused_by_result_15(self, probe: Probe) -> None:
        """The other form of the same refusal. The first payment does not change."""
        probe.simulator.switches.change({"duplicate_ocid": "async"})
        await probe.b2c(OriginatorConversationID="p1")
        await probe.simulator.idle()
        assert (await probe.b2c(OriginatorConversationID="p1")).status == 200
        await probe.simulator.idle()
        assert [r.body["Result"]["ResultCode"] for r in probe.receiver.received] == [0, 15]
        assert probe.simulator.ledger.count("p1") == 1

    async def test_wrong_credentials_end_as_2001_and_then_lock_the_initiator(
        self, probe: Probe
    ) -> None:
        """The call is accepted. After three, even the right credential gets 8006 (§4.5)."""
        for _ in range(3):
            assert (await probe.b2c(SecurityCredential=probe.credential("wrong"))).status == 200
        assert (await probe.b2c()).status == 200
        await probe.simulator.idle()
        codes = [r.body["Result"]["ResultCode"] for r in probe.receiver.received]
        assert sorted(codes) == [2001, 2001, 2001, 8006]
        assert not probe.simulator.ledger.movements

    async def test_a_credential_that_is_no_ciphertext_ends_as_2001(self, probe: Probe) -> None:
        """The result gives no reason."""
        assert (await probe.b2c(SecurityCredential="not base64!")).status == 200
        assert (await only_result(probe))["ResultCode"] == 2001

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"Amount": 9}, 2),
            ({"Amount": 250_001}, 3),
            ({"PartyA": "600111"}, 2028),
            ({"PartyB": "254211000111"}, "SFC_IC0003"),
        ],
    )
    async def test_a_refusal_after_acceptance_is_delivered_as_a_result(
        self, probe: Probe, changes: dict[str, object], code: object
    ) -> None:
        """The call itself was accepted (§4.6)."""
        assert (await probe.b2c(**changes)).status == 200
        result = await only_result(probe)
        assert result["ResultCode"] == code
        assert "ResultParameters" not in result
        assert not probe.simulator.ledger.movements

    @pytest.mark.parametrize("amount", [10, 250_000])
    async def test_the_limits_themselves_are_paid(self, probe: Probe, amount: int) -> None:
        """From 10 to 250,000 shillings."""
        await probe.b2c(Amount=amount)
        assert (await only_result(probe))["ResultCode"] == 0

    @pytest.mark.parametrize(
        "field",
        [
            "OriginatorConversationID",
            "InitiatorName",
            "CommandID",
            "Amount",
            "Remarks",
            "ResultURL",
        ],
    )
    async def test_a_missing_field_is_named(self, probe: Probe, field: str) -> None:
        """At once, and the id is still unused."""
        answer = await probe.b2c(**{"OriginatorConversationID": "p1", field: None})
        assert answer.error == (400, "400.002.02", f"Bad Request - Invalid {field}")
        assert (await probe.b2c(OriginatorConversationID="p1")).status == 200

    async def test_the_utility_account_pays_until_it_is_empty(self, probe: Probe) -> None:
        """The next payout ends as 1 (§4.7)."""
        probe.simulator.switches.change({"utility_balance": 2000})
        for _ in range(2):
            await probe.b2c()
            await probe.simulator.idle()
        assert [r.body["Result"]["ResultCode"] for r in probe.receiver.received] == [0, 1]
        assert probe.simulator.switches.utility_balance == 500


class TestB2B:
    """Payments to a business (§5)."""

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
        """A success has strings, and a failure has numbers."""
        answer = await probe.b2b(AccountReference="PO771", **changes)
        result = await only_result(probe)
        assert (result["ResultType"], result["ResultCode"]) == ("0", "0")
        assert parameters(result)["Amount"] == "1800.00"
        assert result["ConversationID"] == answer.body["ConversationID"]
        (item,) = (await probe.control("GET", "/ledger")).body["items"]
        assert (item["kind"], item["reference"], item["amount"]) == ("b2b", "PO771", 1800)
        assert item["party"] == str(changes.get("PartyB", "888880"))

    async def test_a_failure_has_a_number_and_one_object(self, probe: Probe) -> None:
        """The other shape of the same API."""
        probe.simulator.switches.change({"working_balance": 10})
        await probe.b2b()
        result = await only_result(probe)
        assert result["ResultCode"] == 1
        assert result["ResultParameters"]["ResultParameter"]["Key"] == "BOCompletedTime"

    async def test_the_same_request_twice_pays_twice(self, probe: Probe) -> None:
        """There is no key."""
        for _ in range(2):
            await probe.b2b(AccountReference="PO771")
        await probe.simulator.idle()
        assert probe.simulator.ledger.by_reference() == {"PO771": {"count": 2, "amount": 3600}}

    async def test_a_paybill_under_the_identifier_of_a_till_is_no_operator(
        self, probe: Probe
    ) -> None:
        """A string code (§5)."""
        await probe.b2b(RecieverIdentifierType="2")
        assert (await only_result(probe))["ResultCode"] == "SFC_IC0003"

    async def test_the_initiator_has_another_name_here(self, probe: Probe) -> None:
        """Initiator, not InitiatorName."""
        answer = await probe.b2b(
            Initiator=None, InitiatorName=probe.settings["DARAJA_INITIATOR_NAME"]
        )
        assert answer.error == (400, "400.002.02", "Bad Request - Invalid Initiator")


class TestTransactionStatus:
    """Transaction Status (§6.1)."""

    @pytest.mark.parametrize("name", ["OriginalConversationID", "OriginatorConversationID"])
    async def test_a_payout_is_found_under_either_name_of_its_id(
        self, probe: Probe, name: str
    ) -> None:
        """The state is a parameter, and DebitPartyName comes twice."""
        paid = (await probe.b2c(OriginatorConversationID="p1")).body
        await probe.simulator.idle()
        probe.receiver.received.clear()
        asked = (await probe.status(**{name: "p1"})).body
        result = await only_result(probe)
        found = parameters(result)
        assert (result["ResultCode"], found["TransactionStatus"]) == (0, "Completed")
        assert result["ConversationID"] == asked["ConversationID"]
        assert (found["ConversationID"], found["OriginatorConversationID"]) == (
            paid["ConversationID"],
            "p1",
        )
        assert found["ReceiptNo"] == probe.simulator.ledger.movements[0].receipt
        keys = [item["Key"] for item in result["ResultParameters"]["ResultParameter"]]
        assert keys.count("DebitPartyName") == 2

    async def test_a_payment_is_found_by_its_receipt(self, probe: Probe) -> None:
        """Deposits too."""
        await probe.stk()
        await probe.simulator.idle()
        probe.receiver.received.clear()
        await probe.status(TransactionID=probe.simulator.ledger.movements[0].receipt)
        assert parameters(await only_result(probe))["TransactionStatus"] == "Completed"

    async def test_an_unknown_transaction_does_not_exist(self, probe: Probe) -> None:
        """By code and text together."""
        assert (await probe.status(OriginatorConversationID="never")).status == 200
        result = await only_result(probe)
        assert (result["ResultCode"], result["ResultDesc"]) in (
            ("SFC_IC0003", "The transaction does not exist"),
            (2032, "The transaction receipt number does not exist."),
        )

    @pytest.mark.parametrize(
        ("scenario", "status"), [("slow_result", "Pending"), ("insufficient_funds", "Failed")]
    )
    async def test_the_state_is_what_it_is_now(
        self, probe: Probe, scenario: str, status: str
    ) -> None:
        """A payment in flight is not final, and a failed one is Failed."""
        probe.simulator.scenario(scenario, api="b2c", params={"seconds": 600})
        paid = (await probe.b2c(OriginatorConversationID="p1")).body["ConversationID"]
        if status == "Failed":
            await probe.simulator.idle()
            probe.receiver.received.clear()
        await probe.status(OriginatorConversationID="p1")
        (received,) = await probe.receiver.results()
        found = parameters(received.body["Result"])
        assert (found["TransactionStatus"], found["ConversationID"]) == (status, paid)

    async def test_an_inquiry_with_a_wrong_credential_ends_as_2001(self, probe: Probe) -> None:
        """It counts for the lock too."""
        await probe.status(
            OriginatorConversationID="p1", SecurityCredential=probe.credential("wrong")
        )
        assert (await only_result(probe))["ResultCode"] == 2001
