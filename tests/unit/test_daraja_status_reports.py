"""Reading results of Transaction Status: the parameter TransactionStatus decides."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.daraja.reports import UNREADABLE, read_report
from domain.attempts import IdKind
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.report import Report, ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import ABSENT, payout, read_message
from tests.unit.status_messages import TARGET, parameters, status

V, R = InquiryOutcome, FailureReason
IDS = frozenset(
    {(IdKind.ORIGINATOR_CONVERSATION, TARGET), (IdKind.CONVERSATION, "AG_20260301_2010")}
)


def reading(message: Any) -> Report:
    return read_message("status-1", message)


def test_every_field_of_a_completed_payout_is_read_and_none_of_the_envelope() -> None:
    assert reading(status()) == Report(
        outcome=ReportedOutcome.SUCCESS,
        code="Completed",
        inquiry_outcome=V.PAID,
        ids=IDS,
        has_amount=True,
        amount=Decimal(1500),
        receipt="UC17KX20PM",
        recipient_name="JANE DOE",
    )


@pytest.mark.parametrize(
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
    report = reading(status(0, parameters(TransactionStatus=status_text, ReceiptNo=ABSENT)))
    assert (report.outcome, report.inquiry_outcome, report.code) == (
        ReportedOutcome.FAILURE,
        V.FAILED,
        status_text,
    )
    assert report.failure == Failure(reason, safe_to_retry, status_text)
    assert (report.ids, report.amount, report.receipt) == (IDS, Decimal(1500), None)


def test_a_failed_payout_never_has_a_receipt() -> None:
    assert reading(status(0, parameters(TransactionStatus="Failed"))).receipt is None


@for_each(
    "status_text",
    [
        "Initiated", "Authorized", "Pending", ABSENT, None, "", "completed", "COMPLETED",
        " Completed", "Completed ", "Complete", "failed", "Unknown", 0, 1, True, ["Completed"],
        {"Completed": 1}, "Completed\x00", "x" * 500,
    ],
)  # fmt: skip
def test_any_other_status_shows_only_that_daraja_found_the_payout(status_text: Any) -> None:
    report = reading(status(0, parameters(TransactionStatus=status_text)))
    assert (report.outcome, report.inquiry_outcome, report.failure, report.receipt) == (
        ReportedOutcome.UNDECIDED,
        V.UNDER_WAY,
        None,
        None,
    )
    assert report.ids == IDS
    assert len(report.code or "") <= 40


@pytest.mark.parametrize(
    ("first", "second", "inquiry_outcome"),
    [
        ("Completed", "Completed", V.PAID),
        ("Failed", "Failed", V.FAILED),
        ("Completed", "Failed", V.UNDER_WAY),
        ("Failed", "Completed", V.UNDER_WAY),
        ("Completed", "Pending", V.UNDER_WAY),
        ("Completed", 0, V.UNDER_WAY),
    ],
)
def test_a_repeated_status_counts_only_if_both_agree(
    first: Any, second: Any, inquiry_outcome: InquiryOutcome
) -> None:
    items = [*parameters(TransactionStatus=first), {"Key": "TransactionStatus", "Value": second}]
    assert reading(status(0, items)).inquiry_outcome is inquiry_outcome


def test_a_repeated_key_without_a_value_is_ignored() -> None:
    assert (
        reading(status(0, [*parameters(), {"Key": "TransactionStatus"}])).inquiry_outcome is V.PAID
    )


def test_daraja_s_own_repeated_key_is_accepted() -> None:
    """The documentation shows DebitPartyName twice. The second is the credit party's name."""
    items = [
        *parameters(CreditPartyName=ABSENT),
        {"Key": "DebitPartyName", "Value": "254711000111 - JANE DOE"},
    ]
    assert (reading(status(0, items)).outcome, reading(status(0, items)).recipient_name) == (
        ReportedOutcome.SUCCESS,
        None,
    )


@pytest.mark.parametrize("name", ["OriginatorConversationID", "OriginalConversationID"])
def test_the_target_s_id_is_read_by_either_name(name: str) -> None:
    items = [*parameters(OriginatorConversationID=ABSENT), {"Key": name, "Value": "payout-17"}]
    assert (IdKind.ORIGINATOR_CONVERSATION, "payout-17") in reading(status(0, items)).ids


def test_differing_ids_within_an_answer_are_all_read() -> None:
    items = [*parameters(), {"Key": "OriginalConversationID", "Value": "of-another-payment"}]
    assert {
        value
        for kind, value in reading(status(0, items)).ids
        if kind == IdKind.ORIGINATOR_CONVERSATION
    } == {
        TARGET,
        "of-another-payment",
    }


@pytest.mark.parametrize("value", [ABSENT, None, ""])
def test_a_missing_id_contradicts_nothing(value: Any) -> None:
    report = reading(status(0, parameters(OriginatorConversationID=value)))
    assert (report.outcome, report.ids) == (
        ReportedOutcome.SUCCESS,
        frozenset({(IdKind.CONVERSATION, "AG_20260301_2010")}),
    )


@for_each("value", [5, True, [], [TARGET], {}, "x" * 65, "é", "a\0b", "\ud800"])
@for_each("status_text", ["Completed", "Failed", "Pending"])
def test_an_answer_with_an_id_that_cannot_be_one_is_unreadable(
    status_text: str, value: Any
) -> None:
    """Such an id might be the id of another payment."""
    assert (
        reading(
            status(0, parameters(OriginatorConversationID=value, TransactionStatus=status_text))
        )
        == UNREADABLE
    )


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("1500", Decimal(1500)),
        ("1500.00", Decimal(1500)),
        (1500.0, Decimal(1500)),
        (1500.01, Decimal("1500.01")),
        ("1,500", None),
        ("KES 1500", None),
        (True, None),
        ([], None),
    ],
)
def test_an_amount_may_be_text_and_is_exact_or_left_out(value: Any, amount: Decimal | None) -> None:
    for status_text in ("Completed", "Failed"):
        report = reading(status(0, parameters(Amount=value, TransactionStatus=status_text)))
        is_number = amount is not None
        assert (report.has_amount, report.amount, report.has_ignored_amount) == (
            is_number,
            amount,
            not is_number,
        )


def test_the_target_s_ids_and_status_are_found_by_the_letters_of_their_names() -> None:
    """The names in status results of 2017 have blanks (daraja.md §4.3)."""
    items = [
        {"Key": "Originator Conversation ID", "Value": TARGET},
        {"Key": "Conversation ID", "Value": "AG_20260301_2010"},
        {"Key": "Transaction Status", "Value": "Completed"},
        {"Key": "amount", "Value": "1500.00"},
        {"Key": "Receipt No", "Value": "UC17KX20PM"},
    ]
    report = reading(status(0, items))
    assert (report.outcome, report.ids, report.amount, report.receipt) == (
        ReportedOutcome.SUCCESS, IDS, Decimal(1500), "UC17KX20PM",
    )  # fmt: skip


@pytest.mark.parametrize("value", [ABSENT, None, ""])
def test_an_amount_without_a_value_is_left_out(value: Any) -> None:
    report = reading(status(0, parameters(Amount=value)))
    assert (report.outcome, report.has_amount, report.amount) == (
        ReportedOutcome.SUCCESS,
        False,
        None,
    )


@pytest.mark.parametrize(
    "receipt",
    [ABSENT, None, "", "OAK0000000", "UC10000000", "TK61000000", "UC1", 12, [], "UC14KD82Q\n"],
)
def test_a_completed_payout_with_a_placeholder_for_a_receipt_has_none(receipt: Any) -> None:
    report = reading(status(0, parameters(ReceiptNo=receipt)))
    assert (report.outcome, report.receipt) == (ReportedOutcome.SUCCESS, None)


def test_the_envelope_s_transaction_id_is_the_inquiry_s_and_no_receipt() -> None:
    report = reading(status(0, parameters(ReceiptNo=ABSENT), TransactionID="UC19BQ77TL"))
    assert report.receipt is None


@pytest.mark.parametrize(
    "items", [ABSENT, [], None, {}, "text", 7, [None], [[]], [{"Key": None}], [{"Value": 5}]]
)
def test_missing_or_broken_parameters_leave_the_payout_under_way(items: Any) -> None:
    message = status(0, items) if items is not None else status(0, ABSENT, ResultParameters=None)
    assert reading(message) == Report(
        outcome=ReportedOutcome.UNDECIDED, inquiry_outcome=V.UNDER_WAY
    )


def test_a_single_object_stands_for_a_list_of_parameters() -> None:
    report = reading(status(0, {"Key": "TransactionStatus", "Value": "Completed"}))
    assert (report.outcome, report.ids, report.has_amount) == (
        ReportedOutcome.SUCCESS,
        frozenset(),
        False,
    )


def test_a_payout_s_result_at_an_inquiry_s_address_is_undecided() -> None:
    """The operation alone decides how a body is read: there it has no TransactionStatus."""
    assert reading(payout()).outcome is ReportedOutcome.UNDECIDED
    assert reading(payout(1)).outcome is ReportedOutcome.UNDECIDED
    for operation in ("withdrawal", "bill-payment"):
        assert (
            read_message(
                operation, status(0, parameters(TransactionStatus="Failed"))
            ).inquiry_outcome
            is None
        )


@pytest.mark.parametrize("operation", ["status-1-timeout", "status-999999-timeout"])
def test_a_time_out_of_an_inquiry_is_only_a_time_out(operation: str) -> None:
    for message in (status(), status(2001), {"Initiator": "api", "SecurityCredential": "c2VjcmV0"}):
        report = read_message(operation, message)
        assert (report.outcome, report.inquiry_outcome, report.refuses_credential) == (
            ReportedOutcome.TIMEOUT,
            None,
            False,
        )


ALLOWED = {
    "Completed": ReportedOutcome.SUCCESS,
    **dict.fromkeys(
        ["Failed", "Cancelled", "Declined", "Expired", "Reversed"], ReportedOutcome.FAILURE
    ),
}
NAMES = st.sampled_from(
    ["TransactionStatus", "Amount", "ReceiptNo", "OriginatorConversationID", "CreditPartyName", "x"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from([*ALLOWED, "0", 0]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["Key", "Value", "ResultParameter"]), inner),
    max_leaves=8,
)  # fmt: skip
ITEMS = (
    st.lists(st.fixed_dictionaries({"Key": NAMES}, optional={"Value": VALUES}) | VALUES, max_size=6)
    | VALUES
)


# `status` replaces None by the parameters of a good message.
@given(code=VALUES, items=ITEMS.filter(lambda items: items is not None), text=VALUES)
def test_only_a_listed_status_with_an_explicit_zero_ends_a_payment(
    code: Any, items: Any, text: Any
) -> None:
    report = reading(status(code, items, ResultDesc=text))
    assert (report.outcome is ReportedOutcome.FAILURE) == (report.failure is not None)
    if report.outcome in (ReportedOutcome.SUCCESS, ReportedOutcome.FAILURE):
        assert type(code) in (int, str)
        assert str(code) == "0"
        listed = items if isinstance(items, list) else [items]
        statuses = [
            item.get("Value")
            for item in listed
            if isinstance(item, dict) and item.get("Key") == "TransactionStatus"
        ]
        assert {ALLOWED[value] for value in statuses if value not in (None, "")} == {report.outcome}
    if report.inquiry_outcome is V.NOT_FOUND:
        assert str(code) in ("SFC_IC0003", "2032")
        assert "transaction" in str(text).lower()


@given(body=st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise_or_end_a_payment(body: bytes) -> None:
    assert read_report("status-7", body).outcome in (
        ReportedOutcome.UNREADABLE,
        ReportedOutcome.UNDECIDED,
    )


@given(cut=st.integers(0, 1200), junk=st.binary(max_size=8), at=st.integers(0, 1200))
def test_no_mangled_answer_makes_the_reader_raise(cut: int, junk: bytes, at: int) -> None:
    body = json.dumps(status()).encode()
    read_report("status-7", body[:cut])
    read_report("status-7", body[:at] + junk + body[at:])
