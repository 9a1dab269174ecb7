"""The parser of results of Transaction Status.

The code and the text of a result say whether Daraja found the payment. The parameter
TransactionStatus says whether the payment is paid. Amounts, receipts and items are read as in
`test_daraja_reports.py`. `test_fuzzing.py` tests the parser with changed messages.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from domain.adapters.daraja.reports import UNREADABLE
from domain.attempts import IdKind
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import ABSENT, payout, read_message, stk
from tests.unit.status_messages import TARGET, parameters, status

V, R = InquiryOutcome, FailureReason
SUCCESS, FAILURE, UNDECIDED = (
    ReportedOutcome.SUCCESS,
    ReportedOutcome.FAILURE,
    ReportedOutcome.UNDECIDED,
)
TARGET_ID = (IdKind.ORIGINATOR_CONVERSATION, TARGET)
CONVERSATION_ID = (IdKind.CONVERSATION, "AG_20260301_2010")
IDS = frozenset({TARGET_ID, CONVERSATION_ID})
COMPLETED = Report(
    outcome=SUCCESS,
    code="Completed",
    inquiry_outcome=V.PAID,
    ids=IDS,
    has_amount=True,
    amount=Decimal(1500),
    receipt="UC17KX20PM",
    recipient_name="JANE DOE",
)


def reading(message: Any) -> Report:
    return read_message("status-1", message)


def reading_parameters(*more: dict[str, Any], **changes: Any) -> Report:
    return reading(status(0, [*parameters(**changes), *more]))


# --- the code and its text ------------------------------------------------------------------------


@for_each("code", [0, "0"])
def test_every_field_of_a_completed_payout_is_read_and_none_of_the_envelope(code: object) -> None:
    assert reading(status(code)) == COMPLETED


NOT_FOUND_TEXTS = [
    "The transaction does not exist.",
    "TRANSACTION DOES NOT EXIST",
    "The transaction doesn't exist",
    "Transaction with the given ID not exist",
    "[Controller - ]The Transaction\nsearched for was not found.",
    "The transaction does not exist." + " " * 469,
]
OTHER_TEXTS: list[Any] = [
    "The operator does not exist.",
    "Not found: transaction",
    "The transaction exists",
    "The transaction is not finished",
    "does not exist",
    "",
    ABSENT,
    5,
    ["The transaction does not exist"],
    # The pattern takes quadratic time. A text of 64 KiB once took the receiver seconds.
    "transaction " * 5_000,
    "The transaction does not exist." + " " * 470,
]


@for_each("code", [2032, "2032", "SFC_IC0003"])
@for_each(
    ("text", "outcome"),
    [
        *((text, V.NOT_FOUND) for text in NOT_FOUND_TEXTS),
        *((text, V.NO_ANSWER) for text in OTHER_TEXTS),
    ],
)
def test_not_found_is_one_of_two_codes_with_a_short_text_of_that_meaning(
    code: object, text: Any, outcome: InquiryOutcome
) -> None:
    """With another text the code may mean that the operator, our initiator, does not exist."""
    report = reading(status(code, ABSENT, ResultDesc=text))
    assert report == Report(outcome=UNDECIDED, code=str(code), inquiry_outcome=outcome)


@for_each("code", ["SFC_J_C0003", "sfc_ic0003", 1, "17", "R000002", 2033, "2032 ", -2032, "00"])
def test_any_other_code_is_no_answer_with_any_text_and_parameters(code: object) -> None:
    report = reading(status(code, ResultDesc=NOT_FOUND_TEXTS[0]))
    assert report == Report(outcome=UNDECIDED, code=str(code), inquiry_outcome=V.NO_ANSWER)


@for_each("code", [2001, "2001", 18, 20, 21, 8006])
def test_an_answer_that_refuses_our_credential_is_marked(code: object) -> None:
    report = reading(status(code, ABSENT))
    assert (report.inquiry_outcome, report.refuses_credential) == (V.NO_ANSWER, True)


@for_each(
    "message",
    [
        *(status(code) for code in (ABSENT, None, False, 0.0, "", [], "x" * 41, "0\n", "\ud800")),
        *(None, 0, [], {}, {"Result": None}, {"Result": []}),
        *(stk(), status()["Result"], [status()]),
    ],
)
def test_a_code_of_another_type_or_another_shape_is_unreadable(message: Any) -> None:
    assert reading(message) == UNREADABLE


# --- the parameters -------------------------------------------------------------------------------


@for_each(
    ("status_text", "reason", "safe_to_retry"),
    [
        ("Failed", R.REJECTED_BY_PROVIDER, True),
        ("Cancelled", R.REJECTED_BY_PROVIDER, True),
        ("Declined", R.REJECTED_BY_PROVIDER, True),
        ("Expired", R.EXPIRED, False),
        ("Reversed", R.REVERSED, False),
    ],
)
def test_a_payout_with_another_final_status_has_failed(
    status_text: str, reason: FailureReason, safe_to_retry: bool
) -> None:
    """A failed payout has no receipt, even if the answer shows a receipt."""
    assert reading_parameters(TransactionStatus=status_text) == Report(
        outcome=FAILURE,
        code=status_text,
        failure=Failure(reason, safe_to_retry, status_text),
        inquiry_outcome=V.FAILED,
        ids=IDS,
        has_amount=True,
        amount=Decimal(1500),
    )


@for_each(
    "status_text",
    [
        *("Initiated", "Authorized", "Pending", ABSENT, None, "", "completed", " Completed"),
        *("Complete", "failed", 0, True, ["Completed"], {"Completed": 1}, "Completed\x00"),
        "x" * 500,
    ],
)
def test_any_other_status_shows_only_that_daraja_found_the_payout(status_text: Any) -> None:
    report = reading_parameters(TransactionStatus=status_text)
    assert (report.outcome, report.inquiry_outcome, report.failure, report.receipt) == (
        UNDECIDED,
        V.UNDER_WAY,
        None,
        None,
    )
    assert report.ids == IDS
    assert len(report.code or "") <= 40


@for_each(
    ("first", "second", "inquiry_outcome"),
    [
        ("Completed", "Completed", V.PAID),
        ("Failed", "Failed", V.FAILED),
        ("Completed", "Failed", V.UNDER_WAY),
        ("Failed", "Completed", V.UNDER_WAY),
        ("Completed", 0, V.UNDER_WAY),
        ("Completed", None, V.PAID),  # a key without a value is ignored
    ],
)
def test_a_repeated_status_counts_only_if_both_values_agree(
    first: Any, second: Any, inquiry_outcome: InquiryOutcome
) -> None:
    report = reading_parameters(
        {"Key": "TransactionStatus", "Value": second}, TransactionStatus=first
    )
    assert report.inquiry_outcome is inquiry_outcome


def test_daraja_s_own_repeated_key_is_accepted() -> None:
    """The documentation shows DebitPartyName twice. The second is the credit party's name."""
    repeated = {"Key": "DebitPartyName", "Value": "254711000111 - JANE DOE"}
    report = reading_parameters(repeated, CreditPartyName=ABSENT)
    assert (report.outcome, report.recipient_name) == (SUCCESS, None)


@for_each("name", ["OriginatorConversationID", "OriginalConversationID"])
def test_the_target_s_id_is_read_by_either_name(name: str) -> None:
    report = reading_parameters({"Key": name, "Value": TARGET}, OriginatorConversationID=ABSENT)
    assert report.ids == IDS


def test_differing_ids_within_an_answer_are_all_read() -> None:
    report = reading_parameters({"Key": "OriginalConversationID", "Value": "of-another-payment"})
    assert report.ids == IDS | {(IdKind.ORIGINATOR_CONVERSATION, "of-another-payment")}


@for_each("value", [ABSENT, None, ""])
def test_a_missing_id_contradicts_nothing(value: Any) -> None:
    report = reading_parameters(OriginatorConversationID=value)
    assert (report.outcome, report.ids) == (SUCCESS, frozenset({CONVERSATION_ID}))


@for_each("status_text", ["Completed", "Failed", "Pending"])
@for_each("value", [5, True, [TARGET], "x" * 65, "a\0b", "\ud800"])
def test_an_answer_with_an_invalid_id_is_unreadable(status_text: str, value: Any) -> None:
    """Such an id might be the id of another payment."""
    assert (
        reading_parameters(OriginatorConversationID=value, TransactionStatus=status_text)
        == UNREADABLE
    )


@for_each("status_text", ["Completed", "Failed"])
@for_each(("value", "amount"), [("1500.00", Decimal(1500)), ("1,500", None)])
def test_an_amount_is_exact_or_is_left_out_and_marked(
    status_text: str, value: Any, amount: Decimal | None
) -> None:
    report = reading_parameters(Amount=value, TransactionStatus=status_text)
    is_number = amount is not None
    assert (report.has_amount, report.amount) == (is_number, amount)
    assert report.has_ignored_amount is not is_number


def test_parameters_are_found_by_the_letters_of_their_names() -> None:
    """The names in status results of 2017 have blanks (daraja.md §4.3)."""
    items = [
        {"Key": "Originator Conversation ID", "Value": TARGET},
        {"Key": "Conversation ID", "Value": "AG_20260301_2010"},
        {"Key": "Transaction Status", "Value": "Completed"},
        {"Key": "amount", "Value": "1500.00"},
        {"Key": "Receipt No", "Value": "UC17KX20PM"},
        {"Key": "Credit Party Name", "Value": "254711000111 - JANE DOE"},
    ]
    assert reading(status(0, items)) == COMPLETED


def test_a_placeholder_and_the_envelope_s_transaction_id_are_no_receipt() -> None:
    assert reading_parameters(ReceiptNo="OAK0000000").receipt is None
    without = status(0, parameters(ReceiptNo=ABSENT), TransactionID="UC19BQ77TL")
    assert reading(without).receipt is None


@for_each("items", [ABSENT, [], {}, "text", [None], [{"Key": None}], [{"Value": 5}]])
def test_missing_or_broken_parameters_leave_the_payout_under_way(items: Any) -> None:
    assert reading(status(0, items)) == Report(outcome=UNDECIDED, inquiry_outcome=V.UNDER_WAY)


@for_each("code", [0, 1])
def test_a_payout_s_result_at_an_inquiry_s_address_is_undecided(code: int) -> None:
    """The parser reads the body as a status result, and such a body has no TransactionStatus."""
    assert reading(payout(code)).outcome is UNDECIDED
    assert read_message("withdrawal", status(code)).inquiry_outcome is None
