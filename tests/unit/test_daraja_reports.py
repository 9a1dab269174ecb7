"""Reading callbacks: every known shape is read, and only an explicit 0 is a success."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from domain.adapters.daraja.reports import UNREADABLE
from domain.attempts import IdKind
from domain.failures import FailureReason
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import (
    ABSENT,
    BILL_PARAMETERS,
    PAYOUT_PARAMETERS,
    STK_ITEMS,
    as_items,
    payout,
    read_message,
    stk,
)


def test_every_field_of_a_deposits_success_is_read() -> None:
    assert read_message("deposit", stk()) == Report(
        outcome=ReportedOutcome.SUCCESS,
        code="0",
        ids=frozenset(
            {(IdKind.MERCHANT_REQUEST, "4c1e-118203"), (IdKind.CHECKOUT_REQUEST, "ws_CO_0103")}
        ),
        has_amount=True,
        amount=Decimal(250),
        receipt="UC14KD82QZ",
    )


def test_every_field_of_a_withdrawals_success_is_read() -> None:
    assert read_message("withdrawal", payout()) == Report(
        outcome=ReportedOutcome.SUCCESS,
        code="0",
        ids=frozenset(
            {
                (IdKind.CONVERSATION, "AG_20260301_2010"),
                (IdKind.ORIGINATOR_CONVERSATION, "payout-17"),
            }
        ),
        has_amount=True,
        amount=Decimal(1500),
        receipt="UC17KX20PM",
        recipient_name="JANE DOE",
    )


def test_every_field_of_a_bill_payments_success_is_read_from_text() -> None:
    report = read_message(
        "bill-payment",
        payout("0", as_items(BILL_PARAMETERS, "Key"), TransactionID="UC19BQ77TL", ResultType="0"),
    )
    assert (report.outcome, report.amount, report.receipt, report.recipient_name) == (
        ReportedOutcome.SUCCESS, Decimal(1800), "UC19BQ77TL", "SUPPLIER LTD",
    )  # fmt: skip


@for_each(
    ("operation", "message"), [("deposit", stk), ("withdrawal", payout), ("bill-payment", payout)]
)
@for_each(
    ("code", "outcome", "text"),
    [
        (0, ReportedOutcome.SUCCESS, "0"),
        ("0", ReportedOutcome.SUCCESS, "0"),
        (1, ReportedOutcome.FAILURE, "1"),
        ("1", ReportedOutcome.FAILURE, "1"),
        ("SFC_IC0003", ReportedOutcome.FAILURE, "SFC_IC0003"),
        (17, ReportedOutcome.UNDECIDED, "17"),
        (26, ReportedOutcome.UNDECIDED, "26"),
        ("R000001", ReportedOutcome.UNDECIDED, "R000001"),
        (4999, ReportedOutcome.UNDECIDED, "4999"),
        ("00", ReportedOutcome.UNDECIDED, "00"),
        ("0 ", ReportedOutcome.UNDECIDED, "0 "),
        ("O", ReportedOutcome.UNDECIDED, "O"),
        (-1, ReportedOutcome.UNDECIDED, "-1"),
    ],
)
def test_a_code_is_read_as_its_text_from_a_number_or_a_string(
    operation: str, message: Any, code: object, outcome: ReportedOutcome, text: str
) -> None:
    report = read_message(operation, message(code))
    assert (report.outcome, report.code) == (outcome, text)


@for_each("operation", ["deposit", "withdrawal", "bill-payment"])
@for_each(
    "code", [ABSENT, None, False, True, 0.0, "", [], [0], {}, {"0": 0}, "x" * 41, "0\n", "\ud800"]
)
def test_a_code_of_another_type_makes_the_message_unreadable(operation: str, code: object) -> None:
    message = stk(code) if operation == "deposit" else payout(code)
    assert read_message(operation, message) == UNREADABLE


def test_a_code_has_at_most_forty_characters() -> None:
    """A number may have thousands of digits and still be JSON."""
    report = read_message("deposit", stk(10**4000))
    assert report.outcome in (ReportedOutcome.UNREADABLE, ReportedOutcome.UNDECIDED)
    assert len(report.code or "") <= 40


@pytest.mark.parametrize(
    ("code", "reason"),
    [("1032", FailureReason.CANCELLED_BY_CUSTOMER), ("E3008", FailureReason.REJECTED_BY_PROVIDER)],
)
def test_a_deposits_failure_has_no_metadata_and_needs_none(
    code: str, reason: FailureReason
) -> None:
    report = read_message("deposit", stk(code, ABSENT))
    assert report.failure is not None
    assert (report.outcome, report.failure.reason, report.has_amount, report.receipt) == (
        ReportedOutcome.FAILURE, reason, False, None,
    )  # fmt: skip


@pytest.mark.parametrize("transaction_id", ["MJO61H754M", "OAK0000000", "PCQ91HIOZJ"])
def test_a_failures_transaction_id_is_never_a_receipt(transaction_id: str) -> None:
    single = {"Key": "BOCompletedTime", "Value": 20260301102031}
    report = read_message("withdrawal", payout(2001, single, TransactionID=transaction_id))
    assert (report.outcome, report.receipt) == (ReportedOutcome.FAILURE, None)


@for_each(
    "receipt",
    [
        "OAK0000000", "TK61000000", "UC12345678", "", None, 12, "UC 14", "UC1", [], {"a": 1},
        "U" * 21, "UC14KD82Q\n",
    ],
)  # fmt: skip
def test_a_placeholder_is_not_a_receipt(receipt: object) -> None:
    items = as_items({**STK_ITEMS, "MpesaReceiptNumber": receipt}, "Name")
    assert read_message("deposit", stk(0, items)).receipt is None


def test_a_withdrawal_whose_two_receipts_differ_has_none() -> None:
    assert read_message("withdrawal", payout(TransactionID="UC1OTHER22")).receipt is None
    assert read_message("withdrawal", payout(TransactionID=ABSENT)).receipt == "UC17KX20PM"


AMOUNTS: list[tuple[object, Decimal | None]] = [
    (250, Decimal(250)),
    (250.0, Decimal(250)),
    ("250", Decimal(250)),
    ("250.00", Decimal(250)),
    (250.01, Decimal("250.01")),
    (0.1, Decimal("0.1")),
    (10**30, Decimal(10**30)),
    (-250, Decimal(-250)),
    ("2.5e2", None),
    ("250 ", None),
    ("1,500.00", None),
    ("+250", None),
    ("KES 250", None),
    ("२५०", None),
    ("NaN", None),
    ("Infinity", None),
    (True, None),
    ([250], None),
    ({"Amount": 250}, None),
]


@for_each(("value", "amount"), AMOUNTS)
def test_an_amount_is_exact_or_is_left_out_and_marked(
    value: object, amount: Decimal | None
) -> None:
    report = read_message("deposit", stk(0, as_items({**STK_ITEMS, "Amount": value}, "Name")))
    is_number = amount is not None
    assert (report.outcome, report.has_amount, report.amount) == (
        ReportedOutcome.SUCCESS,
        is_number,
        amount,
    )
    assert report.has_ignored_amount is not is_number


# Values under names of amounts, and the amount that is read: "differ" if two numbers differ.
SEVERAL_AMOUNTS: list[tuple[list[object], object]] = [
    ([1500, "UC17KX20PM"], Decimal(1500)),  # recorded from a server that is not ours
    (["UC17KX20PM", 1500], Decimal(1500)),
    ([1500, "1500.00", 1500.0], Decimal(1500)),
    ([1500, 1400], "differ"),
    ([1500, "UC17KX20PM", "1400.00"], "differ"),
    (["UC17KX20PM", True], None),
]


@for_each(("values", "amount"), SEVERAL_AMOUNTS)
@for_each("second", ["TransactionAmount", "Amount", "transaction amount"])
@for_each("operation", ["withdrawal", "bill-payment"])
def test_all_numbers_under_an_amount_s_name_must_agree(
    operation: str, second: str, values: list[object], amount: object
) -> None:
    first = as_items({**PAYOUT_PARAMETERS, "TransactionAmount": values[0]}, "Key")
    report = read_message(
        operation, payout(0, [*first, *({"Key": second, "Value": value} for value in values[1:])])
    )
    assert report.has_amount is (amount is not None)
    assert report.amount == (None if amount == "differ" else amount)
    assert report.has_ignored_amount is any(
        isinstance(value, (bool, str)) and "." not in str(value) for value in values
    )


def test_parameters_are_found_by_the_letters_of_their_names() -> None:
    spaced = {
        "transaction amount": 1500,
        "TRANSACTION_RECEIPT": "UC17KX20PM",
        "Receiver Party Public Name": "1 - JANE",
    }
    message = payout(0, as_items(spaced, "Key"), TransactionID=ABSENT, ConversationID=ABSENT)
    message["Result"]["Conversation ID"] = "AG_1"
    report = read_message("withdrawal", message)
    assert (report.amount, report.receipt, report.recipient_name) == (
        Decimal(1500),
        "UC17KX20PM",
        "JANE",
    )
    assert (IdKind.CONVERSATION, "AG_1") in report.ids
    items = {"amount": 250.0, "Mpesa Receipt Number": "UC14KD82QZ"}
    deposit = read_message("deposit", stk(0, as_items(items, "Name")))
    assert (deposit.amount, deposit.receipt) == (Decimal(250), "UC14KD82QZ")


def test_an_id_in_two_spellings_is_read_twice() -> None:
    message = payout()
    message["Result"]["Conversation ID"] = "AG_another"
    assert {
        value
        for kind, value in read_message("withdrawal", message).ids
        if kind == IdKind.CONVERSATION
    } == {
        "AG_20260301_2010",
        "AG_another",
    }


def test_an_amount_is_read_from_its_text_without_a_float() -> None:
    body = json.dumps(stk()).replace("250.0", "250.00000000000000000001").encode()
    assert read_message("deposit", body).amount == Decimal("250.00000000000000000001")


@pytest.mark.parametrize(
    "number", ["1e999999", "1e-999999", "1e99999999999999999999", "9" * 4000 + ".5"]
)
def test_a_number_of_any_size_is_read_without_an_error(number: str) -> None:
    body = json.dumps(stk()).replace("250.0", number).encode()
    report = read_message("deposit", body)
    assert report.amount != 250


@pytest.mark.parametrize("value", [ABSENT, None, ""])
def test_an_amount_without_a_value_is_absent(value: object) -> None:
    report = read_message("deposit", stk(0, as_items({**STK_ITEMS, "Amount": value}, "Name")))
    assert (report.outcome, report.has_amount, report.amount) == (
        ReportedOutcome.SUCCESS,
        False,
        None,
    )


def test_amounts_that_differ_within_a_message_are_unreadable() -> None:
    parameters = [*as_items(PAYOUT_PARAMETERS, "Key"), {"Key": "Amount", "Value": "1499"}]
    report = read_message("withdrawal", payout(0, parameters))
    assert (report.has_amount, report.amount) == (True, None)


def test_items_are_read_by_name_in_any_order() -> None:
    items = as_items(STK_ITEMS, "Name")[::-1]
    assert read_message("deposit", stk(0, items)) == read_message("deposit", stk())


@pytest.mark.parametrize(
    "items", [ABSENT, [], None, {}, "text", 7, [None], [[]], [{"Name": None}], [{"Value": 5}]]
)
def test_a_success_with_missing_or_broken_metadata_has_no_amount_and_no_receipt(
    items: Any,
) -> None:
    message = stk(0, items) if items is not None else stk(0, ABSENT, CallbackMetadata=None)
    report = read_message("deposit", message)
    assert (report.outcome, report.has_amount, report.receipt) == (
        ReportedOutcome.SUCCESS,
        False,
        None,
    )


def test_a_single_object_stands_for_a_list() -> None:
    report = read_message("withdrawal", payout(0, {"Key": "TransactionAmount", "Value": 1500}))
    assert (report.has_amount, report.amount, report.receipt) == (True, Decimal(1500), "UC17KX20PM")


def test_a_repeated_parameter_name_is_read_as_a_list() -> None:
    parameters = [
        *as_items(PAYOUT_PARAMETERS, "Key"),
        {"Key": "ReceiverPartyPublicName", "Value": "1 - SECOND"},
    ]
    assert read_message("withdrawal", payout(0, parameters)).recipient_name == "JANE DOE"


@pytest.mark.parametrize(
    "value", [None, 5, "JANE DOE", "254711000111 - ", "1 - A\nB", "1 - \ud800", [], {}]
)
def test_a_name_of_another_form_is_none(value: object) -> None:
    parameters = as_items({**PAYOUT_PARAMETERS, "ReceiverPartyPublicName": value}, "Key")
    report = read_message("withdrawal", payout(0, parameters))
    assert (report.outcome, report.recipient_name) == (ReportedOutcome.SUCCESS, None)


@pytest.mark.parametrize("value", [ABSENT, None, ""])
def test_an_absent_id_is_no_id(value: object) -> None:
    assert read_message("deposit", stk(CheckoutRequestID=value)).ids == {
        (IdKind.MERCHANT_REQUEST, "4c1e-118203")
    }


@pytest.mark.parametrize("value", [5, True, [], {}, "x" * 65, "é", "a\0b", "\ud800"])
def test_an_id_that_cannot_be_one_makes_the_message_unreadable(value: object) -> None:
    assert read_message("deposit", stk(CheckoutRequestID=value)) == UNREADABLE
    assert read_message("withdrawal", payout(ConversationID=value)) == UNREADABLE


@pytest.mark.parametrize(
    "message",
    [
        {
            "InitiatorName": "api",
            "SecurityCredential": "c2VjcmV0",
            "OriginatorConversationID": "payout-17",
            "Amount": 1500,
        },
        {"Result": {"ResultCode": 0, "OriginatorConversationID": "payout-17"}},
        payout(0),
        payout(1),
    ],
)
@pytest.mark.parametrize("operation", ["withdrawal-timeout", "bill-payment-timeout"])
def test_a_timeout_message_is_only_a_timeout_with_any_content(operation: str, message: Any) -> None:
    report = read_message(operation, message)
    assert (report.outcome, report.inquiry_outcome, report.failure, report.receipt) == (
        ReportedOutcome.TIMEOUT,
        None,
        None,
        None,
    )
    # An echo of our request names our id; a Result names its conversation too.
    conversation = (
        {(IdKind.CONVERSATION, "AG_20260301_2010")}
        if "ConversationID" in message.get("Result", {})
        else set()
    )
    assert report.ids == {(IdKind.ORIGINATOR_CONVERSATION, "payout-17")} | conversation


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("deposit", payout()), ("withdrawal", stk()), ("bill-payment", stk()),
        ("deposit", stk()["Body"]), ("status-1", stk()), ("status-1", payout()["Result"]),
        ("status-1-timeout", [payout()]), ("unknown", stk()),
    ],
)  # fmt: skip
def test_the_operation_alone_decides_how_a_body_is_read(operation: str, message: Any) -> None:
    assert read_message(operation, message) == UNREADABLE
