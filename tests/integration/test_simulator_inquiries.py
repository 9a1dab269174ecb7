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

    @pytest.mark.parametrize(
        ("scenario", "status"), [("slow_result", "Pending"), ("insufficient_funds", "Failed")]
    )
    async def test_the_answer_has_the_present_state(
        self, probe: Probe, scenario: str, status: str
    ) -> None:
        """A payment in flight is Pending, and a failed payment is Failed."""
        probe.simulator.scenario(scenario, api="b2c", params={"seconds": 0.4})
        paid = await probe.send("b2c", **P1)
        if status == "Failed":
            await probe.simulator.idle()
        probe.receiver.received.clear()
        await probe.finish("status", **P1)
        found = next(one for one in probe.receiver.received if one.path == "/results/status")
        assert values_of(found.body["Result"], "TransactionStatus") == [status]
        assert values_of(found.body["Result"], "ConversationID") == [paid.body["ConversationID"]]

    async def test_a_payment_that_ended_as_a_duplicate_is_not_found(self, probe: Probe) -> None:
        """Result 15 for a first call leaves no transaction, unless params move the money."""
        for name, params in (("p1", {}), ("p2", {"moves_money": True})):
            probe.simulator.scenario("duplicate_ocid_async", times=1, params=params)
            await probe.finish("b2c", OriginatorConversationID=name)
        assert probe.receiver.codes == [15, 15]
        assert list(probe.simulator.ledger.by_reference()) == ["p2"]
        assert (await probe.inquire(**P1))["ResultCode"] in NOT_FOUND
        assert (await probe.inquire(OriginatorConversationID="p2"))["ResultCode"] == 0

    async def test_a_seed_draws_between_the_two_forms_of_not_found(self, probe: Probe) -> None:
        """A parameter chooses the form of one inquiry."""
        seen = [(await probe.inquire(TransactionID="UC17"))["ResultCode"] for _ in range(8)]
        assert set(seen) == set(NOT_FOUND)
        for code, text in NOT_FOUND.items():
            probe.simulator.scenario("not_found", times=1, params={"code": code})
            result = await probe.inquire(TransactionID="UC17")
            assert (result["ResultCode"], result["ResultDesc"]) == (code, text)
            assert "ResultParameters" not in result


class TestFalseStatus:
    """Scenarios make the answers false."""

    @pytest.mark.parametrize(
        ("scenario", "params", "expected"),
        [
            ("status_value", {}, {"TransactionStatus": ["Pending"]}),
            ("status_value", {"status": "Failed"}, {"TransactionStatus": ["Failed"]}),
            ("status_conflicting", {}, {"TransactionStatus": ["Completed", "Failed"]}),
            (
                "status_conflicting",
                {"status": "Failed", "second": "Pending"},
                {"TransactionStatus": ["Failed", "Pending"]},
            ),
            ("status_missing_parameters", {}, {"TransactionStatus": [], "Amount": [1500.0]}),
            (
                "status_missing_parameters",
                {"without": ["Amount", "ConversationID"]},
                {"Amount": [], "ConversationID": [], "TransactionStatus": ["Completed"]},
            ),
            (
                "status_missing_parameters",
                {"valueless": ["TransactionStatus"]},
                {"TransactionStatus": [None]},
            ),
            ("status_wrong_amount", {}, {"Amount": [1501.0]}),
            ("status_wrong_amount", {"amount": 15}, {"Amount": [15.0]}),
            ("status_missing_receipt", {}, {"ReceiptNo": [], "TransactionStatus": ["Completed"]}),
            ("status_foreign_ids", {"of": "p2"}, {"OriginatorConversationID": ["p2"]}),
            ("spaced_keys", {}, {"Originator Conversation ID": ["p1"], "ConversationID": []}),
        ],
    )
    async def test_a_scenario_changes_these_parameters_of_a_true_answer(
        self, probe: Probe, scenario: str, params: dict[str, object], expected: dict[str, object]
    ) -> None:
        await probe.finish("b2c", **P1)
        await probe.finish("b2c", OriginatorConversationID="p2")
        probe.simulator.scenario(scenario, params=params)
        result = await probe.inquire(**P1)
        assert {key: values_of(result, key) for key in expected} == expected
        assert probe.simulator.ledger.count("p1") == 1

    async def test_all_parameters_may_be_missing(self, probe: Probe) -> None:
        await probe.finish("b2c", **P1)
        probe.simulator.scenario("status_missing_parameters", params={"absent": True})
        assert "ResultParameters" not in await probe.inquire(**P1)

    async def test_a_failed_payout_may_be_reported_as_completed(self, probe: Probe) -> None:
        """The result has a receipt that belongs to no movement."""
        probe.simulator.scenario("insufficient_funds")
        probe.simulator.scenario("status_value", params={"status": "Completed"})
        await probe.finish("b2c", **P1)
        assert values_of(await probe.inquire(**P1), "ReceiptNo")
        assert not probe.simulator.ledger.movements

    async def test_not_found_and_an_invalid_receiver_have_the_same_code(self, probe: Probe) -> None:
        """Only the text distinguishes "not found" from an invalid receiver."""
        await probe.finish("b2c", **P1)
        results = []
        for scenario in ("not_found", "status_receiver_invalid"):
            params = {"code": "SFC_IC0003"} if scenario == "not_found" else {}
            probe.simulator.scenario(scenario, times=1, params=params)
            results.append(await probe.inquire(**P1))
        assert [(result["ResultCode"], result["ResultDesc"]) for result in results] == [
            ("SFC_IC0003", "The transaction does not exist"),
            ("SFC_IC0003", "Receiver party is invalid."),
        ]


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
        ("shape", "status", "part"),
        [
            ("A", 200, {"ResultCode": "4999"}),
            ("B", 200, {"errorCode": "500.001.1001", "errorMessage": ""}),
            ("C", 500, {"errorMessage": "The transaction is being processed"}),
        ],
    )
    async def test_a_payment_in_flight_has_three_shapes(
        self, probe: Probe, shape: str, status: int, part: dict[str, str]
    ) -> None:
        probe.simulator.switches.change({"in_flight_shape": shape})
        probe.simulator.scenario("slow_result", params={"seconds": 600})
        pushed = (await probe.send("stk")).body
        answer = await probe.send("stk_query", CheckoutRequestID=pushed[CHECKOUT])
        assert answer.status == status
        assert part.items() <= answer.body.items()

    async def test_an_unknown_id_does_not_exist(self, probe: Probe) -> None:
        answer = await probe.send("stk_query", CheckoutRequestID="ws_CO_010320261015034711000111")
        assert answer.error == (500, "500.001.1001", "The transaction does not Exist")

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

    async def test_the_codes_of_successive_queries_may_alternate(self, probe: Probe) -> None:
        """The answers for each payment start with the first code."""
        probe.simulator.scenario("query_codes_in_turn", params={"codes": [1032, 2001]})
        checkouts = [(await probe.finish("stk"))[CHECKOUT] for _ in range(2)]
        answers = [
            await probe.send("stk_query", CheckoutRequestID=checkout)
            for _ in range(3)
            for checkout in checkouts
        ]
        codes = [answer.body["ResultCode"] for answer in answers]
        assert codes == ["1032", "1032", "2001", "2001", "1032", "1032"]

    async def test_an_answer_may_have_the_ids_of_another_payment(self, probe: Probe) -> None:
        """The ids are those of another known payment, or ids that no payment has."""
        first, second = [await probe.finish("stk") for _ in range(2)]
        ids = []
        for params in ({"of": second[CHECKOUT]}, {}):
            probe.simulator.scenario("query_foreign_ids", times=1, params=params)
            answer = await probe.send("stk_query", CheckoutRequestID=first[CHECKOUT])
            assert answer.body["ResultCode"] == "0"
            ids.append(answer.body[CHECKOUT])
        assert ids[0] == second[CHECKOUT]
        assert ids[1] not in {first[CHECKOUT], second[CHECKOUT]}

    async def test_stray_500s_come_for_known_ids(self, probe: Probe) -> None:
        probe.simulator.switches.change({"stray_500": 1.0})
        checkout = (await probe.finish("stk"))[CHECKOUT]
        answer = await probe.send("stk_query", CheckoutRequestID=checkout)
        assert answer.error[:2] == (500, "500.001.1001")
