"""The simulator's scenarios: the answer, the money and the results of each."""

from typing import Any

import aiohttp
import pytest

from tests.paths import ROOT
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.probe import Probe, eventually

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

# API, scenario, the answer's status and error code, movements of money, codes of the results.
EFFECTS: list[tuple[str, str, str, int, list[object]]] = [
    ("stk", "approve", "200", 1, [0]),
    ("stk", "cancel", "200", 0, [1032]),
    ("stk", "ignore", "200", 0, [1037]),
    ("stk", "wrong_pin", "200", 0, [2001]),
    ("stk", "insufficient_funds", "200", 0, [1]),
    ("stk", "unknown_code", "200", 0, [7777]),
    ("stk", "late_success_after_failure", "200", 1, [1037, 0]),
    ("stk", "failure_then_success", "200", 1, [1037, 0]),
    ("stk", "duplicate_callbacks", "200", 1, [0, 0, 0]),
    ("stk", "callback_before_answer", "200", 1, [0]),
    ("stk", "lost_callback", "200", 1, []),
    ("stk", "answer_lost_after_acting", "cut", 1, [0]),
    ("stk", "answer_and_callback_lost", "cut", 1, []),
    ("stk", "internal_error_after_acting", "500 500.003.1001", 1, [0]),
    ("stk", "redirect_after_acting", "302", 1, [0]),
    ("stk", "html_200", "200", 1, [0]),
    ("stk", "garbage_200", "200", 1, [0]),
    ("stk", "empty_200", "200", 1, [0]),
    ("stk", "cut_before_acting", "cut", 0, []),
    ("stk", "html_403", "403", 0, []),
    ("stk", "html_503", "503", 0, []),
    ("stk", "token_expired", "404 404.001.03", 0, []),
    ("b2c", "unregistered_recipient", "200", 0, [2040]),
    ("b2c", "invalid_recipient", "200", 0, ["SFC_IC0003"]),
    ("b2c", "credential_refused", "200", 0, [2001]),
    ("b2c", "duplicate_ocid_async", "200", 0, [15]),
    ("b2c", "timeout_message", "200", 1, ["timeout", 0]),
    ("b2c", "timeout_message_only", "200", 0, ["timeout"]),
    ("b2c", "duplicate_ocid", "500 500.002.1001", 0, []),
    ("b2c", "spike_arrest_apigee", "429", 0, []),
    ("b2c", "spike_arrest_json", "500 500.003.02", 0, []),
    ("b2c", "quota", "500 500.003.03", 0, []),
    ("b2c", "system_busy", "500 500.003.02", 0, []),
    ("b2c", "internal_error_without_acting", "500 500.003.1001", 0, []),
    ("b2c", "maintenance", "503 500.002.1001", 0, []),
    ("b2c", "invalid_request", "400 400.002.02", 0, []),
    ("b2c", "error_envelope_200", "200 500.003.1001", 0, []),
    ("b2c", "gateway_403", "403 403.002.1001", 0, []),
    ("b2c", "token_expired", "401 401.002.01", 0, []),
    ("b2b", "approve", "200", 1, ["0"]),
    ("b2b", "credential_refused", "200", 0, [2001]),
    ("b2pochi", "approve", "200", 1, [0]),
    ("status", "approve", "200", 0, [0]),
    ("status", "duplicate_callbacks", "200", 0, [0, 0, 0]),
    ("status", "lost_callback", "200", 0, []),
    ("status", "timeout_message", "200", 0, ["timeout", 0]),
    ("status", "timeout_message_only", "200", 0, ["timeout"]),
    ("status", "credential_refused", "200", 0, [2001]),
    ("status", "answer_lost_after_acting", "cut", 0, [0]),
    ("status", "html_200", "200", 0, [0]),
    ("status", "html_503", "503", 0, []),
    ("stk_query", "in_flight_a", "200", 0, []),
    ("stk_query", "in_flight_b", "200 500.001.1001", 0, []),
    ("stk_query", "in_flight_c", "500 500.001.1001", 0, []),
    ("stk_query", "stray_500", "500 500.001.1001", 0, []),
    ("stk_query", "query_too_early", "400 400.002.02", 0, []),
    ("stk_query", "query_unknown", "500 500.001.1001", 0, []),
    ("stk_query", "cut_before_acting", "cut", 0, []),
]


async def earlier_payment(probe: Probe, api: str) -> dict[str, object]:
    """Finish a payment for an inquiry, and return the field that names the payment."""
    if api == "status":
        await probe.finish("b2c", OriginatorConversationID="p1")
        return {"OriginatorConversationID": "p1"}
    if api == "stk_query":
        pushed = await probe.finish("stk")
        return {"CheckoutRequestID": pushed["CheckoutRequestID"]}
    return {}


@pytest.mark.parametrize(("api", "scenario", "answer", "payments", "results"), EFFECTS)
async def test_each_scenario_answers_moves_money_and_reports_as_its_row_says(
    probe: Probe, api: str, scenario: str, answer: str, payments: int, results: list[object]
) -> None:
    """The next call succeeds, so the scenario leaves nothing behind."""
    target = await earlier_payment(probe, api)
    probe.receiver.received.clear()
    before = len(probe.simulator.ledger.movements)
    probe.simulator.scenario(scenario, api=api, times=1)
    try:
        answered = await probe.send(api, **target)
        code = answered.body.get("errorCode", "") if answered.body else ""
        assert f"{answered.status} {code}".strip() == answer
    except CUT:
        assert answer == "cut"
        assert probe.simulator.traffic.arrivals[-1].fault == "connection cut"
    await probe.simulator.idle()
    assert len(probe.simulator.ledger.movements) - before == payments
    assert probe.receiver.codes == results
    assert (await probe.send(api, **target)).status == 200


@pytest.mark.parametrize(("scenario", "act"), [("html_200", False), ("html_503", True)])
async def test_a_parameter_reverses_whether_a_call_has_its_effect(
    probe: Probe, scenario: str, act: bool
) -> None:
    probe.simulator.scenario(scenario, params={"act": act})
    await probe.finish("stk")
    assert len(probe.simulator.ledger.movements) == act


async def test_a_redirect_leads_to_no_server(probe: Probe) -> None:
    probe.simulator.scenario("redirect_after_acting")
    assert (await probe.send("stk")).headers["Location"] == "http://127.0.0.1:9/moved"


async def test_a_timeout_message_echoes_the_request_with_its_credential(probe: Probe) -> None:
    """A receiver must replace the credential (§4.4)."""
    probe.simulator.scenario("timeout_message_only")
    body = probe.body("b2c")
    await probe.call("/mpesa/b2c/v3/paymentrequest", body)
    await probe.simulator.idle()
    (echo,) = probe.receiver.received
    assert (echo.path, echo.body) == ("/timeout", body)


class TestListener:
    """The simulator closes its listener and refuses connections, as Daraja may."""

    async def test_a_closed_listener_refuses_and_comes_back_on_its_port(self, probe: Probe) -> None:
        """Idle connections close too. The control API stays reachable on its own port."""
        assert (await probe.send("stk")).status == 200
        refused = {"scenario": "connection_refused", "params": {"seconds": None}}
        assert (await probe.control("POST", "/scenarios", refused)).body["open"] is False
        with pytest.raises(CUT):  # on the kept connection, or on a new one
            await probe.send("stk")
        with pytest.raises(aiohttp.ClientConnectorError):
            await probe.send("stk")
        assert (await probe.control("GET", "")).body["open"] is False
        assert (await probe.control("GET", "/requests?path=stk")).body["count"] == 1
        assert (await probe.control("POST", "/listener", {"open": True})).body == {"open": True}
        assert (await probe.send("stk")).status == 200

    async def test_a_closed_listener_opens_by_itself(self, probe: Probe) -> None:
        probe.simulator.scenario("connection_refused", api="b2c", times=1, params={"seconds": 0.05})
        with pytest.raises(CUT):
            await probe.send("b2c")
        await eventually(lambda: probe.simulator.is_open)
        await probe.finish("b2c")
        assert len(probe.simulator.ledger.movements) == 1

    async def test_a_control_call_on_daraja_s_own_port_is_still_answered(
        self, probe: Probe
    ) -> None:
        """The connection of the control call closes last."""
        answer = await probe.call("/_control/listener", {"open": False}, headers={})
        assert answer.body == {"open": False, "seconds": None}
        with pytest.raises(CUT):
            await probe.fetch_token()


class TestForms:
    """Answers that were seen in several forms."""

    async def test_a_refusal_comes_in_other_envelopes_without_an_id(self, probe: Probe) -> None:
        """Every form is drawn at some time, and the same forms again under the same seed."""
        drawn: list[list[tuple[int, str]]] = []
        for seed in (1, 1, 2):
            await probe.simulator.reset()
            probe.simulator.switches.change({"seed": seed})
            probe.simulator.scenario("refused_otherwise")
            answers = [await probe.send("b2c") for _ in range(60)]
            drawn.append([(answer.status, answer.text) for answer in answers])
            assert not probe.simulator.courier.pending
        assert drawn[0] == drawn[1] != drawn[2]
        assert {status for status, _ in drawn[0]} == {400, 404, 405, 411, 413, 415, 422}
        assert not [text for _, text in drawn[0] if "ConversationID" in text or "RequestID" in text]

    async def test_a_parameter_chooses_the_form(self, probe: Probe) -> None:
        probe.simulator.scenario("our_field_refused", params={"form": "CallBackURL"})
        refused = await probe.send("stk")
        assert refused.error == (400, "400.002.02", "Bad Request - Invalid CallBackURL")

    async def test_an_independent_server_accepts_an_amount_only_as_a_string(
        self, probe: Probe
    ) -> None:
        """Daraja accepts both, and so does the simulator without this scenario."""
        probe.simulator.scenario("number_refused")
        refused = await probe.send("b2c", Amount=1500)
        assert (refused.status, refused.body) == (422, None)
        assert (await probe.send("b2c", Amount="1500")).status == 200

    @pytest.mark.parametrize("text", ["a@b", "No#1", "tea & co"])
    async def test_special_characters_fail_without_an_error(self, probe: Probe, text: str) -> None:
        """The call is accepted, but no result follows."""
        probe.simulator.scenario("special_characters_fail")
        await probe.finish("b2c", Remarks=text)
        await probe.finish("stk", TransactionDesc=text)
        assert not probe.simulator.ledger.movements
        assert not probe.receiver.received
        await probe.finish("b2c", Remarks="tea and co")
        assert len(probe.simulator.ledger.movements) == 1


def deposit_items(received: Any) -> dict[str, Any]:
    """Return the items of a deposit's callback by name."""
    items = received.body["Body"]["stkCallback"]["CallbackMetadata"]["Item"]
    return {item["Name"]: item.get("Value") for item in items}


async def test_the_results_of_deposits_vary_in_shape(probe: Probe) -> None:
    """Results may have strings for numbers, wrong amounts or missing parts. The ledger is right."""
    found = {}
    for name in ("string_date", "wrong_amount", "missing_receipt", "missing_metadata",
                 "masked_phone", "string_codes"):  # fmt: skip
        probe.receiver.received.clear()
        probe.simulator.scenario(name, times=1)
        await probe.finish("stk")
        found[name] = probe.receiver.received[0]
    assert isinstance(deposit_items(found["string_date"])["TransactionDate"], str)
    assert deposit_items(found["wrong_amount"])["Amount"] == 251.0
    assert "MpesaReceiptNumber" not in deposit_items(found["missing_receipt"])
    assert deposit_items(found["missing_metadata"]) == {}
    assert deposit_items(found["masked_phone"])["PhoneNumber"].startswith("2547 *****")
    assert found["string_codes"].code == "0"
    assert {movement.amount for movement in probe.simulator.ledger.movements} == {250}


async def test_the_results_of_payouts_may_name_other_ids_and_misplace_the_receipt(
    probe: Probe,
) -> None:
    """ConversationID is always right. Independent servers do both (§4.3)."""
    probe.simulator.scenario("result_names_another_id", api="b2c", times=1)
    first = await probe.finish("b2c", OriginatorConversationID="first")
    probe.simulator.scenario("result_names_another_id", times=1, params={"of": "first"})
    await probe.finish("b2c", OriginatorConversationID="second")
    probe.simulator.scenario("receipt_under_amount", api="b2c", times=1)
    await probe.finish("b2c")
    own, of_first, misplaced = (one.body["Result"] for one in probe.receiver.received)
    assert own["ConversationID"] == first["ConversationID"]
    assert own["OriginatorConversationID"] != "first"
    assert of_first["OriginatorConversationID"] == "first"
    items = misplaced["ResultParameters"]["ResultParameter"]
    amounts = [item["Value"] for item in items if item["Key"] == "TransactionAmount"]
    assert amounts == [1500, misplaced["TransactionID"]]


async def test_a_receiver_s_error_is_recorded_and_nothing_is_sent_again(probe: Probe) -> None:
    """A result is delivered once (§8.3)."""
    probe.receiver.answer_status = 500
    await probe.finish("stk")
    (delivery,) = (await probe.control("GET", "/callbacks")).body["items"]
    assert delivery["status"] == 500


def test_the_readme_lists_every_scenario_with_its_number() -> None:
    """The rows are in the catalogue's order."""
    text = (ROOT / "tests" / "simulator" / "README.md").read_text(encoding="utf-8")
    lines = text.partition("| scenario | NN |")[2].splitlines()
    cells = [line.split("|") for line in lines if line.startswith("| `")]
    scripts = CATALOGUE.values()
    numbers = [(s.name, "" if s.number is None else f"{s.number:02}") for s in scripts]
    rows = [(name.strip(" `"), number.strip()) for _, name, number, *_ in cells]
    assert rows == numbers
