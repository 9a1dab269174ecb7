"""Reading results of Transaction Status: their code, their text and their shape."""

from __future__ import annotations

from typing import Any

import pytest

from domain.adapters.daraja.reports import UNREADABLE
from domain.evidence import InquiryOutcome
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import ABSENT, read_message, stk
from tests.unit.status_messages import status

V = InquiryOutcome


def reading(message: Any) -> Report:
    return read_message("status-1", message)


@pytest.mark.parametrize("code", [0, "0"])
def test_a_zero_as_text_or_number_means_that_the_inquiry_worked(code: object) -> None:
    assert reading(status(code)).inquiry_outcome is V.PAID


@pytest.mark.parametrize(
    "text",
    [
        "The transaction does not exist.",
        "TRANSACTION DOES NOT EXIST",
        "The transaction doesn't exist",
        "Transaction not found",
        "Transaction with the given ID not exist",
        "[Controller - ]The Transaction\nsearched for was not found.",
        "The transaction receipt number does not exist.",
    ],
)
def test_not_found_is_one_of_two_codes_with_a_text_of_that_meaning(text: str) -> None:
    for code in (2032, "2032", "SFC_IC0003"):
        report = reading(status(code, ABSENT, ResultDesc=text))
        assert report == Report(
            outcome=ReportedOutcome.UNDECIDED, code=str(code), inquiry_outcome=V.NOT_FOUND
        )
    for code in (
        "SFC_J_C0003",
        "sfc_ic0003",
        1,
        "17",
        25,
        2033,
        "2032 ",
        "02032",
        -2032,
        20320,
        "R2032",
    ):
        assert reading(status(code, ABSENT, ResultDesc=text)).inquiry_outcome is V.NO_ANSWER


def test_the_recorded_answer_of_a_lost_withdrawal_is_a_not_found() -> None:
    """As in two public captures: no parameters, a placeholder, a reference without a value."""
    message = {
        "Result": {
            "ResultType": 0,
            "ResultCode": 2032,
            "ResultDesc": "The transaction receipt number does not exist.",
            "OriginatorConversationID": "9a1e-4c22-8d0f-1b2c3d4e5f60112233",
            "ConversationID": "AG_20261127_0100aabbccddeeff0011",
            "TransactionID": "UKR0000000",
            "ReferenceData": {"ReferenceItem": {"Key": "Occasion"}},
        }
    }
    assert reading(message) == Report(
        outcome=ReportedOutcome.UNDECIDED, code="2032", inquiry_outcome=V.NOT_FOUND
    )


@for_each(
    "text",
    [
        "The operator does not exist.",
        "The receiver does not exist",
        "Not found: transaction",
        "The transaction exists",
        "The transaction is not finished",
        "does not exist",
        "",
        None,
        ABSENT,
        5,
        ["The transaction does not exist"],
        {"a": "The transaction does not exist"},
    ],
)
def test_the_code_with_any_other_text_is_no_answer(text: Any) -> None:
    """The code also means that the operator, our initiator, does not exist."""
    for code in ("SFC_IC0003", 2032, "2032"):
        assert reading(status(code, ABSENT, ResultDesc=text)).inquiry_outcome is V.NO_ANSWER


@for_each("code", [1, "1", 15, 17, 25, 26, 29, "100000000", "R000002", "00", "0 ", "O", -1, 10**30])
def test_any_other_code_is_no_answer_with_any_parameters(code: object) -> None:
    report = reading(status(code))
    assert (report.outcome, report.inquiry_outcome, report.receipt, report.ids) == (
        ReportedOutcome.UNDECIDED, V.NO_ANSWER, None, frozenset(),
    )  # fmt: skip
    assert (report.code, report.refuses_credential) == (str(code), False)


@pytest.mark.parametrize("code", [2001, "2001", 18, 20, 21, 8006, "8006"])
def test_an_answer_that_refuses_our_credential_is_marked(code: object) -> None:
    report = reading(status(code, ABSENT))
    assert (report.inquiry_outcome, report.refuses_credential) == (V.NO_ANSWER, True)


@pytest.mark.parametrize(
    "code", [ABSENT, None, False, True, 0.0, "", [], {}, "x" * 41, "0\n", "\ud800"]
)
def test_a_code_of_another_type_makes_the_answer_unreadable(code: object) -> None:
    assert reading(status(code)) == UNREADABLE


@pytest.mark.parametrize(
    "message",
    [None, 0, "0", [], {}, {"Result": None}, {"Result": []}, stk(), status()["Result"], [status()]],
)
def test_another_shape_is_unreadable(message: Any) -> None:
    assert reading(message) == UNREADABLE
