"""The simulator's deposits, over HTTP: answers, callbacks and money (daraja.md §1 to §3)."""

import re

import pytest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


class TestOAuth:
    """Tokens (§1)."""

    async def test_a_token_has_28_characters_and_a_numeric_lifetime(self, probe: Probe) -> None:
        """As in the recorded answers."""
        answer = await probe.fetch_token()
        assert len(answer.body["access_token"]) == 28
        assert answer.body["expires_in"] == 3599

    async def test_the_lifetime_may_be_a_string(self, probe: Probe) -> None:
        """Sources disagree on the type, so a switch chooses."""
        probe.simulator.switches.change({"expires_in": "string"})
        assert (await probe.fetch_token()).body["expires_in"] == "3599"

    async def test_a_new_token_ends_the_previous_one(self, probe: Probe) -> None:
        """The official FAQ says so."""
        first = probe.token
        await probe.fetch_token()
        headers = {"Authorization": f"Bearer {first}", "Content-Type": "application/json"}
        answer = await probe.call(
            "/mpesa/stkpush/v1/processrequest", probe.stk_body(), headers=headers
        )
        assert answer.error == (404, "404.001.03", "Invalid Access Token")

    async def test_all_tokens_may_be_kept(self, probe: Probe) -> None:
        """No source saw Daraja enforce the FAQ's rule, so a switch turns it off."""
        probe.simulator.switches.change({"token_policy": "keep_all"})
        first = probe.token
        await probe.fetch_token()
        probe.token = first
        assert (await probe.stk()).status == 200

    async def test_wrong_keys_get_400_without_a_body(self, probe: Probe) -> None:
        """Daraja gives no reason."""
        answer = await probe.fetch_token(Authorization="Basic d3Jvbmc6a2V5cw==")
        assert (answer.status, answer.text) == (400, "")

    async def test_other_schemes_and_grants_are_refused(self, probe: Probe) -> None:
        """Each with its own code."""
        assert (await probe.fetch_token(Authorization="Bearer x")).error[:2] == (400, "400.008.01")
        answer = await probe.call(
            "/oauth/v1/generate", method="GET", headers={"Authorization": "Basic eDp5"}
        )
        assert answer.error[:2] == (400, "400.008.02")

    @pytest.mark.parametrize(
        ("path", "status", "code", "echoes"),
        [
            ("/mpesa/stkpush/v1/processrequest", 404, "404.001.03", False),
            ("/mpesa/stkpushquery/v1/query", 404, "404.001.03", False),
            ("/mpesa/b2c/v3/paymentrequest", 401, "401.002.01", True),
            ("/mpesa/b2b/v1/paymentrequest", 401, "401.002.01", True),
            ("/mpesa/transactionstatus/v1/query", 400, "400.003.01", False),
        ],
    )
    async def test_an_expired_token_is_refused_in_the_shape_of_the_api(
        self, probe: Probe, path: str, status: int, code: str, echoes: bool
    ) -> None:
        """The status depends on the API, and the payout APIs echo the token."""
        assert (await probe.control("POST", "/tokens/expire")).body == {"expired": 1}
        answer = await probe.call(path, {})
        assert answer.error[:2] == (status, code)
        assert (probe.token in answer.text) is echoes


class TestEveryApi:
    """Errors before an API reads the request (§1)."""

    async def test_a_missing_header_a_wrong_path_a_wrong_verb_and_broken_json(
        self, probe: Probe
    ) -> None:
        """Each has its envelope."""
        push = "/mpesa/stkpush/v1/processrequest"
        assert (await probe.call(push, {}, headers={})).error[:2] == (404, "404.001.04")
        assert (await probe.call("/mpesa/nothing/v1", {})).error[:2] == (404, "404.001.01")
        assert (await probe.call(push, method="GET")).error[:2] == (405, "405.001")
        assert (await probe.call(push, raw=b'{"Amount":')).error[:2] == (400, "400.002.05")

    async def test_another_content_type_is_an_invalid_shortcode(self, probe: Probe) -> None:
        """Daraja's own misleading message (§2)."""
        headers = {"Authorization": f"Bearer {probe.token}", "Content-Type": "text/plain"}
        answer = await probe.call(
            "/mpesa/stkpush/v1/processrequest", probe.stk_body(), headers=headers
        )
        assert answer.error == (400, "400.002.02", "Bad Request - Invalid BusinessShortCode")


class TestStkPush:
    """A prompt on a phone (§2)."""

    async def test_an_approved_prompt_moves_money_once_with_one_callback(
        self, probe: Probe
    ) -> None:
        """Answer, callback and ledger agree, in the shapes of §2.2 and §2.3."""
        body = probe.stk_body(PhoneNumber="254711000111")
        answer = await probe.call("/mpesa/stkpush/v1/processrequest", body)
        checkout = answer.body["CheckoutRequestID"]
        assert answer.status == 200
        assert answer.body["ResponseCode"] == "0"
        assert re.fullmatch(r"ws_CO_\d{14}\d711000111", checkout)
        assert re.fullmatch(r"(\w{4}-){3}\w{12}\d{4,}", answer.body["MerchantRequestID"])
        await probe.simulator.idle()

        (result,) = probe.receiver.received
        assert result.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert result.headers["BusinessShortCode"] == probe.settings["DARAJA_SHORTCODE"]
        callback = result.body["Body"]["stkCallback"]
        assert (callback["ResultCode"], callback["CheckoutRequestID"]) == (0, checkout)
        items = {item["Name"]: item.get("Value") for item in callback["CallbackMetadata"]["Item"]}
        assert items["Amount"] == 250.0
        assert items["PhoneNumber"] == 254711000111
        assert {"Name": "Balance"} in callback["CallbackMetadata"]["Item"]

        ledger = (await probe.control("GET", "/ledger")).body
        (entry,) = ledger["items"]
        assert ledger["by_reference"] == {body["AccountReference"]: {"count": 1, "amount": 250}}
        assert entry["receipt"] == items["MpesaReceiptNumber"]
        assert (entry["kind"], entry["amount"], entry["phone_number"]) == (
            "stk",
            250,
            "254711000111",
        )
        assert (entry["provider_id"], entry["result_url"]) == (checkout, body["CallBackURL"])

    async def test_a_till_is_paid_as_buy_goods(self, probe: Probe) -> None:
        """PartyB is the till, and the short code is the store (§2.1)."""
        assert (
            await probe.stk(TransactionType="CustomerBuyGoodsOnline", PartyB="5551234")
        ).status == 200
        await probe.simulator.idle()
        assert len(probe.simulator.ledger.movements) == 1

    async def test_the_same_request_twice_is_two_prompts(self, probe: Probe) -> None:
        """There is no idempotency (§2.2)."""
        body = probe.stk_body()
        for _ in range(2):
            assert (await probe.call("/mpesa/stkpush/v1/processrequest", body)).status == 200
            await probe.simulator.idle()
        assert probe.simulator.ledger.count(str(body["AccountReference"])) == 2

    async def test_a_phone_number_with_a_live_prompt_is_locked_until_it_ends(
        self, probe: Probe
    ) -> None:
        """One prompt for each phone number. The switch allows more."""
        assert (await probe.stk(PhoneNumber="254711000111")).status == 200
        second = await probe.stk(PhoneNumber="254711000111")
        assert second.error[:2] == (500, "500.001.1001")
        assert second.error[2].startswith("Unable to lock subscriber")
        await probe.simulator.idle()
        assert (await probe.stk(PhoneNumber="254711000111")).status == 200
        probe.simulator.switches.change({"subscriber_lock": False})
        assert (await probe.stk(PhoneNumber="254711000111")).status == 200

    @pytest.mark.parametrize(
        ("field", "value", "called"),
        [
            ("BusinessShortCode", "12", "BusinessShortCode"),
            ("Timestamp", "20261301000000", "Timestamp"),
            ("TransactionType", "CustomerPay", "TransactionType"),
            ("Amount", "0", "Amount"),
            ("Amount", "10.5", "Amount"),
            ("Amount", 250_001, "Amount"),
            ("PhoneNumber", "254811000111", "PhoneNumber"),
            ("PartyA", "0711000111", "PartyA"),
            ("PartyB", "shop", "PartyB"),
            ("CallBackURL", "https://pay.example.co.ke/<id>", "CallBackURL"),
            ("CallBackURL", "https://Pay.example.co.ke/cb", "CallBackURL"),
            ("CallBackURL", "http://pay.example.co.ke/cb", "CallBackURL"),
            ("AccountReference", "ABCDEFGHIJKLM", "AccountReference"),
            ("TransactionDesc", "fourteen chars", "Remarks"),
            ("TransactionDesc", None, "Remarks"),
        ],
    )
    async def test_an_invalid_field_is_named(
        self, probe: Probe, field: str, value: object, called: str
    ) -> None:
        """By Daraja's own name, and the call has no effect (§2.1, §8.4)."""
        changes = {"PartyA": "254711000111", field: value}
        answer = await probe.stk(**changes)
        assert answer.error == (400, "400.002.02", f"Bad Request - Invalid {called}")
        assert not probe.simulator.courier.pending

    async def test_a_host_that_does_not_resolve_is_accepted(self, probe: Probe) -> None:
        """The sandbox does not resolve the host (§2.2)."""
        probe.simulator.scenario("lost_callback")
        assert (await probe.stk(CallBackURL="https://pay.example.invalid/cb")).status == 200

    async def test_a_wrong_password_and_an_unknown_shortcode(self, probe: Probe) -> None:
        """Both have one code, and differ only in the message."""
        answer = await probe.stk(Password="d3Jvbmc=")
        assert answer.error == (500, "500.001.1001", "[MerchantValidate] - Wrong credentials")
        answer = await probe.stk(BusinessShortCode="999999")
        assert answer.error == (500, "500.001.1001", "Merchant does not exist")


class TestStkQuery:
    """STK query (§3)."""

    async def test_a_final_answer_is_all_strings(self, probe: Probe) -> None:
        """It has neither a receipt nor an amount."""
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        await probe.simulator.idle()
        answer = await probe.query(checkout)
        assert (answer.status, answer.body["ResultCode"]) == (200, "0")
        assert all(isinstance(value, str) for value in answer.body.values())
        assert "Amount" not in answer.body

    @pytest.mark.parametrize(
        ("shape", "status", "part"),
        [
            ("A", 200, {"ResultCode": "4999"}),
            ("B", 200, {"errorCode": "500.001.1001", "errorMessage": ""}),
            (
                "C",
                500,
                {"errorCode": "500.001.1001", "errorMessage": "The transaction is being processed"},
            ),
        ],
    )
    async def test_a_payment_in_flight_has_three_shapes(
        self, probe: Probe, shape: str, status: int, part: dict[str, str]
    ) -> None:
        """Each shape was recorded by a source."""
        probe.simulator.switches.change({"in_flight_shape": shape})
        probe.simulator.scenario("slow_result", params={"seconds": 600})
        answer = await probe.query((await probe.stk()).body["CheckoutRequestID"])
        assert answer.status == status
        assert part.items() <= answer.body.items()

    async def test_an_unknown_id_does_not_exist(self, probe: Probe) -> None:
        """A 500 with the code that has several meanings."""
        answer = await probe.query("ws_CO_010320261015034711000111")
        assert answer.error == (500, "500.001.1001", "The transaction does not Exist")

    async def test_the_limiter_answers_a_second_query_with_429(self, probe: Probe) -> None:
        """Five a minute, one at a time, when switched on."""
        probe.simulator.switches.change({"query_limiter": True})
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        assert (await probe.query(checkout)).status == 200
        answer = await probe.query(checkout)
        assert answer.status == 429
        assert (
            answer.body["fault"]["detail"]["errorcode"] == "policies.ratelimit.SpikeArrestViolation"
        )

    async def test_stray_500s_come_for_known_ids(self, probe: Probe) -> None:
        """As often as the switch sets."""
        probe.simulator.switches.change({"stray_500": 1.0})
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        assert (await probe.query(checkout)).error[:2] == (500, "500.001.1001")
