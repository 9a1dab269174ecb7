"""Reading answers to inquiries: STK query's in every known shape, Transaction Status's first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.adapters.daraja.deposit import read_query_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.result_codes import find_failure
from domain.adapters.daraja.status import read_status_acknowledgement
from domain.attempts import IdKind
from domain.errors import ProductRefused, Throttled, TokenRefused
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import envelope, fault

V = InquiryOutcome
CHECKOUT = "ws_CO_010320261015034711000111"


def result(code: Any, **fields: Any) -> dict[str, Any]:
    """A final answer (daraja.md §3): every value is text."""
    return {
        "ResponseCode": "0",
        "ResponseDescription": "The service request has been accepted successsfully",
        "MerchantRequestID": "4c1e-118203",
        "CheckoutRequestID": CHECKOUT,
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully.",
        **fields,
    }


def body_of(answer: object) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def read(answer: object, status: int = 200) -> Report:
    return read_query_answer(status, body_of(answer), CHECKOUT)


IDS = frozenset({(IdKind.CHECKOUT_REQUEST, CHECKOUT), (IdKind.MERCHANT_REQUEST, "4c1e-118203")})


@pytest.mark.parametrize("code", ["0", 0])
def test_a_zero_is_paid_without_receipt_and_amount(code: object) -> None:
    expected = Report(outcome=ReportedOutcome.SUCCESS, code="0", ids=IDS, inquiry_outcome=V.PAID)
    assert read(result(code)) == expected
    assert (expected.receipt, expected.has_amount) == (None, False)


@pytest.mark.parametrize("code", ["1", 1, "1032", 1032, "1037", "2001", "8006", "E3008"])
def test_a_code_on_the_list_of_failures_is_a_failure(code: object) -> None:
    report = read(result(code))
    assert (report.outcome, report.inquiry_outcome, report.code, report.ids) == (
        ReportedOutcome.FAILURE,
        V.FAILED,
        str(code),
        IDS,
    )
    assert report.failure == find_failure(PAGES[Kind.DEPOSIT].failures, str(code))


def test_a_wrong_pin_is_the_customer_s_and_not_our_credential() -> None:
    for code in ("2001", "8006"):
        report = read(result(code))
        assert report.failure == Failure(FailureReason.WRONG_PIN, True, code)
        assert not report.refuses_credential


@pytest.mark.parametrize("code", ["17", "26", "1001", "1025", "9999", 1001])
def test_a_verify_code_is_no_result(code: object) -> None:
    report = read(result(code))
    assert (report.outcome, report.inquiry_outcome, report.failure) == (
        ReportedOutcome.UNDECIDED,
        V.NO_RESULT,
        None,
    )


@pytest.mark.parametrize("code", ["4999", 4999])
def test_a_payment_that_is_still_under_processing_is_under_way(code: object) -> None:
    report = read(result(code))
    assert (report.outcome, report.inquiry_outcome, report.code) == (
        ReportedOutcome.UNDECIDED,
        V.UNDER_WAY,
        "4999",
    )
    assert report.ids == read(result("17")).ids


@pytest.mark.parametrize("code", ["1050", "00", "0 ", "O", "-1", "SUCCESS", 10**30])
def test_an_unknown_code_is_no_result(code: object) -> None:
    """The worker keeps sending inquiries."""
    report = read(result(code))
    assert (report.outcome, report.inquiry_outcome, report.code) == (
        ReportedOutcome.UNDECIDED,
        V.NO_RESULT,
        str(code),
    )


# "Under way" in its three known shapes, and all other answers without a result: a label, the
# status, the answer and the outcome of the inquiry.
INVALID_CHECKOUT_ID = envelope("400.002.02", "Bad Request - Invalid CheckoutRequestID")
ANSWERS: list[tuple[str, int, Any, InquiryOutcome]] = [
    ("shape A", 200, result("4999"), V.UNDER_WAY),
    ("shape B", 200, envelope("500.001.1001", ""), V.VAGUE),
    ("shape C", 500, envelope("500.001.1001", "The transaction is being processed"), V.VAGUE),
    ("another's push", 500,
     envelope("500.001.1001", "a transaction is already in process for the subscriber"), V.VAGUE),
    ("unknown id, or at random", 500,
     envelope("500.001.1001", "The transaction does not Exist"), V.VAGUE),
    ("unknown id", 500,
     envelope("500.001.1001", "[StkQuery] - The transaction does not exist"), V.VAGUE),
    ("without a text", 500, envelope("500.001.1001", None), V.VAGUE),
    ("another status", 503, envelope("500.001.1001", ""), V.VAGUE),
    ("too early", 400, INVALID_CHECKOUT_ID, V.NO_RESULT),
    ("too early, in a 200", 200, INVALID_CHECKOUT_ID, V.NO_RESULT),
    # Daraja did not look for the payment. That is our fault, and no evidence of silence.
    ("our password", 500, envelope("500.001.1001", "Wrong credentials"), V.NO_ANSWER),
    ("our password, in short", 500,
     envelope("500.001.1001", "[MerchantValidate] - Wrong credentials"), V.NO_ANSWER),
    ("our shortcode", 500, envelope("500.001.1001", "Merchant does not exist"), V.NO_ANSWER),
    ("our timestamp", 400, envelope("400.002.02", "Bad Request - Invalid Timestamp"), V.NO_ANSWER),
    ("our shortcode's form", 400,
     envelope("400.002.02", "Bad Request - Invalid BusinessShortCode"), V.NO_ANSWER),
    ("our body", 400, envelope("400.002.05", "Invalid Request Payload"), V.NO_ANSWER),
    ("our path", 404, envelope("404.001.01", "Resource not found"), V.NO_ANSWER),
    ("our header", 404, envelope("404.001.04", "Invalid Authentication Header"), V.NO_ANSWER),
    ("other 5xx", 500, envelope("500.003.1001", "Internal Server Error"), V.NO_ANSWER),
    ("busy", 500,
     envelope("500.003.02", "System is busy. Please try again in few minutes."), V.NO_ANSWER),
    ("maintenance", 503,
     envelope("500.002.1001", "Service is currently under maintenance"), V.NO_ANSWER),
    ("another fault", 500, fault("steps.javascript.ScriptExecutionFailed"), V.NO_ANSWER),
    ("502, html", 502, b"<html>Bad Gateway</html>", V.NO_ANSWER),
    ("200, html", 200, b"<html>Welcome</html>", V.NO_ANSWER),
    ("redirect", 302, b"", V.NO_ANSWER),
    ("redirect with a result", 302, result("0"), V.NO_ANSWER),
    ("result in a 500", 500, result("0"), V.NO_ANSWER),
    ("empty", 200, b"", V.NO_ANSWER),
    ("empty object", 200, {}, V.NO_ANSWER),
    ("list", 200, [result("0")], V.NO_ANSWER),
    ("null", 200, None, V.NO_ANSWER),
    ("cut off", 200, json.dumps(result("0")).encode()[:-9], V.NO_ANSWER),
    ("both a result and an error", 200, result("0") | envelope("500.001.1001", ""), V.VAGUE),
]  # fmt: skip


@for_each("row", ANSWERS, ids=[row[0] for row in ANSWERS])
def test_an_answer_without_a_result_is_no_result_or_no_answer(
    row: tuple[str, int, Any, InquiryOutcome],
) -> None:
    """Only an answer after Daraja looked for the payment counts as silence (rules.md §15)."""
    _, status, answer, inquiry_outcome = row
    report = read(answer, status)
    assert (report.outcome, report.inquiry_outcome) == (ReportedOutcome.UNDECIDED, inquiry_outcome)
    assert (report.failure, report.receipt) == (None, None)
    assert report.code == "4999" or not report.ids


@pytest.mark.parametrize("code", ["1", 1, "", None, "00", False, True, 0.0, [], {}])
def test_a_result_of_a_query_that_was_not_accepted_is_no_answer(code: object) -> None:
    assert read(result("0", ResponseCode=code)).inquiry_outcome is V.NO_ANSWER
    assert read(result("1032", ResponseCode=code)).inquiry_outcome is V.NO_ANSWER


@pytest.mark.parametrize("code", [None, "", False, True, 0.0, [], {}, "x" * 41, "0\n", "\ud800"])
def test_a_result_code_of_another_type_is_no_answer(code: object) -> None:
    assert read(result(code)).inquiry_outcome is V.NO_ANSWER


@pytest.mark.parametrize("code", ["0", "1032", "4999"])
def test_a_result_about_another_push_is_no_answer(code: str) -> None:
    report = read(result(code, CheckoutRequestID="ws_CO_somebody_elses"))
    assert (report.inquiry_outcome, report.ids) == (V.NO_ANSWER, frozenset())


@for_each("value", [5, True, [], [CHECKOUT], {}, "x" * 65, "é", "a\0b", "\ud800"])
@for_each("name", ["CheckoutRequestID", "MerchantRequestID"])
@for_each("code", ["0", "1032"])
def test_a_result_with_an_id_that_cannot_be_one_is_no_answer(
    code: str, name: str, value: object
) -> None:
    """Such an id might be the id of another push."""
    report = read(result(code, **{name: value}))
    assert (report.inquiry_outcome, report.failure, report.ids) == (V.NO_ANSWER, None, frozenset())


@pytest.mark.parametrize("value", [None, ""])
def test_a_result_without_ids_is_about_the_queried_push(value: object) -> None:
    report = read(result("0", CheckoutRequestID=value))
    assert (report.inquiry_outcome, report.ids) == (
        V.PAID,
        frozenset({(IdKind.MERCHANT_REQUEST, "4c1e-118203")}),
    )


# --- refusals before Daraja reads the inquiry -----------------------------------------------------

TOKEN_REFUSED: list[tuple[int, Any]] = [
    (404, envelope("404.001.03", "Invalid Access Token")),
    (401, envelope("401.002.01", "Error Occurred - Invalid Access Token - abc")),
    (401, envelope("401.003.01", "Invalid Access Token")),
    (400, envelope("400.003.01", "Invalid Access Token")),
    (200, envelope("400.003.01", "Invalid Access Token")),
    (401, b""),
    (401, b"<html>Unauthorized</html>"),
    (401, envelope("401.001", "Invalid Access Token")),
    (401, envelope("401", "Unauthorized - Invalid Access Token")),
    (401, {"ResponseCode": "", "ResponseDescription": "Invalid Access Token - abc"}),
    (401, {"ResponseCode": "0", "ResultCode": "0"}),  # a 401 is never an answer to the inquiry
    (401, envelope("500.001.1001", "")),
]
THROTTLED: list[tuple[int, Any]] = [
    (429, fault("policies.ratelimit.SpikeArrestViolation")),
    (500, fault("policies.ratelimit.QuotaViolation", "Rate limit quota violation.")),
    (429, b""),
    (429, b"<html>Too many</html>"),
    (429, envelope("500.001.1001", "")),
    (500, envelope("500.003.02", "Error Occurred: Spike Arrest Violation")),
    (200, envelope("500.003.02", "Error Occurred: Spike Arrest Violation")),
    (500, envelope("500.003.03", "Error Occurred: Quota Violation")),
]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, fault("keymanagement.service", "Invalid API call as no apiproduct match found")),
        (403, envelope("403.002.1001", "Invalid API call")),
        (403, b"<html><body>Incident ID: 0-0</body></html>"),
    ],
)
def test_a_query_without_its_product_needs_no_other_token(status: int, answer: Any) -> None:
    """A new token would not help, and could end the tokens of calls under way."""
    with pytest.raises(ProductRefused):
        read(answer, status)
    with pytest.raises(ProductRefused):
        read_status_acknowledgement(status, body_of(answer))


@for_each("status", [400, 404, 405, 411, 413, 414, 415, 422])
@for_each(
    "body",
    [b"", b"not found", b"<html></html>", b'{"status":"error","message":"Invalid id","data":"20"}'],
)
def test_a_refused_query_is_no_evidence_about_the_payment(status: int, body: bytes) -> None:
    report = read(body, status)
    assert (report.outcome, report.inquiry_outcome, report.failure) == (
        ReportedOutcome.UNDECIDED,
        V.NO_ANSWER,
        None,
    )
    assert read_status_acknowledgement(status, body) == f"not acknowledged: {status}"


@for_each(("status", "answer"), TOKEN_REFUSED)
def test_a_query_whose_token_is_refused_raises_token_refused(status: int, answer: Any) -> None:
    with pytest.raises(TokenRefused):
        read(answer, status)
    with pytest.raises(TokenRefused):
        read_status_acknowledgement(status, body_of(answer))


@pytest.mark.parametrize(("status", "answer"), THROTTLED)
def test_a_throttled_query_has_the_seconds_to_wait(status: int, answer: Any) -> None:
    with pytest.raises(Throttled) as caught:
        read(answer, status)
    assert caught.value.wait_seconds > 0
    with pytest.raises(Throttled):
        read_status_acknowledgement(status, body_of(answer))


# --- the acknowledgement of Transaction Status ----------------------------------------------------

ACKNOWLEDGED = {
    "OriginatorConversationID": "payout-17",
    "ConversationID": "AG_20260301_2010",
    "ResponseCode": "0",
    "ResponseDescription": "Accept the service request successfully.",
}


@pytest.mark.parametrize(
    ("status", "answer", "recorded"),
    [
        (200, ACKNOWLEDGED, "acknowledged"),
        (200, ACKNOWLEDGED | {"ResponseCode": 0}, "acknowledged"),
        (200, ACKNOWLEDGED | {"ResponseCode": "1"}, "not acknowledged: 200"),
        (200, ACKNOWLEDGED | {"ResponseCode": None}, "not acknowledged: 200"),
        (500, ACKNOWLEDGED, "not acknowledged: 500"),
        (
            400,
            envelope("400.002.02", "Bad Request - Invalid TransactionID"),
            "not acknowledged: 400.002.02",
        ),
        (500, envelope("500.003.1001", "Internal Server Error"), "not acknowledged: 500.003.1001"),
        (503, b"<html>", "not acknowledged: 503"),
        (200, b"", "not acknowledged: 200"),
    ],
)
def test_the_acknowledgement_of_a_status_inquiry_is_only_recorded(
    status: int, answer: Any, recorded: str
) -> None:
    assert read_status_acknowledgement(status, body_of(answer)) == recorded


# --- hostile answers ------------------------------------------------------------------------------

HOSTILE: list[bytes] = [
    b"[" * 60_000, b'{"a":' * 9_000, b'{"errorCode":' + b"1" * 5_000 + b"}", b"\xff\xfe", b"\x00",
    b'{"errorCode":NaN,"errorMessage":Infinity}',
    b'{"errorCode":"\\ud800","errorMessage":"\\ud800"}',
    b'{"ResponseCode":"0","ResultCode":"\\ud800"}',
    b'{"ResponseCode":"0","ResultCode":' + b"9" * 4_000 + b"}",
    *(b'{"errorCode":"1","errorMessage":' + b"[" * depth + b"]" * depth + b"}"
      for depth in (100, 900, 980, 990)),
    *(b'{"ResultCode":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
      for depth in (100, 900, 980)),
]  # fmt: skip


@for_each("body", HOSTILE, ids=range(len(HOSTILE)))
@for_each("status", [200, 302, 400, 500])
def test_a_hostile_answer_is_no_answer(body: bytes, status: int) -> None:
    assert read_query_answer(status, body, CHECKOUT).inquiry_outcome in (V.NO_ANSWER, V.NO_RESULT)
    assert read_status_acknowledgement(status, body)


CODES = st.sampled_from(
    ["0", 0, "1032", "4999", "500.001.1001", "400.002.02", "401.002.01", "500.003.02"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | CODES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["errorCode", "errorMessage", "fault", "detail", "errorcode", "faultstring",
                         "ResponseCode", "ResultCode", "CheckoutRequestID"]), inner),
    max_leaves=10,
)  # fmt: skip
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 408, 429, 500, 502, 503])


@given(status=STATUSES, value=JSON)
@example(status=200, value=result("0"))
@example(status=200, value=result("1032"))
def test_only_a_listed_code_of_an_accepted_query_is_a_result(status: int, value: Any) -> None:
    try:
        report = read_query_answer(status, json.dumps(value).encode(), CHECKOUT)
    except (TokenRefused, ProductRefused, Throttled):
        return
    assert (report.outcome is ReportedOutcome.SUCCESS) == (report.inquiry_outcome is V.PAID)
    assert (
        (report.outcome is ReportedOutcome.FAILURE)
        == (report.inquiry_outcome is V.FAILED)
        == (report.failure is not None)
    )
    if report.outcome in (ReportedOutcome.SUCCESS, ReportedOutcome.FAILURE):
        assert 200 <= status < 300
        assert value["ResponseCode"] in ("0", 0)
        assert "errorCode" not in value
        assert str(value["ResultCode"]) == report.code
        assert (
            report.code == "0"
            or find_failure(PAGES[Kind.DEPOSIT].failures, report.code or "") is not None
        )


@given(status=STATUSES, body=st.binary(max_size=200))
def test_no_bytes_are_a_result_or_an_acknowledgement(status: int, body: bytes) -> None:
    try:
        assert read_query_answer(status, body, CHECKOUT).inquiry_outcome is V.NO_ANSWER
        assert read_status_acknowledgement(status, body) != "acknowledged"
    except (TokenRefused, ProductRefused, Throttled):
        assert status in (401, 429)


@given(status=STATUSES, value=JSON)
def test_no_json_value_without_a_zero_is_an_acknowledgement(status: int, value: Any) -> None:
    try:
        outcome = read_status_acknowledgement(status, json.dumps(value).encode())
    except (TokenRefused, ProductRefused, Throttled):
        return
    if outcome == "acknowledged":
        assert 200 <= status < 300
        assert value["ResponseCode"] in ("0", 0)
