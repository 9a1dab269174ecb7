"""The simulator's scenarios: each fault, and the things that it must not change."""

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.simulator.probe import Probe, eventually

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


class TestConnections:
    """Cuts before and after acting, which a client cannot distinguish."""

    @pytest.mark.parametrize(
        ("scenario", "payments", "callbacks"),
        [
            ("answer_lost_after_acting", 1, 1),
            ("answer_and_callback_lost", 1, 0),
            ("cut_before_acting", 0, 0),
        ],
    )
    async def test_the_connection_is_cut(
        self, probe: Probe, scenario: str, payments: int, callbacks: int
    ) -> None:
        """Only the ledger shows whether the payment was made."""
        probe.simulator.scenario(scenario, api="stk", times=1)
        with pytest.raises(CUT):
            await probe.stk()
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == payments
        assert len(probe.receiver.received) == callbacks
        (request,) = (await probe.control("GET", "/requests?path=stkpush")).body["items"]
        assert (request["status"], request["fault"]) == (None, "connection cut")
        assert request["bytes_received"] > 0

    async def test_a_closed_listener_refuses_and_comes_back_on_its_port(self, probe: Probe) -> None:
        """Idle connections close too. The control API stays reachable on its own port."""
        assert (await probe.stk()).status == 200
        refused = {"scenario": "connection_refused", "params": {"seconds": None}}
        assert (await probe.control("POST", "/scenarios", refused)).body["open"] is False
        with pytest.raises(
            CUT
        ):  # on the kept connection, or on a new one if its end was already noticed
            await probe.stk()
        with pytest.raises(aiohttp.ClientConnectorError):
            await probe.stk()
        assert (await probe.control("GET", "")).body["open"] is False
        assert (await probe.control("GET", "/requests?path=stk")).body["count"] == 1
        assert (await probe.control("POST", "/listener", {"open": True})).body == {"open": True}
        assert (await probe.stk()).status == 200

    async def test_a_closed_listener_opens_by_itself(self, probe: Probe) -> None:
        """After params.seconds."""
        probe.simulator.scenario("connection_refused", api="b2c", times=1, params={"seconds": 0.05})
        with pytest.raises(CUT):
            await probe.b2c()
        await eventually(lambda: probe.simulator.is_open)
        assert (await probe.b2c()).status == 200
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == 1

    async def test_a_control_call_on_daraja_s_own_port_is_still_answered(
        self, probe: Probe
    ) -> None:
        """Its connection closes last."""
        answer = await probe.call("/_control/listener", {"open": False}, headers={})
        assert answer.body == {"open": False, "seconds": None}
        with pytest.raises(CUT):
            await probe.fetch_token()

    async def test_a_redirect_leads_to_no_server(self, probe: Probe) -> None:
        """302 after the payment was made."""
        probe.simulator.scenario("redirect_after_acting")
        answer = await probe.stk()
        assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1:9/moved")
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == 1


class TestAnswers:
    """Answers instead of the API's own."""

    @pytest.mark.parametrize(
        ("scenario", "status", "code"),
        [
            ("spike_arrest_json", 500, "500.003.02"),
            ("quota", 500, "500.003.03"),
            ("system_busy", 500, "500.003.02"),
            ("internal_error_without_acting", 500, "500.003.1001"),
            ("maintenance", 503, "500.002.1001"),
            ("duplicate_ocid", 500, "500.002.1001"),
            ("invalid_request", 400, "400.002.02"),
            ("error_envelope_200", 200, "500.003.1001"),
            ("gateway_403", 403, "403.002.1001"),
            ("token_expired", 401, "401.002.01"),
        ],
    )
    async def test_a_refusal_has_no_effect(
        self, probe: Probe, scenario: str, status: int, code: str
    ) -> None:
        """The call is not accepted, and the same id succeeds later."""
        probe.simulator.scenario(scenario, api="b2c", times=1)
        body = probe.b2c_body()
        answer = await probe.call("/mpesa/b2c/v3/paymentrequest", body)
        assert (answer.status, answer.body["errorCode"]) == (status, code)
        assert not probe.simulator.courier.pending
        assert (await probe.call("/mpesa/b2c/v3/paymentrequest", body)).status == 200

    async def test_the_gateway_s_own_fault_is_429(self, probe: Probe) -> None:
        """The other shape of a spike arrest."""
        probe.simulator.scenario("spike_arrest_apigee")
        answer = await probe.stk()
        assert answer.status == 429
        assert answer.body["fault"]["faultstring"].startswith("Spike arrest violation")

    @pytest.mark.parametrize(
        ("scenario", "status", "payments"),
        [
            ("html_200", 200, 1),
            ("garbage_200", 200, 1),
            ("empty_200", 200, 1),
            ("internal_error_after_acting", 500, 1),
            ("html_403", 403, 0),
            ("html_503", 503, 0),
        ],
    )
    async def test_an_unreadable_answer_is_no_evidence_about_the_payment(
        self, probe: Probe, scenario: str, status: int, payments: int
    ) -> None:
        """Some payments were made and some not. params.act reverses each."""
        for act, expected in ((None, payments), (payments == 0, 1 - payments)):
            await probe.simulator.reset()
            probe.simulator.scenario(scenario, params={} if act is None else {"act": act})
            assert (await probe.stk()).status == status
            await probe.simulator.idle()
            assert len(probe.simulator.ledger.movements) == expected


class TestForms:
    """Answers that were seen in several forms."""

    async def test_a_refusal_comes_in_other_envelopes_without_an_id(self, probe: Probe) -> None:
        """Every form is drawn at some time, and the same forms again under the same seed."""
        drawn: list[list[tuple[int, str]]] = []
        for seed in (1, 1, 2):
            await probe.simulator.reset()
            probe.simulator.switches.change({"seed": seed})
            probe.simulator.scenario("refused_otherwise")
            drawn.append(
                [(answer.status, answer.text) for answer in [await probe.b2c() for _ in range(60)]]
            )
            assert not probe.simulator.courier.pending
        assert drawn[0] == drawn[1] != drawn[2]
        assert {status for status, _ in drawn[0]} == {400, 404, 405, 411, 413, 415, 422}
        assert not [text for _, text in drawn[0] if "ConversationID" in text or "RequestID" in text]

    async def test_a_form_can_be_asked_for(self, probe: Probe) -> None:
        """By its name."""
        probe.simulator.scenario("refused_otherwise", params={"form": "plain_text"})
        assert (await probe.stk()).status == 422
        probe.simulator.scenario("our_field_refused", params={"form": "CallBackURL"})
        assert (await probe.stk()).error == (400, "400.002.02", "Bad Request - Invalid CallBackURL")

    async def test_an_independent_server_accepts_an_amount_only_as_a_string(
        self, probe: Probe
    ) -> None:
        """Daraja accepts both, and so does the simulator without this scenario."""
        assert (await probe.b2c(Amount=1500)).status == 200
        probe.simulator.scenario("number_refused")
        refused = await probe.b2c(Amount=1500)
        assert (refused.status, refused.body) == (422, None)
        assert (await probe.b2c(Amount="1500")).status == 200
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == 2

    @pytest.mark.parametrize("text", ["a@b", "No#1", "tea & co"])
    async def test_special_characters_fail_without_an_error(self, probe: Probe, text: str) -> None:
        """The call is accepted, but no result follows."""
        probe.simulator.scenario("special_characters_fail")
        assert (await probe.b2c(Remarks=text)).status == 200
        assert (await probe.stk(TransactionDesc=text)).status == 200
        await probe.simulator.idle()
        assert not probe.simulator.ledger.movements
        assert not probe.receiver.received
        assert (await probe.b2c(Remarks="tea and co")).status == 200
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == 1


class TestOutcomes:
    """The content of results."""

    @pytest.mark.parametrize(
        ("scenario", "code"),
        [
            ("cancel", 1032),
            ("ignore", 1037),
            ("wrong_pin", 2001),
            ("insufficient_funds", 1),
            ("unknown_code", 7777),
        ],
    )
    async def test_a_failed_deposit_moves_nothing(
        self, probe: Probe, scenario: str, code: int
    ) -> None:
        """The callback has the code as a number and no metadata, the query has it as a string."""
        probe.simulator.scenario(scenario)
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        await probe.simulator.idle()
        callback = probe.receiver.received[0].body["Body"]["stkCallback"]
        assert callback["ResultCode"] == code
        assert "CallbackMetadata" not in callback
        assert (await probe.query(checkout)).body["ResultCode"] == str(code)
        assert not probe.simulator.ledger.movements

    @pytest.mark.parametrize("scenario", ["late_success_after_failure", "failure_then_success"])
    async def test_a_success_may_follow_a_failure(self, probe: Probe, scenario: str) -> None:
        """Money moves once, and the query ends with success."""
        probe.simulator.scenario(scenario)
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        await probe.simulator.idle()
        codes = [r.body["Body"]["stkCallback"]["ResultCode"] for r in probe.receiver.received]
        assert codes == [1037, 0]
        assert len(probe.simulator.ledger.movements) == 1
        assert (await probe.query(checkout)).body["ResultCode"] == "0"

    async def test_a_result_may_come_three_times_or_never(self, probe: Probe) -> None:
        """Money moves once in both cases."""
        probe.simulator.scenario("duplicate_callbacks", times=1)
        await probe.stk()
        await probe.simulator.idle()
        assert len(probe.receiver.received) == 3
        probe.simulator.scenario("lost_callback", times=1)
        await probe.stk()
        await probe.simulator.idle()
        assert len(probe.receiver.received) == 3
        assert len(probe.simulator.ledger.movements) == 2

    async def test_a_result_may_come_before_the_answer(self, probe: Probe) -> None:
        """The receiver has the result when the answer arrives."""
        probe.simulator.scenario("callback_before_answer")
        assert (await probe.stk()).status == 200
        assert len(probe.receiver.received) == 1

    async def test_a_timeout_message_echoes_the_request_and_a_result_may_follow(
        self, probe: Probe
    ) -> None:
        """The echo has the credential, which a receiver must replace (§4.4)."""
        probe.simulator.scenario("timeout_message", times=1)
        body = probe.b2c_body()
        await probe.call("/mpesa/b2c/v3/paymentrequest", body)
        await probe.simulator.idle()
        echo, result = probe.receiver.received
        assert (echo.path, echo.body) == ("/timeout", body)
        assert result.body["Result"]["ResultCode"] == 0
        probe.simulator.scenario("timeout_message_only", times=1)
        await probe.b2c()
        await probe.simulator.idle()
        assert [received.path for received in probe.receiver.received[2:]] == ["/timeout"]
        assert len(probe.simulator.ledger.movements) == 1

    async def test_results_vary_in_shape(self, probe: Probe) -> None:
        """Strings instead of numbers, other amounts, missing parts."""
        expected: dict[str, Callable[[Any], bool]] = {
            "string_codes": lambda c: c["ResultCode"] == "0",
            "string_date": lambda c: isinstance(items(c)["TransactionDate"], str),
            "wrong_amount": lambda c: items(c)["Amount"] == 251.0,
            "missing_receipt": lambda c: "MpesaReceiptNumber" not in items(c),
            "missing_metadata": lambda c: c["CallbackMetadata"] == {"Item": []},
            "balance_without_value": lambda c: {"Name": "Balance"} in c["CallbackMetadata"]["Item"],
            "masked_phone": lambda c: items(c)["PhoneNumber"].startswith("2547 *****"),
        }
        for name, holds in expected.items():
            probe.receiver.received.clear()
            probe.simulator.scenario(name, times=1)
            await probe.stk()
            await probe.simulator.idle()
            assert holds(probe.receiver.received[0].body["Body"]["stkCallback"]), name
        assert {m.amount for m in probe.simulator.ledger.movements} == {250}

    async def test_a_receiver_s_error_is_recorded_and_nothing_is_sent_again(
        self, probe: Probe
    ) -> None:
        """A result is delivered once (§8.3)."""
        probe.receiver.answer_status = 500
        await probe.stk()
        await probe.simulator.idle()
        (delivery,) = (await probe.control("GET", "/callbacks")).body["items"]
        assert delivery["status"] == 500


def items(callback: Any) -> dict[str, Any]:
    """Return the metadata by name."""
    return {item["Name"]: item.get("Value") for item in callback["CallbackMetadata"]["Item"]}
