"""The class of each synchronous answer of Daraja, as the tables of daraja.md have them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.pages import PAGES
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.failures import FailureReason
from domain.kinds import Kind
from tests.case_tables import for_each
from tests.unit.daraja_messages import (
    ACKS,
    PAYOUT_ACK,
    PAYOUTS,
    STK_ACK,
    answer_error,
    envelope,
    fault,
)


def test_an_acknowledgement_has_the_ids() -> None:
    assert read_answer(
        PAGES[Kind.DEPOSIT].api, Kind.DEPOSIT, 200, json.dumps(STK_ACK).encode()
    ) == {
        ("checkout_request_id", "ws_CO_0103"),
        ("merchant_request_id", "4c1e-118203"),
    }
    for kind in PAYOUTS:
        assert read_answer(PAGES[kind].api, kind, 200, json.dumps(PAYOUT_ACK).encode()) == {
            ("conversation_id", "AG_2010"),
            ("originator_conversation_id", "payout-17"),
        }


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("code", ["0", 0])
def test_a_zero_acknowledges_as_text_or_number(kind: Kind, code: object) -> None:
    assert answer_error(kind, 200, ACKS[kind] | {"ResponseCode": code}) is None


@for_each("kind", Kind)
@for_each("code", [None, "", "1", 1, "00", False, True, 0.0, [], {}, "0 "])
def test_any_other_response_code_acknowledges_nothing(kind: Kind, code: object) -> None:
    assert type(answer_error(kind, 200, ACKS[kind] | {"ResponseCode": code})) is OutcomeUnknown


@for_each("kind", Kind)
@for_each("value", [None, "", 5, [], {}, "x" * 65, "a\nb", "\ud800"])
def test_an_answer_without_its_id_is_no_acknowledgement(kind: Kind, value: object) -> None:
    name = PAGES[kind].api.acknowledgement_id
    assert type(answer_error(kind, 200, ACKS[kind] | {name: value})) is OutcomeUnknown


U, T, R, TH, DU, RS, PR = (
    OutcomeUnknown, TokenRefused, Refused, Throttled, DuplicateSubmission, Resendable,
    ProductRefused,
)  # fmt: skip
# Every row of the contract's tables: a label, the status, the answer and its class. RS is the class
# for a withdrawal. For the other kinds the outcome is unknown, because it is not known that Daraja
# refuses the second use of an id.
ROWS: list[tuple[str, int, Any, type[ProviderError]]] = [
    # the token: 404, 401 or 400, by API
    ("token, STK", 404, envelope("404.001.03", "Invalid Access Token"), T),
    ("token, B2C", 401, envelope("401.002.01", "Error Occurred - Invalid Access Token - abc"), T),
    ("token, status", 400, envelope("400.003.01", "Invalid Access Token"), T),
    ("token, some SDKs", 401, envelope("401.003.01", "Invalid Access Token"), T),
    ("no product", 401,
     fault("keymanagement.service", "Invalid API call as no apiproduct match found"), PR),
    ("no product, envelope", 401,
     envelope("401.001", "Invalid API call as no apiproduct match found"), PR),
    ("no product, text", 403, b"Invalid API call as no apiproduct match found", PR),
    ("no product, as one word", 401,
     fault("keymanagement.InvalidAPICallAsNoApiProductMatchFound", ""), PR),
    ("forbidden", 403, envelope("403.002.1001", "Forbidden"), PR),
    ("firewall", 403, b"<html>Incapsula incident</html>", PR),
    ("firewall, doctype", 403,
     b"\xef\xbb\xbf \r\n<!DOCTYPE HTML PUBLIC '-//W3C//DTD'>\n<HTML><HEAD>", PR),
    ("firewall, comment", 403, b"<!-- blocked -->\n<html><body>Access Denied</body></html>", PR),
    ("firewall, no html element", 403, b"<head><title>403 Forbidden</title></head>", PR),
    ("token, newer", 401, envelope("401.001", "Invalid Access Token"), T),
    ("token, bare", 401, envelope("401", "Unauthorized - Invalid Access Token"), T),
    ("token, no code", 401,
     {"ResponseCode": "", "ResponseDescription": "Invalid Access Token - abc"}, T),
    ("token, refused in full", 401,
     {"ResponseCode": "401", "ConversationID": "", "CheckoutRequestID": None}, T),
    ("token, nothing after it", 401,
     envelope("401.002.01", "Error Occurred - Invalid Access Token - "), T),
    ("401 of another field", 401, envelope("400.002.02", "Bad Request - Invalid Amount"), T),
    ("401 of a busy system", 401, envelope("500.003.02", "System is busy."), T),
    ("401 of a limit", 401, envelope("500.003.03", "Quota Violation"), T),
    ("401 of a merchant", 401, envelope("500.001.1001", "Merchant does not exist"), T),
    ("401, list", 401, b"[]", T),
    ("401, text", 401, b"Unauthorized", T),
    ("401, page", 401, b"<html>Unauthorized</html>", T),
    ("401, empty", 401, b"", T),
    ("token, text of another envelope", 400,
     {"status": "error", "message": "Invalid Access Token"}, T),
    # too many requests
    ("spike arrest", 500, envelope("500.003.02", "Error Occurred: Spike Arrest Violation"), TH),
    ("spike arrest, 429", 429,
     envelope("500.003.02", "Error Occurred: Spike Arrest Violation"), TH),
    ("quota", 500, envelope("500.003.03", "Error Occurred: Quota Violation"), TH),
    ("apigee, 429", 429,
     fault("policies.ratelimit.SpikeArrestViolation", "Spike arrest violation."), TH),
    ("apigee, 500", 500,
     fault("policies.ratelimit.QuotaViolation", "Rate limit quota violation."), TH),
    ("429, html", 429, b"<html>Too many</html>", TH),
    # busy
    ("busy", 500, envelope("500.003.02", "System is busy. Please try again in few minutes."), RS),
    ("maintenance", 500, envelope("500.002.1001", "Service is currently under maintenance."), RS),
    ("maintenance, 503", 503,
     envelope("00.002.1001", "Service is currently under maintenance."), RS),
    # a definite no
    ("validation", 400, envelope("400.002.02", "Bad Request - Invalid Remarks"), R),
    ("wrong credentials", 500,
     envelope("500.001.1001", "[MerchantValidate] - Wrong credentials"), R),
    ("wrong credentials, plain", 500, envelope("500.001.1001", "Wrong credentials"), R),
    ("merchant", 500, envelope("500.001.1001", "Merchant does not exist"), R),
    ("locked", 500,
     envelope("500.001.1001", "Unable to lock subscriber, a transaction is already in process"), R),
    ("auth header", 404, envelope("404.001.04", "Invalid Authentication Header"), R),
    ("path", 404, envelope("404.001.01", "Resource not found"), R),
    ("verb", 405, envelope("405.001", "Method Not Allowed"), R),
    ("payload", 400, envelope("400.002.05", "Invalid Request Payload"), R),
    # it was submitted before
    ("duplicate", 500, envelope("500.002.1001", "Duplicate OriginatorConversationID."), DU),
    ("duplicate, 200", 200,
     {"ResponseCode": "1", "ResponseDescription": "Duplicate OriginatorConversationID."}, DU),
    # it may have acted
    ("internal", 500, envelope("500.003.1001", "Internal Server Error"), U),
    ("system internal", 500, envelope("500.002.1001", "System internal error."), U),
    ("one code, unknown text", 500,
     envelope("500.001.1001", "The transaction is being processed"), U),
    ("one code, no text", 500, envelope("500.001.1001", ""), U),
    ("no such thing", 500, envelope("500.001.1001", "The transaction does not Exist"), U),
    ("unknown 5xx code", 500, envelope("999.9.9", "Something new"), U),
    ("envelope in a 200", 200, envelope("500.001.1001", ""), U),
    ("request timeout", 408, envelope("408.001", "Request timeout"), U),
    ("502", 502, b"", U),
    ("503, html", 503, b"<html>Service Unavailable</html>", U),
    ("504", 504, envelope("504.001", "Gateway Timeout"), U),
    ("403, empty", 403, b"", U),
    ("403, text", 403, b"Forbidden", U),
    ("403, unknown envelope", 403, {"message": "Forbidden"}, U),
    ("403, xml", 403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", U),
    ("403, page with an acknowledgement", 403, b"<html>" + json.dumps(PAYOUT_ACK).encode(), U),
    ("conflict", 409, envelope("409.001", "Conflict"), U),
    ("internal in a 400", 400, envelope("500.003.1001", "Internal Server Error"), U),
    ("redirect", 302, b"", U),
    ("redirect with json", 307, STK_ACK, U),
    ("html in a 200", 200, b"<html>Welcome</html>", U),
    ("empty 200", 200, b"", U),
    ("list", 200, [STK_ACK], U),
    ("null", 200, None, U),
    ("empty object", 200, {}, U),
    ("cut off", 200, json.dumps(STK_ACK).encode()[:-9], U),
    ("acknowledgement in a 500", 500, STK_ACK, U),
    ("code of another type", 400, envelope(400, "Bad Request"), R),
    ("code null", 400, envelope(None, "Bad Request"), R),
    ("another fault", 500, fault("steps.javascript.ScriptExecutionFailed", "Execution failed"), U),
    ("fault of another shape", 500, {"fault": "down"}, U),
]  # fmt: skip


@for_each("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_answer_of_the_contract_has_its_class_for_each_kind(
    row: tuple[str, int, Any, type[ProviderError]],
) -> None:
    _, status, answer, expected = row
    for kind in Kind:
        is_unknown = expected is Resendable and kind is not Kind.WITHDRAWAL
        error = answer_error(kind, status, answer)
        assert type(error) is (OutcomeUnknown if is_unknown else expected), kind


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("400.002.02", "Bad Request - Invalid Remarks", FailureReason.REJECTED_BY_PROVIDER),
        ("400.002.02", "Bad Request - Invalid Amount", FailureReason.LIMIT_EXCEEDED),
        ("400.002.02", "Bad Request - Invalid PhoneNumber", FailureReason.INVALID_RECIPIENT),
        ("500.001.1001", "Wrong credentials", FailureReason.CONFIGURATION),
        ("500.001.1001", "Merchant does not exist", FailureReason.CONFIGURATION),
        (
            "500.001.1001",
            "Unable to lock subscriber, a transaction…",
            FailureReason.SUBSCRIBER_BUSY,
        ),
        ("500.001.1001", "Declined due to limit rule", FailureReason.LIMIT_EXCEEDED),
    ],
)
def test_each_refusal_has_its_failure_reason(code: str, text: str, reason: FailureReason) -> None:
    error = answer_error(Kind.DEPOSIT, 400 if code.startswith("400") else 500, envelope(code, text))
    assert isinstance(error, Refused)
    assert (error.failure.reason, error.failure.safe_to_retry, error.failure.provider_code) == (
        reason,
        True,
        code,
    )


def test_any_other_refusal_is_our_configuration() -> None:
    """So is an unknown 403 of Daraja. It may concern one payment only, so it holds no other."""
    for status, code in (
        (403, "403.001.01"),
        (404, "404.001.01"),
        (405, "405.001"),
        (400, "400.002.05"),
    ):
        error = answer_error(Kind.WITHDRAWAL, status, envelope(code, "Not for you"))
        assert isinstance(error, Refused)
        assert (error.failure.reason, error.failure.safe_to_retry) == (
            FailureReason.CONFIGURATION,
            True,
        )


def test_a_throttled_answer_has_the_seconds_to_wait() -> None:
    error = answer_error(Kind.DEPOSIT, 429, b"")
    assert isinstance(error, Throttled)
    assert error.wait_seconds > 0


@pytest.mark.parametrize("status", [200, 201, 299, 300, 400, 401, 403, 404, 429, 500, 503])
def test_a_token_error_is_known_by_its_code_with_any_status(status: int) -> None:
    assert (
        type(answer_error(Kind.WITHDRAWAL, status, envelope("401.002.01", "Invalid Access Token")))
        is TokenRefused
    )


HOSTILE: list[bytes] = [
    b"[" * 60_000, b'{"a":' * 9_000, b'{"errorCode":' + b"1" * 5_000 + b"}", b"\xff\xfe", b"\x00",
    b'{"errorCode":"\xff"}', b'{"errorCode":NaN,"errorMessage":Infinity}',
    b'{"errorCode":"\\ud800","errorMessage":"\\ud800"}',
    b'{"ResponseCode":"0","CheckoutRequestID":"\\ud800"}',
    *(b'{"errorCode":"1","errorMessage":' + b"[" * depth + b"]" * depth + b"}"
      for depth in (100, 500, 900, 950, 980, 990)),
    *(b'{"ResponseDescription":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
      for depth in (100, 500, 900, 950, 980)),
]  # fmt: skip


@for_each("body", HOSTILE, ids=range(len(HOSTILE)))
@for_each("status", [200, 302, 400, 401, 429, 500])
def test_a_hostile_answer_raises_nothing_but_a_provider_error(body: bytes, status: int) -> None:
    assert answer_error(Kind.WITHDRAWAL, status, body) is not None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["0", 0, "500.001.1001", "400.002.02", "Wrong credentials", "System is busy",
                       "maintenance"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["errorCode", "errorMessage", "fault", "detail", "errorcode", "faultstring",
                         "ResponseCode", "ResponseDescription", "CheckoutRequestID",
                         "ConversationID"]), inner),
    max_leaves=10,
)  # fmt: skip
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 408, 429, 500, 502, 503])


@given(kind=st.sampled_from(Kind), status=STATUSES, value=JSON)
def test_no_json_value_raises_another_class_of_error(kind: Kind, status: int, value: Any) -> None:
    error = answer_error(kind, status, value)
    # Unreachable means that nothing was written. An answer proves the opposite.
    assert type(error) is not Unreachable
    if error is None:
        assert 200 <= status < 300
        assert value["ResponseCode"] in ("0", 0)


@given(kind=st.sampled_from(Kind), status=STATUSES, body=st.binary(max_size=200))
def test_no_bytes_raise_another_class_of_error(kind: Kind, status: int, body: bytes) -> None:
    assert answer_error(kind, status, body) is not None


@given(
    kind=st.sampled_from(Kind),
    status=st.integers(500, 599),
    code=st.text(max_size=12),
    text=st.text(max_size=40),
)
def test_a_5xx_with_an_unknown_text_may_have_acted(
    kind: Kind, status: int, code: str, text: str
) -> None:
    assert type(answer_error(kind, status, envelope(f"{code}?", text))) is OutcomeUnknown
