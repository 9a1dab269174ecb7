"""The parser of callbacks reads every known shape. Only an explicit 0 is a success."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from domain.adapters.daraja.messages import _normalize_short
from domain.adapters.daraja.reports import UNREADABLE
from domain.attempts import IdKind
from domain.kinds import RULES, Kind
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import (
    ABSENT,
    CHECKOUT,
    PAYOUT_PARAMETERS,
    STK_ITEMS,
    as_items,
    payout,
    read_message,
    stk,
)

SUCCESS, FAILURE, UNDECIDED = (
    ReportedOutcome.SUCCESS,
    ReportedOutcome.FAILURE,
    ReportedOutcome.UNDECIDED,
)
PAYOUT_IDS = frozenset(
    {(IdKind.CONVERSATION, "AG_20260301_2010"), (IdKind.ORIGINATOR_CONVERSATION, "payout-17")}
)
# The message of each result operation.
MESSAGES = {
    rules.result_operation: stk if kind is Kind.DEPOSIT else payout for kind, rules in RULES.items()
}
BILL_PARAMETERS: dict[str, Any] = {
    "DebitAccountBalance": "{Amount={CurrencyCode=KES, MinimumAmount=4200050, "
    "BasicAmount=42000.50}}",
    "Amount": "1800.00",
    "TransCompletedTime": "20260301103010",
    "DebitPartyCharges": "",
    "ReceiverPartyPublicName": "888880 - SUPPLIER LTD",
}
BILL = payout("0", as_items(BILL_PARAMETERS, "Key"), TransactionID="UC19BQ77TL", ResultType="0")


def read_deposit(**items: Any) -> Report:
    return read_message("deposit", stk(0, as_items(STK_ITEMS | items, "Name")))


def read_withdrawal(*more: dict[str, Any], **parameters: Any) -> Report:
    items = as_items(PAYOUT_PARAMETERS | parameters, "Key")
    return read_message("withdrawal", payout(0, [*items, *more]))


@for_each(
    ("operation", "message", "expected"),
    [
        (
            "deposit",
            stk(),
            Report(
                outcome=SUCCESS,
                code="0",
                ids=frozenset(
                    {(IdKind.MERCHANT_REQUEST, "4c1e-118203"), (IdKind.CHECKOUT_REQUEST, CHECKOUT)}
                ),
                has_amount=True,
                amount=Decimal(250),
                receipt="UC14KD82QZ",
            ),
        ),
        (
            "withdrawal",
            payout(),
            Report(
                outcome=SUCCESS,
                code="0",
                ids=PAYOUT_IDS,
                has_amount=True,
                amount=Decimal(1500),
                receipt="UC17KX20PM",
                recipient_name="JANE DOE",
            ),
        ),
        (
            "bill-payment",
            BILL,
            Report(
                outcome=SUCCESS,
                code="0",
                ids=PAYOUT_IDS,
                has_amount=True,
                amount=Decimal(1800),
                receipt="UC19BQ77TL",
                recipient_name="SUPPLIER LTD",
            ),
        ),
    ],
)
def test_every_field_of_a_success_is_read(operation: str, message: Any, expected: Report) -> None:
    assert read_message(operation, message) == expected


@for_each("operation", MESSAGES)
@for_each(
    ("code", "outcome"),
    [
        (0, SUCCESS),
        ("0", SUCCESS),
        (1, FAILURE),
        ("1", FAILURE),
        ("SFC_IC0003", FAILURE),
        (4999, UNDECIDED),
        ("00", UNDECIDED),
        ("0 ", UNDECIDED),
        (-1, UNDECIDED),
    ],
)
def test_a_code_is_read_as_its_text_from_a_number_or_a_string(
    operation: str, code: object, outcome: ReportedOutcome
) -> None:
    report = read_message(operation, MESSAGES[operation](code))
    assert (report.outcome, report.code) == (outcome, str(code))


@for_each("operation", MESSAGES)
@for_each("code", [ABSENT, None, False, 0.0, "", [0], {}, "x" * 41, "0\n", "\ud800"])
def test_a_code_of_another_type_makes_the_message_unreadable(operation: str, code: object) -> None:
    assert read_message(operation, MESSAGES[operation](code)) == UNREADABLE


def test_a_failures_transaction_id_is_never_a_receipt() -> None:
    report = read_message("withdrawal", payout(2001, TransactionID="MJO61H754M"))
    assert (report.outcome, report.receipt, report.amount) == (FAILURE, None, Decimal(1500))


@for_each(("code", "is_refused"), [(2001, True), ("8006", True), (1, False), (0, False)])
def test_a_payout_s_result_shows_whether_daraja_refused_our_credential(
    code: object, is_refused: bool
) -> None:
    assert read_message("withdrawal", payout(code)).refuses_credential is is_refused
    assert not read_message("deposit", stk(code)).refuses_credential  # the customer's PIN


@for_each("receipt", ["OAK0000000", "", None, 12, "UC1", [], "UC14KD82Q\n"])
def test_a_placeholder_is_not_a_receipt(receipt: object) -> None:
    assert read_deposit(MpesaReceiptNumber=receipt).receipt is None


def test_a_withdrawal_whose_two_receipts_differ_has_no_receipt() -> None:
    assert read_message("withdrawal", payout(TransactionID="UC1OTHER22")).receipt is None
    assert read_message("withdrawal", payout(TransactionID=ABSENT)).receipt == "UC17KX20PM"


@for_each(
    ("value", "amount"),
    [
        (250, Decimal(250)),
        ("250.00", Decimal(250)),
        (250.01, Decimal("250.01")),
        (10**30, Decimal(10**30)),
        (-250, Decimal(-250)),
        *((text, None) for text in ("2.5e2", "250 ", "1,500.00", "+250", "२५०", "NaN")),
        *((value, None) for value in (True, [250], {"Amount": 250})),
    ],
)
def test_an_amount_is_exact_or_is_left_out_and_marked(
    value: object, amount: Decimal | None
) -> None:
    report = read_deposit(Amount=value)
    is_number = amount is not None
    assert (report.outcome, report.has_amount, report.amount) == (SUCCESS, is_number, amount)
    assert report.has_ignored_amount is not is_number


@for_each("value", [ABSENT, None, ""])
def test_an_amount_without_a_value_is_absent(value: object) -> None:
    report = read_deposit(Amount=value)
    assert (report.has_amount, report.amount, report.has_ignored_amount) == (False, None, False)


@for_each("number", ["250.00000000000000000001", "1e999999", "1e-999999", "9" * 4000 + ".5"])
def test_a_number_of_any_size_is_read_exactly_and_without_an_error(number: str) -> None:
    report = read_message("deposit", json.dumps(stk()).replace("250.0", number).encode())
    assert report.amount != 250
    assert report.amount in (None, Decimal(number))


@for_each("second", ["TransactionAmount", "transaction amount", "Amount"])
@for_each(
    ("values", "has_amount", "amount", "has_ignored"),
    [
        ([1500, "UC17KX20PM"], True, Decimal(1500), True),  # another server received this
        (["UC17KX20PM", 1500], True, Decimal(1500), True),
        ([1500, "1500.00", 1500.0], True, Decimal(1500), False),
        ([1500, 1400], True, None, False),
        ([1500, "UC17KX20PM", "1400.00"], True, None, True),
        (["UC17KX20PM", True], False, None, True),
    ],
)
def test_all_numbers_under_an_amount_s_name_must_agree(
    second: str, values: list[object], has_amount: bool, amount: Decimal | None, has_ignored: bool
) -> None:
    first, *others = values
    report = read_withdrawal(
        *({"Key": second, "Value": value} for value in others), TransactionAmount=first
    )
    assert (report.has_amount, report.amount, report.has_ignored_amount) == (
        has_amount,
        amount,
        has_ignored,
    )


def test_parameters_are_found_by_the_letters_of_their_names() -> None:
    spaced = {
        "transaction amount": 1500,
        "TRANSACTION_RECEIPT": "UC17KX20PM",
        "Receiver Party Public Name": "1 - JANE",
    }
    message = payout(0, as_items(spaced, "Key"), TransactionID=ABSENT)
    message["Result"]["Conversation ID"] = "AG_1"
    report = read_message("withdrawal", message)
    assert (report.amount, report.receipt, report.recipient_name) == (
        Decimal(1500),
        "UC17KX20PM",
        "JANE",
    )
    # If two spellings of a name have different ids, both ids are read.
    assert report.ids == PAYOUT_IDS | {(IdKind.CONVERSATION, "AG_1")}


def test_a_name_is_found_however_long_it_is_and_however_many_names_came_before() -> None:
    """The reader remembers some short names. A hostile sender cannot fill the memory with names."""
    others = {f"Other {number}": 1 for number in range(1_000)}
    message = payout(0, as_items({**others, "Transaction" + " " * 99 + "Amount": 1500}, "Key"))
    assert read_message("withdrawal", message).amount == Decimal(1500)
    assert _normalize_short.cache_info().currsize == 256
    _normalize_short.cache_clear()
    read_message("withdrawal", {"Result": {"ResultCode": 0, "x" * 65: "AG_1"}})
    assert _normalize_short.cache_info().currsize == 1


@for_each("items", [ABSENT, [], {}, "text", 7, [None], [[]], [{"Name": None}], [{"Value": 5}]])
def test_a_success_with_missing_or_broken_metadata_has_no_amount_and_no_receipt(
    items: Any,
) -> None:
    report = read_message("deposit", stk(0, items))
    assert (report.outcome, report.has_amount, report.receipt) == (SUCCESS, False, None)


def test_a_single_object_stands_for_a_list() -> None:
    report = read_message("withdrawal", payout(0, {"Key": "TransactionAmount", "Value": 1500}))
    assert (report.has_amount, report.amount, report.receipt) == (True, Decimal(1500), "UC17KX20PM")


def test_the_first_value_of_a_repeated_name_is_read() -> None:
    repeated = {"Key": "ReceiverPartyPublicName", "Value": "1 - SECOND"}
    assert read_withdrawal(repeated).recipient_name == "JANE DOE"


@for_each("value", [None, 5, "JANE DOE", "254711000111 - ", "1 - A\nB", "1 - \ud800", []])
def test_a_name_of_another_form_is_none(value: object) -> None:
    report = read_withdrawal(ReceiverPartyPublicName=value)
    assert (report.outcome, report.recipient_name) == (SUCCESS, None)


@for_each("value", [ABSENT, None, ""])
def test_an_absent_id_is_no_id(value: object) -> None:
    report = read_message("deposit", stk(CheckoutRequestID=value))
    assert report.ids == {(IdKind.MERCHANT_REQUEST, "4c1e-118203")}


@for_each("value", [5, True, [], {}, "x" * 65, "é", "a\0b", "\ud800"])
def test_an_invalid_id_makes_the_message_unreadable(value: object) -> None:
    assert read_message("deposit", stk(CheckoutRequestID=value)) == UNREADABLE
    assert read_message("withdrawal", payout(ConversationID=value)) == UNREADABLE


OWN_ID = (IdKind.ORIGINATOR_CONVERSATION, "payout-17")
ECHO = {"SecurityCredential": "c2VjcmV0", "OriginatorConversationID": "payout-17", "Amount": 1500}


@for_each("operation", ["withdrawal-timeout", "bill-payment-timeout", "status-1-timeout"])
@for_each(
    ("message", "ids"), [(ECHO, {OWN_ID}), (payout(0), PAYOUT_IDS), (payout(2001), PAYOUT_IDS)]
)
def test_a_timeout_message_is_only_a_timeout_with_any_content(
    operation: str, message: Any, ids: Any
) -> None:
    """An echo of our request has our id. A `Result` also has a conversation id."""
    assert read_message(operation, message) == Report(
        outcome=ReportedOutcome.TIMEOUT, ids=frozenset(ids)
    )


@for_each(
    ("operation", "message"),
    [
        ("deposit", payout()),
        ("withdrawal", stk()),
        ("bill-payment", stk()),
        ("deposit", stk()["Body"]),
        ("status-1", stk()),
        ("status-1", payout()["Result"]),
        ("status-1-timeout", [payout()]),
        ("unknown", stk()),
    ],
)
def test_the_operation_alone_decides_how_a_body_is_read(operation: str, message: Any) -> None:
    assert read_message(operation, message) == UNREADABLE
