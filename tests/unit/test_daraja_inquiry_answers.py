"""The parsers of STK query's answers, and of Transaction Status's acknowledgement."""

from __future__ import annotations

from typing import Any

import pytest

from domain.adapters.daraja.deposit import read_query_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.result_codes import find_failure
from domain.adapters.daraja.status import read_status_acknowledgement
from domain.attempts import IdKind
from domain.errors import ProductRefused, ProviderError, Throttled, TokenRefused
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import CHECKOUT, PAYOUT, QUERY, as_body, envelope, fault

V = InquiryOutcome
MERCHANT_ID = (IdKind.MERCHANT_REQUEST, "4c1e-118203")
IDS = frozenset({(IdKind.CHECKOUT_REQUEST, CHECKOUT), MERCHANT_ID})


def read(answer: object, status: int = 200) -> Report:
    return read_query_answer(status, as_body(answer), CHECKOUT)


# --- a result -------------------------------------------------------------------------------------


@for_each(
    ("code", "inquiry_outcome"),
    [
        *((code, V.PAID) for code in ("0", 0)),
        *((code, V.FAILED) for code in ("1", 1, "1032", "1037", "2001", "8006", "E3008")),
        *((code, V.UNDER_WAY) for code in ("4999", 4999)),
        # A "verify" code or an unknown code: the worker keeps sending inquiries.
        *((code, V.NO_RESULT) for code in ("17", "26", 1001, "9999", "00", "0 ", "O", "-1")),
    ],
)
def test_the_result_code_decides_and_an_answer_has_no_amount_and_no_receipt(
    code: object, inquiry_outcome: InquiryOutcome
) -> None:
    """Codes 2001 and 8006 are about the customer's PIN here, and not about our credential."""
    outcomes = {V.PAID: ReportedOutcome.SUCCESS, V.FAILED: ReportedOutcome.FAILURE}
    assert read(QUERY | {"ResultCode": code}) == Report(
        outcome=outcomes.get(inquiry_outcome, ReportedOutcome.UNDECIDED),
        code=str(code),
        failure=find_failure(PAGES[Kind.DEPOSIT].failures, str(code)),
        ids=IDS,
        inquiry_outcome=inquiry_outcome,
    )


NOT_ACCEPTED: list[Any] = ["1", "", None, "00", False, 0.0, []]
# Such an id might be the id of another push.
OTHER_IDS: list[Any] = ["ws_CO_of_another_push", 5, [CHECKOUT], {}, "x" * 65, "a\0b"]
NO_IDS: list[Any] = [5, True, "x" * 65, "é", "\ud800"]


@for_each("code", ["0", "1032", "4999"])
@for_each(
    ("name", "value"),
    [
        *(("ResponseCode", value) for value in NOT_ACCEPTED),
        *(("CheckoutRequestID", value) for value in OTHER_IDS),
        *(("MerchantRequestID", value) for value in NO_IDS),
    ],
)
def test_a_result_of_another_query_is_no_answer(code: str, name: str, value: Any) -> None:
    report = read(QUERY | {"ResultCode": code, name: value})
    assert report == Report(
        outcome=ReportedOutcome.UNDECIDED, code=code, inquiry_outcome=V.NO_ANSWER
    )


@for_each("code", [None, "", False, 0.0, [], "x" * 41, "0\n", "\ud800"])
def test_a_result_code_of_another_type_is_no_answer(code: object) -> None:
    assert read(QUERY | {"ResultCode": code}).inquiry_outcome is V.NO_ANSWER


@for_each("value", [None, ""])
def test_a_result_without_ids_is_about_the_queried_push(value: object) -> None:
    report = read(QUERY | {"CheckoutRequestID": value})
    assert (report.inquiry_outcome, report.ids) == (V.PAID, frozenset({MERCHANT_ID}))


# --- no result ------------------------------------------------------------------------------------

INVALID_CHECKOUT_ID = envelope("400.002.02", "Bad Request - Invalid CheckoutRequestID")
# Answers without a result: a label, the status, the answer and the outcome of the inquiry.
ANSWERS: list[tuple[str, int, Any, InquiryOutcome]] = [
    ("under way", 500, envelope("500.001.1001", "The transaction is being processed"), V.VAGUE),
    ("unknown id, or at random", 500,
     envelope("500.001.1001", "[StkQuery] - The transaction does not exist"), V.VAGUE),
    ("without a text, in a 200", 200, envelope("500.001.1001", None), V.VAGUE),
    ("another status", 503, envelope("500.001.1001", ""), V.VAGUE),
    ("both a result and an error", 200, QUERY | envelope("500.001.1001", ""), V.VAGUE),
    ("too early", 400, INVALID_CHECKOUT_ID, V.NO_RESULT),
    ("too early, in a 200", 200, INVALID_CHECKOUT_ID, V.NO_RESULT),
    # Daraja did not look for the payment, so these answers are no silence.
    ("our password", 500,
     envelope("500.001.1001", "[MerchantValidate] - Wrong credentials"), V.NO_ANSWER),
    ("our shortcode", 500, envelope("500.001.1001", "Merchant does not exist"), V.NO_ANSWER),
    ("our timestamp", 400, envelope("400.002.02", "Bad Request - Invalid Timestamp"), V.NO_ANSWER),
    ("our body", 400, envelope("400.002.05", "Invalid Request Payload"), V.NO_ANSWER),
    ("other 5xx", 500, envelope("500.003.1001", "Internal Server Error"), V.NO_ANSWER),
    ("busy", 500,
     envelope("500.003.02", "System is busy. Please try again in few minutes."), V.NO_ANSWER),
    ("maintenance", 503,
     envelope("500.002.1001", "Service is currently under maintenance"), V.NO_ANSWER),
    ("another fault", 500, fault("steps.javascript.ScriptExecutionFailed"), V.NO_ANSWER),
    ("another envelope", 400, {"status": "error", "message": "Invalid id"}, V.NO_ANSWER),
    ("502, html", 502, b"<html>Bad Gateway</html>", V.NO_ANSWER),
    ("redirect with a result", 302, QUERY, V.NO_ANSWER),
    ("result in a 500", 500, QUERY, V.NO_ANSWER),
    ("empty", 200, b"", V.NO_ANSWER),
    ("list", 200, [QUERY], V.NO_ANSWER),
]  # fmt: skip


@for_each("row", ANSWERS, ids=[row[0] for row in ANSWERS])
def test_an_answer_without_a_result_is_no_result_or_no_answer(
    row: tuple[str, int, Any, InquiryOutcome],
) -> None:
    """An answer is silence only if Daraja looked for the payment (rules.md §15)."""
    _, status, answer, inquiry_outcome = row
    report = read(answer, status)
    assert report == Report(
        outcome=ReportedOutcome.UNDECIDED, code=report.code, inquiry_outcome=inquiry_outcome
    )


@for_each(
    ("status", "answer", "error"),
    [
        (404, envelope("404.001.03", "Invalid Access Token"), TokenRefused),
        (200, envelope("400.003.01", "Invalid Access Token"), TokenRefused),
        (401, b"<html>Unauthorized</html>", TokenRefused),
        (401, {"ResponseCode": "0", "ResultCode": "0"}, TokenRefused),
        (401, envelope("500.001.1001", ""), TokenRefused),
        # A new token would not help, and could end the tokens of calls under way.
        (401, fault("keymanagement.service", "no apiproduct match found"), ProductRefused),
        (403, envelope("403.002.1001", "Invalid API call"), ProductRefused),
        (403, b"<html><body>Incident ID: 0-0</body></html>", ProductRefused),
        (500, fault("policies.ratelimit.QuotaViolation"), Throttled),
        (429, b"", Throttled),
        (429, envelope("500.001.1001", ""), Throttled),
        (200, envelope("500.003.02", "Error Occurred: Spike Arrest Violation"), Throttled),
    ],
)
def test_an_inquiry_that_daraja_refuses_raises_the_class_of_the_refusal(
    status: int, answer: Any, error: type[ProviderError]
) -> None:
    with pytest.raises(error):
        read(answer, status)
    with pytest.raises(error):
        read_status_acknowledgement(status, as_body(answer))


# --- the acknowledgement of Transaction Status ----------------------------------------------------


@for_each(
    ("status", "answer", "recorded"),
    [
        (200, PAYOUT, "acknowledged"),
        (200, PAYOUT | {"ResponseCode": 0}, "acknowledged"),
        (200, PAYOUT | {"ResponseCode": "1"}, "not acknowledged: 200"),
        (500, PAYOUT, "not acknowledged: 500"),
        (400, envelope("400.002.02", "Bad Request"), "not acknowledged: 400.002.02"),
        (503, b"<html>", "not acknowledged: 503"),
    ],
)
def test_the_acknowledgement_of_a_status_inquiry_is_only_recorded(
    status: int, answer: Any, recorded: str
) -> None:
    assert read_status_acknowledgement(status, as_body(answer)) == recorded
