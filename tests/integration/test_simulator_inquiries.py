"""The simulator's answers to inquiries, over HTTP: true, missing, false (daraja.md §3, §6.1)."""

import aiohttp
import pytest

from tests.integration.simulator_inquiries import (
    NOT_FOUND,
    finish_payout,
    finish_push,
    inquire,
    values_of,
)
from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


class TestTrueStatus:
    """True answers of Transaction Status."""

    @pytest.mark.parametrize("name", ["OriginalConversationID", "OriginatorConversationID"])
    async def test_a_bill_payment_is_found_by_the_id_of_its_acknowledgement(
        self, probe: Probe, name: str
    ) -> None:
        """Daraja assigned that id, because a bill payment has no id of its sender."""
        acknowledged = (await probe.b2b()).body
        await probe.simulator.idle()
        result = await inquire(probe, **{name: acknowledged["OriginatorConversationID"]})
        assert values_of(result, "TransactionStatus") == ["Completed"]
        assert values_of(result, "ConversationID") == [acknowledged["ConversationID"]]
        assert values_of(result, "OriginatorConversationID") == [
            acknowledged["OriginatorConversationID"]
        ]
        assert values_of(result, "Amount") == [1800.0]
        assert values_of(result, "ReceiptNo") == [probe.simulator.ledger.movements[0].receipt]
        assert values_of(result, "DebitPartyName") == [
            f"{probe.settings['DARAJA_PAYOUT_SHORTCODE']} - SIMULATED LTD",
            "888880 - SUPPLIER LTD",
        ]

    async def test_a_receipt_finds_any_kind(self, probe: Probe) -> None:
        """An unknown receipt finds nothing."""
        await probe.b2b()
        await finish_payout(probe)
        await finish_push(probe)
        for movement in probe.simulator.ledger.movements:
            assert values_of(await inquire(probe, TransactionID=movement.receipt), "ReceiptNo") == [
                movement.receipt
            ]
        result = await inquire(probe, TransactionID="UC17KX20PM")
        assert result["ResultDesc"] == NOT_FOUND[result["ResultCode"]]

    async def test_the_ids_of_inquiry_and_payment_differ_by_default(self, probe: Probe) -> None:
        """The acknowledgement may echo the target's id (§6.1)."""
        await finish_payout(probe, OriginatorConversationID="p1")
        assert (await inquire(probe, OriginatorConversationID="p1"))[
            "OriginatorConversationID"
        ] != "p1"
        probe.simulator.switches.change({"status_echoes_target": True})
        assert (await inquire(probe, OriginatorConversationID="p1"))[
            "OriginatorConversationID"
        ] == "p1"


class TestFalseStatus:
    """False answers by scenarios. The money has moved."""

    @pytest.mark.parametrize(
        "status",
        [
            "Failed",
            "Cancelled",
            "Declined",
            "Expired",
            "Reversed",
            "Pending",
            "Initiated",
            "Authorized",
            "Completed",
        ],
    )
    async def test_any_status_may_be_reported(self, probe: Probe, status: str) -> None:
        """The reported status may contradict the ledger."""
        probe.simulator.scenario("status_value", params={"status": status})
        await finish_payout(probe, OriginatorConversationID="p1")
        result = await inquire(probe, OriginatorConversationID="p1")
        assert (result["ResultCode"], values_of(result, "TransactionStatus")) == (0, [status])
        assert probe.simulator.ledger.count("p1") == 1

    async def test_a_failed_payout_may_be_reported_as_completed(self, probe: Probe) -> None:
        """The result has a receipt that belongs to no movement."""
        probe.simulator.scenario("insufficient_funds")
        probe.simulator.scenario("status_value", params={"status": "Completed"})
        await finish_payout(probe, OriginatorConversationID="p1")
        assert values_of(await inquire(probe, OriginatorConversationID="p1"), "ReceiptNo")
        assert not probe.simulator.ledger.movements

    async def test_a_result_may_have_two_different_statuses(self, probe: Probe) -> None:
        """Daraja's own documentation repeats keys."""
        await finish_payout(probe, OriginatorConversationID="p1")
        probe.simulator.scenario("status_conflicting", times=1)
        result = await inquire(probe, OriginatorConversationID="p1")
        assert values_of(result, "TransactionStatus") == ["Completed", "Failed"]
        probe.simulator.scenario(
            "status_conflicting", params={"status": "Failed", "second": "Pending"}
        )
        result = await inquire(probe, OriginatorConversationID="p1")
        assert values_of(result, "TransactionStatus") == ["Failed", "Pending"]

    async def test_parameters_may_be_missing(self, probe: Probe) -> None:
        """Some keys, their values, or all parameters."""
        await finish_payout(probe, OriginatorConversationID="p1")
        probe.simulator.scenario("status_missing_parameters", times=1)
        result = await inquire(probe, OriginatorConversationID="p1")
        assert values_of(result, "TransactionStatus") == []
        assert values_of(result, "OriginatorConversationID") == ["p1"]
        probe.simulator.scenario(
            "status_missing_parameters", times=1, params={"without": ["Amount", "ConversationID"]}
        )
        result = await inquire(probe, OriginatorConversationID="p1")
        assert [values_of(result, key) for key in ("Amount", "ConversationID")] == [[], []]
        assert values_of(result, "TransactionStatus") == ["Completed"]
        probe.simulator.scenario(
            "status_missing_parameters", times=1, params={"valueless": ["TransactionStatus"]}
        )
        assert values_of(
            await inquire(probe, OriginatorConversationID="p1"), "TransactionStatus"
        ) == [None]
        probe.simulator.scenario("status_missing_parameters", times=1, params={"absent": True})
        assert "ResultParameters" not in await inquire(probe, OriginatorConversationID="p1")

    async def test_the_ids_may_be_another_payment_s(self, probe: Probe) -> None:
        """The ids of a known payment, or ids that no payment has."""
        first = await finish_payout(probe, OriginatorConversationID="p1")
        second = await finish_payout(probe, OriginatorConversationID="p2")
        probe.simulator.scenario("status_foreign_ids", times=1, params={"of": "p2"})
        result = await inquire(probe, OriginatorConversationID="p1")
        assert values_of(result, "OriginatorConversationID") == ["p2"]
        assert values_of(result, "ConversationID") == [second["ConversationID"]]
        probe.simulator.scenario("status_foreign_ids", times=1)
        result = await inquire(probe, OriginatorConversationID="p1")
        assert values_of(result, "OriginatorConversationID")[0] not in {"p1", "p2"}
        assert values_of(result, "ConversationID")[0] not in {
            first["ConversationID"],
            second["ConversationID"],
        }

    async def test_amount_and_receipt_may_be_wrong(self, probe: Probe) -> None:
        """Another amount, or no receipt."""
        await finish_payout(probe, OriginatorConversationID="p1")
        probe.simulator.scenario("status_wrong_amount", times=1)
        assert values_of(await inquire(probe, OriginatorConversationID="p1"), "Amount") == [1501.0]
        probe.simulator.scenario("status_wrong_amount", times=1, params={"amount": 15})
        assert values_of(await inquire(probe, OriginatorConversationID="p1"), "Amount") == [15.0]
        probe.simulator.scenario("status_missing_receipt", times=1)
        result = await inquire(probe, OriginatorConversationID="p1")
        assert (values_of(result, "ReceiptNo"), values_of(result, "TransactionStatus")) == (
            [],
            ["Completed"],
        )

    async def test_not_found_and_an_invalid_receiver_have_the_same_code(self, probe: Probe) -> None:
        """Only the text distinguishes "not found" from an invalid receiver."""
        await finish_payout(probe, OriginatorConversationID="p1")
        texts = []
        for scenario, params in (
            ("not_found", {}),
            ("not_found", {"desc": "Transaction not found."}),
            ("status_receiver_invalid", {}),
        ):
            probe.simulator.scenario(scenario, times=1, params=params)
            result = await inquire(probe, OriginatorConversationID="p1")
            assert str(result["ResultCode"]) in ("SFC_IC0003", "2032")
            texts.append(result["ResultDesc"])
        assert texts[0] in NOT_FOUND.values()
        assert texts[1:] == ["Transaction not found.", "Receiver party is invalid."]


class TestUnansweredStatus:
    """Inquiries whose result is late, lost or repeated, or whose call has no effect."""

    @pytest.mark.parametrize(
        ("scenario", "paths"),
        [
            ("duplicate_callbacks", ["/results/status"] * 3),
            ("lost_callback", []),
            ("timeout_message", ["/timeout", "/results/status"]),
            ("timeout_message_only", ["/timeout"]),
            ("slow_result", ["/results/status"]),
            ("internal_error_after_acting", ["/results/status"]),
            ("internal_error_without_acting", []),
            ("html_200", ["/results/status"]),
            ("html_503", []),
            ("spike_arrest_apigee", []),
        ],
    )
    async def test_the_results_of_an_inquiry_in_each_scenario(
        self, probe: Probe, scenario: str, paths: list[str]
    ) -> None:
        """The payment does not change."""
        await finish_payout(probe, OriginatorConversationID="p1")
        probe.receiver.received.clear()
        probe.simulator.scenario(scenario, api="status")
        await probe.status(OriginatorConversationID="p1")
        await probe.simulator.idle()
        assert [received.path for received in probe.receiver.received] == paths
        assert probe.simulator.ledger.count("p1") == 1

    async def test_an_inquiry_without_an_acknowledgement_may_get_a_result(
        self, probe: Probe
    ) -> None:
        await finish_payout(probe, OriginatorConversationID="p1")
        probe.receiver.received.clear()
        probe.simulator.scenario("answer_lost_after_acting", api="status")
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await probe.status(OriginatorConversationID="p1")
        await probe.simulator.idle()
        assert [received.path for received in probe.receiver.received] == ["/results/status"]


class TestRefusedCredential:
    """Results about the initiator, not about the payment (§4.6)."""

    @pytest.mark.parametrize("code", [2001, 8006, 18, 20, 21])
    @pytest.mark.parametrize("api", ["status", "b2c", "b2b"])
    async def test_the_credential_may_be_refused(self, probe: Probe, api: str, code: int) -> None:
        """The call is accepted, but no money moves."""
        probe.simulator.scenario("credential_refused", api=api, params={"code": code})
        if api == "status":
            result = await inquire(probe, OriginatorConversationID="p1")
        else:
            await (probe.b2c() if api == "b2c" else probe.b2b())
            await probe.simulator.idle()
            result = probe.receiver.received[0].body["Result"]
        assert result["ResultCode"] == code
        assert result["ResultDesc"] != "An undocumented outcome."
        assert not probe.simulator.ledger.movements


class TestFalseQuery:
    """False answers of STK query."""

    async def test_a_query_may_report_a_paid_payment_as_failed_and_a_failed_one_as_paid(
        self, probe: Probe
    ) -> None:
        """Seen in the sandbox (§3)."""
        probe.simulator.scenario("query_contradicts")
        first = await finish_push(probe)
        assert (await probe.query(first["CheckoutRequestID"])).body["ResultCode"] == "1037"
        probe.simulator.scenario("cancel")
        second = await finish_push(probe)
        assert (await probe.query(second["CheckoutRequestID"])).body["ResultCode"] == "0"
        assert len(probe.simulator.ledger.movements) == 1

    @pytest.mark.parametrize("code", [17, 26, 1001, 1025, 9999])
    async def test_verify_codes_may_be_reported(self, probe: Probe, code: int) -> None:
        """They may be the payment's own result, or only in the query's answer."""
        probe.simulator.scenario("result_code", api="stk", params={"code": code}, times=1)
        checkout = (await finish_push(probe))["CheckoutRequestID"]
        assert (await probe.query(checkout)).body["ResultCode"] == str(code)
        assert not probe.simulator.ledger.movements
        checkout = (await finish_push(probe))["CheckoutRequestID"]
        probe.simulator.scenario("query_contradicts", params={"code": code})
        answer = await probe.query(checkout)
        assert answer.body["ResultCode"] == str(code)
        assert answer.body["ResultDesc"] != "An undocumented outcome."

    async def test_the_codes_of_successive_queries_may_alternate(self, probe: Probe) -> None:
        """The answers for each payment start with the first code."""
        probe.simulator.scenario("query_codes_in_turn", params={"codes": [1032, 2001]})
        checkouts = [(await finish_push(probe))["CheckoutRequestID"] for _ in range(2)]
        codes = [
            (await probe.query(checkout)).body["ResultCode"]
            for _ in range(3)
            for checkout in checkouts
        ]
        assert codes == ["1032", "1032", "2001", "2001", "1032", "1032"]

    async def test_the_ids_may_be_another_payment_s(self, probe: Probe) -> None:
        """The ids of a known payment, or ids that no payment has."""
        first, second = [await finish_push(probe) for _ in range(2)]
        probe.simulator.scenario(
            "query_foreign_ids", times=1, params={"of": second["CheckoutRequestID"]}
        )
        answer = await probe.query(first["CheckoutRequestID"])
        names = ("CheckoutRequestID", "MerchantRequestID")
        assert [answer.body[name] for name in names] == [second[name] for name in names]
        assert answer.body["ResultCode"] == "0"
        probe.simulator.scenario("query_foreign_ids", times=1)
        answer = await probe.query(first["CheckoutRequestID"])
        assert all(answer.body[name] not in {first[name], second[name]} for name in names)

    @pytest.mark.parametrize(
        ("scenario", "status", "part"),
        [
            ("in_flight_a", 200, {"ResultCode": "4999"}),
            ("in_flight_b", 200, {"errorCode": "500.001.1001", "errorMessage": ""}),
            ("in_flight_c", 500, {"errorMessage": "The transaction is being processed"}),
            ("stray_500", 500, {"errorCode": "500.001.1001"}),
            ("query_too_early", 400, {"errorMessage": "Bad Request - Invalid CheckoutRequestID"}),
            ("query_unknown", 500, {"errorMessage": "The transaction does not Exist"}),
            ("spike_arrest_apigee", 429, {}),
            ("error_envelope_200", 200, {"errorCode": "500.003.1001"}),
        ],
    )
    async def test_a_query_about_a_paid_payment_may_get_no_answer(
        self, probe: Probe, scenario: str, status: int, part: dict[str, str]
    ) -> None:
        """Only once. The simulator answers the next query."""
        checkout = (await finish_push(probe))["CheckoutRequestID"]
        probe.simulator.scenario(scenario, api="stk_query", times=1)
        answer = await probe.query(checkout)
        assert answer.status == status
        assert part.items() <= answer.body.items()
        assert (await probe.query(checkout)).body["ResultCode"] == "0"

    @pytest.mark.parametrize("scenario", ["answer_lost_after_acting", "cut_before_acting"])
    async def test_the_answer_may_be_lost(self, probe: Probe, scenario: str) -> None:
        """Then the query is sent again."""
        checkout = (await finish_push(probe))["CheckoutRequestID"]
        probe.simulator.scenario(scenario, api="stk_query", times=1)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await probe.query(checkout)
        assert (await probe.query(checkout)).body["ResultCode"] == "0"

    async def test_the_rate_of_the_limiter_is_a_switch(self, probe: Probe) -> None:
        """Twelve seconds by default, and less in tests."""
        probe.simulator.switches.change({"query_limiter": True, "query_limit_seconds": 0})
        checkout = (await finish_push(probe))["CheckoutRequestID"]
        assert [(await probe.query(checkout)).status for _ in range(2)] == [200, 200]
        probe.simulator.switches.change({"query_limit_seconds": 600})
        assert [(await probe.query(checkout)).status for _ in range(2)] == [200, 429]


async def test_a_seed_draws_between_the_two_forms_of_not_found(probe: Probe) -> None:
    """The switch chooses a form for all inquiries, a scenario for one inquiry."""
    seen = [(await inquire(probe, TransactionID="UC17KX20PM"))["ResultCode"] for _ in range(8)]
    assert set(seen) == {2032, "SFC_IC0003"}
    for code in (2032, "SFC_IC0003"):
        probe.simulator.switches.change({"not_found_code": str(code)})
        result = await inquire(probe, TransactionID="UC17KX20PM")
        assert result["ResultDesc"] == NOT_FOUND[result["ResultCode"]]
        assert result["ResultCode"] == code
        assert "ResultParameters" not in result
        probe.simulator.switches.change({"not_found_code": "random"})
        probe.simulator.scenario("not_found", times=1, params={"code": code})
        assert (await inquire(probe, TransactionID="UC17KX20PM"))["ResultCode"] == code


async def test_the_target_s_ids_may_be_written_with_blanks(probe: Probe) -> None:
    """As in results of 2017 (daraja.md §4.3)."""
    acknowledged = await finish_payout(probe, OriginatorConversationID="p1")
    probe.simulator.scenario("spaced_keys", times=1)
    result = await inquire(probe, OriginatorConversationID="p1")
    assert values_of(result, "Originator Conversation ID") == ["p1"]
    assert values_of(result, "Conversation ID") == [acknowledged["ConversationID"]]
