"""The simulator's answers to inquiries, over HTTP: true, missing, false (daraja.md §3, §6.1)."""

from typing import Any

import pytest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

NOT_FOUND = {
    2032: "The transaction receipt number does not exist.",
    "SFC_IC0003": "The transaction does not exist",
}
P1 = {"OriginatorConversationID": "p1"}
CHECKOUT = "CheckoutRequestID"


def values_of(result: dict[str, Any], key: str) -> list[object]:
    """Return every value of a parameter, in order."""
    items = result["ResultParameters"]["ResultParameter"]
    return [item.get("Value") for item in items if item["Key"] == key]


class TestTrueStatus:
    """True answers of Transaction Status."""

    @pytest.mark.parametrize("name", ["OriginalConversationID", "OriginatorConversationID"])
    @pytest.mark.parametrize("api", ["b2c", "b2pochi", "b2b"])
    async def test_a_payout_is_found_by_either_name_of_its_acknowledged_id(
        self, probe: Probe, api: str, name: str
    ) -> None:
        """The envelope has the ids of the inquiry, and the parameters those of the payment."""
        paid = await probe.finish(api)
        result = await probe.inquire(**{name: paid["OriginatorConversationID"]})
        (movement,) = probe.simulator.ledger.movements
        assert result["ResultCode"] == 0
        assert result["ConversationID"] != paid["ConversationID"]
        assert values_of(result, "TransactionStatus") == ["Completed"]
        assert values_of(result, "ConversationID") == [paid["ConversationID"]]
        assert values_of(result, "OriginatorConversationID") == [paid["OriginatorConversationID"]]
        assert values_of(result, "Amount") == [float(movement.amount)]
        assert values_of(result, "ReceiptNo") == [movement.receipt]
        assert len(values_of(result, "DebitPartyName")) == 2

    async def test_a_receipt_finds_a_payment_of_any_kind(self, probe: Probe) -> None:
        """An unknown receipt finds nothing."""
        for api in ("b2b", "b2c", "stk"):
            await probe.finish(api)
        for movement in probe.simulator.ledger.movements:
            result = await probe.inquire(TransactionID=movement.receipt)
            assert values_of(result, "ReceiptNo") == [movement.receipt]
        result = await probe.inquire(TransactionID="UC17KX20PM")
        assert result["ResultDesc"] == NOT_FOUND[result["ResultCode"]]

    async def test_a_payment_that_ended_as_a_duplicate_is_not_found(self, probe: Probe) -> None:
        """Result 15 for a first call leaves no transaction, unless params move the money."""
        for name, params in (("p1", {}), ("p2", {"moves_money": True})):
            probe.simulator.scenario("duplicate_ocid_async", times=1, params=params)
            await probe.finish("b2c", OriginatorConversationID=name)
        assert probe.receiver.codes == [15, 15]
        assert list(probe.simulator.ledger.by_reference()) == ["p2"]
        assert (await probe.inquire(**P1))["ResultCode"] in NOT_FOUND
        assert (await probe.inquire(OriginatorConversationID="p2"))["ResultCode"] == 0


class TestQuery:
    """True and false answers of STK query."""

    async def test_a_final_answer_is_all_strings(self, probe: Probe) -> None:
        """A final answer has no receipt and no amount."""
        answer = await probe.send(
            "stk_query", CheckoutRequestID=(await probe.finish("stk"))[CHECKOUT]
        )
        assert (answer.status, answer.body["ResultCode"]) == (200, "0")
        assert all(isinstance(value, str) for value in answer.body.values())
        assert "Amount" not in answer.body

    @pytest.mark.parametrize(
        ("scenario", "code"), [("approve", "0"), ("cancel", "1032"), ("failure_then_success", "0")]
    )
    async def test_a_query_reports_the_end_and_may_contradict_it(
        self, probe: Probe, scenario: str, code: str
    ) -> None:
        """Contradictions were seen in the sandbox (§3)."""
        probe.simulator.scenario(scenario, api="stk")
        checkout = (await probe.finish("stk"))[CHECKOUT]
        answers = [await probe.send("stk_query", CheckoutRequestID=checkout)]
        probe.simulator.scenario("query_contradicts")
        answers.append(await probe.send("stk_query", CheckoutRequestID=checkout))
        contrary = "1037" if code == "0" else "0"
        assert [answer.body["ResultCode"] for answer in answers] == [code, contrary]
