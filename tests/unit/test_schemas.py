"""Bodies and queries of requests: a rejection names every wrong field by its JSON pointer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from domain.errors import InvalidRequest
from domain.kinds import Kind
from domain.values import PaymentRequest, Purpose, Role
from gateway.cursors import HistoryPlace, history_cursor
from gateway.schemas.bodies import payment_request
from gateway.schemas.queries import (
    EventParameters,
    HistoryParameters,
    NoParameters,
    PageParameters,
    WaitParameters,
    history_position,
    next_cursor,
    page_query,
    parse_query,
)
from tests.builders import a_caller, a_payment
from tests.case_tables import for_each

BODIES: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {"amount": 250, "phone_number": "0711000111"},
    Kind.WITHDRAWAL: {"amount": 250, "phone_number": "0711000111"},
    Kind.BILL_PAYMENT: {"amount": 250, "till": "555222"},
    Kind.POCHI_PAYMENT: {"amount": 250, "phone_number": "0733000333"},
}
USER = a_caller(Role.USER, "user-1")


def faults(kind: Kind, body: object, caller: Any = None) -> dict[str, str]:
    """The faults of a body, by pointer."""
    with pytest.raises(InvalidRequest) as caught:
        payment_request(kind, body, caller or a_caller())
    found = [(fault.pointer, fault.detail) for fault in caught.value.errors]
    assert len({pointer for pointer, _ in found}) == len(found)
    return dict(found)


@for_each("kind", Kind)
def test_a_body_with_only_the_required_fields_is_parsed(kind: Kind) -> None:
    phone_numbers = {Kind.BILL_PAYMENT: None, Kind.POCHI_PAYMENT: "254733000333"}
    assert payment_request(kind, BODIES[kind], a_caller()) == PaymentRequest(
        kind=kind,
        amount_kes=250,
        owner=None,
        purpose=Purpose.BUSINESS if kind is Kind.WITHDRAWAL else None,
        till="555222" if kind is Kind.BILL_PAYMENT else None,
        phone_number=phone_numbers.get(kind, "254711000111"),
    )


@for_each(
    ("kind", "names"),
    [
        (Kind.DEPOSIT, ["account_reference", "description", "owner", "metadata"]),
        (Kind.WITHDRAWAL, ["purpose", "remarks"]),
        (Kind.BILL_PAYMENT, ["paybill", "account_reference", "remarks"]),
    ],
)
def test_a_field_that_is_null_counts_as_absent(kind: Kind, names: list[str]) -> None:
    body = {**BODIES[kind], **dict.fromkeys(names)}
    assert payment_request(kind, body, a_caller()) == payment_request(
        kind, BODIES[kind], a_caller()
    )


@for_each("body", [None, [], "text", 5, True, [BODIES[Kind.DEPOSIT]]])
@for_each("kind", Kind)
def test_a_body_that_is_no_object_is_one_fault(kind: Kind, body: object) -> None:
    assert faults(kind, body) == {"": "must be a JSON object"}


@for_each(
    ("kind", "pointers"),
    [
        (Kind.DEPOSIT, {"/amount", "/phone_number"}),
        (Kind.WITHDRAWAL, {"/amount", "/phone_number"}),
        (Kind.BILL_PAYMENT, {"/amount", "/paybill"}),
        (Kind.POCHI_PAYMENT, {"/amount", "/phone_number"}),
    ],
)
def test_every_missing_field_is_named(kind: Kind, pointers: set[str]) -> None:
    found = faults(kind, {})
    assert set(found) == pointers
    assert all("required" in text for text in found.values())


def test_every_wrong_field_is_named_at_once() -> None:
    """The rejection also names a field that no kind has, or that only another kind has."""
    wrong = {
        "amount": "250", "phone_number": 711000111, "account_reference": "INV-42",
        "description": "x" * 14, "owner": "", "amont": 5, "purpose": "salary", "": 1, "a/b~c": 1,
    }  # fmt: skip
    metadata = {"a": 1, "b": "fine", "c/d~e": None}
    expected = {f"/{name}" for name in wrong} - {"/a/b~c"} | {"/a~1b~0c"}
    expected |= {"/metadata/a", "/metadata/c~1d~0e"}
    assert set(faults(Kind.DEPOSIT, {**wrong, "metadata": metadata})) == expected


VALUES_OF_FIELDS: list[tuple[Kind, str, list[object]]] = [
    (Kind.DEPOSIT, "amount", [0, 250_001, 1e2, True, None]),
    (Kind.WITHDRAWAL, "amount", [9, 250_001]),
    (Kind.DEPOSIT, "phone_number", ["", "0211000111", 711000111, None, ["0711000111"]]),
    (Kind.DEPOSIT, "account_reference", ["", "A-1", "A" * 13, 42]),
    (Kind.DEPOSIT, "description", ["", "x" * 14, "a\nb", 5, "\ud800"]),
    (Kind.WITHDRAWAL, "remarks", ["a", "x" * 101, "a\0b", 5]),
    (Kind.WITHDRAWAL, "purpose", ["", "Salary", "bonus", 5, []]),
    (Kind.BILL_PAYMENT, "till", ["1234", "12345678", 555222]),
    (Kind.POCHI_PAYMENT, "amount", [9, 250_001]),
    (Kind.POCHI_PAYMENT, "phone_number", ["556677"]),
    (Kind.POCHI_PAYMENT, "remarks", ["x"]),
    (Kind.DEPOSIT, "owner", ["", " ", "x" * 256, 5, "a\0b", "\ud800"]),
    (Kind.DEPOSIT, "metadata", [[], "a", 5, {str(n): "" for n in range(21)}]),
]


@for_each(
    ("kind", "field", "value"), [(k, f, v) for k, f, values in VALUES_OF_FIELDS for v in values]
)
def test_a_wrong_value_is_named_with_a_sentence_about_it(
    kind: Kind, field: str, value: object
) -> None:
    found = faults(kind, {**BODIES[kind], field: value})
    assert list(found) == [f"/{field}"]
    sentence = found[f"/{field}"]
    assert sentence.startswith("must ")
    assert "Input" not in sentence
    assert "Value error" not in sentence


@for_each(
    ("metadata", "pointer"),
    [
        ({"a": "\0"}, "/metadata/a"),
        ({"a": "\ud800"}, "/metadata/a"),
        ({"a": {}}, "/metadata/a"),
        ({"\0": "a"}, "/metadata/\0"),
        ({"[key]": 5}, "/metadata/[key]"),
        ({"": 5}, "/metadata/"),
    ],
)
def test_metadata_must_be_pairs_of_text_that_can_be_stored(metadata: object, pointer: str) -> None:
    assert list(faults(Kind.DEPOSIT, {**BODIES[Kind.DEPOSIT], "metadata": metadata})) == [pointer]


@for_each(
    ("parties", "pointer"),
    [
        ({"account_reference": "A"}, "/paybill"),
        ({"paybill": None, "till": None}, "/paybill"),
        ({"paybill": "888880", "till": "555222"}, "/till"),
        ({"paybill": "888880", "till": "555222", "account_reference": "A"}, "/till"),
        ({"paybill": "888880"}, "/account_reference"),
        ({"paybill": "888880", "account_reference": " A"}, "/account_reference"),
        ({"paybill": "888880", "account_reference": "A" * 14}, "/account_reference"),
        ({"till": "555222", "account_reference": "A"}, "/account_reference"),
    ],
)
def test_a_bill_is_paid_to_a_paybill_with_its_reference_or_to_a_till(
    parties: dict[str, Any], pointer: str
) -> None:
    assert list(faults(Kind.BILL_PAYMENT, {"amount": 250, **parties})) == [pointer]


def test_an_app_user_owns_its_payments_and_cannot_name_an_owner() -> None:
    assert payment_request(Kind.DEPOSIT, BODIES[Kind.DEPOSIT], USER).owner == "user-1"
    for owner in ("user-1", "user-2"):
        body = {**BODIES[Kind.DEPOSIT], "owner": owner}
        assert list(faults(Kind.DEPOSIT, body, USER)) == ["/owner"]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = [
    *("amount", "phone_number", "account_reference", "description", "owner", "metadata"),
    *("remarks", "purpose", "paybill", "till", "other"),
]


@given(kind=st.sampled_from(Kind), body=st.dictionaries(st.sampled_from(NAMES), JSON) | JSON)
def test_any_json_is_a_request_or_an_invalid_request(kind: Kind, body: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        assert payment_request(kind, body, a_caller()).kind is kind


def parameters(**values: str) -> PageParameters:
    return parse_query(PageParameters, MultiDict(values))


def pointers_of(call: Callable[[], object]) -> list[str]:
    """The pointers of the faults for which the call fails."""
    with pytest.raises(InvalidRequest) as caught:
        call()
    return [fault.pointer for fault in caught.value.errors]


def query_faults(model: Any, *pairs: tuple[str, str]) -> list[str]:
    return pointers_of(lambda: parse_query(model, MultiDict(pairs)))


def test_a_query_with_all_parameters_is_parsed() -> None:
    found = parameters(
        kind="bill_payment", status="failed", phone_number="0711000111", account_reference="A",
        receipt="R", idempotency_key="k", needs_review="true", limit="100",
        created_after="2026-03-01T07:15:00Z", created_before="2026-03-01T10:15:00.5+03:00",
    )  # fmt: skip
    assert (found.kind, found.status, found.phone_number, found.needs_review, found.limit) == (
        Kind.BILL_PAYMENT, "failed", "254711000111", True, 100,
    )  # fmt: skip
    assert found.created_after == datetime(2026, 3, 1, 7, 15, tzinfo=UTC)
    query = page_query(found, a_caller())
    assert query.limit == 101  # the additional row shows whether there is a next page
    assert "owner" not in query.equal


WRONG_PARAMETERS: list[tuple[Any, str, list[str]]] = [
    (PageParameters, "limit", ["0", "101", "-1", "1.0", "", "1_0", "१", "9" * 5000, " 5"]),
    (PageParameters, "kind", ["", "Deposit", "refund"]),
    (PageParameters, "status", ["", "succeeded", "PENDING"]),
    (PageParameters, "phone_number", ["", "12"]),
    (PageParameters, "needs_review", ["", "1", "yes", "True"]),
    (PageParameters, "created_after", ["", "yesterday", "2026-03-01", "1e9"]),
    (PageParameters, "created_after", ["2026-03-01T07:15:00", "2026-13-01T00:00:00Z"]),
    # times that do not exist in UTC
    (PageParameters, "created_before", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]),
    (PageParameters, "receipt", ["\0", "\ud800"]),
    (PageParameters, "idempotency_key", ["\0"]),
    (PageParameters, "colour", ["red"]),
    (EventParameters, "after", ["", "\0", "events-15\n", "payments-15", "events-" + "9" * 20]),
    (EventParameters, "limit", ["0", "101", "1.5", ""]),
    # parameters of other routes
    (EventParameters, "wait", ["5"]),
    (NoParameters, "wait", ["5"]),
    (WaitParameters, "limit", ["5"]),
    (WaitParameters, "wait", ["61", "-1", "1.5", ""]),
]


@for_each(("model", "name", "values"), WRONG_PARAMETERS)
def test_a_wrong_parameter_is_named(model: Any, name: str, values: list[str]) -> None:
    for value in values:
        assert query_faults(model, (name, value)) == [f"?{name}"], value


def test_every_wrong_or_repeated_parameter_is_named_at_once() -> None:
    pairs = [("limit", "x"), ("kind", "x"), ("x", "x")]
    assert query_faults(PageParameters, *pairs) == ["?kind", "?limit", "?x"]
    pairs = [("limit", "5"), ("limit", "5"), ("kind", "x"), ("kind", "x")]
    assert query_faults(PageParameters, *pairs) == ["?kind", "?limit"]


def test_times_between_which_no_payment_can_be_are_both_named() -> None:
    noon, later = "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000001Z"
    pairs = [("created_after", later), ("created_before", noon)]
    assert query_faults(PageParameters, *pairs) == ["?created_after", "?created_before"]
    for right in (noon, "2026-03-01T15:00:01+03:00"):  # 15:00 in Nairobi is 12:00 UTC
        parameters(created_after=noon, created_before=right)


def test_an_unknown_field_or_parameter_is_refused_with_all_that_are_known() -> None:
    found = faults(Kind.POCHI_PAYMENT, {**BODIES[Kind.POCHI_PAYMENT], "phone": "0733000333"})
    known = "amount, owner, metadata, phone_number, remarks"
    assert set(found) == {"/phone"}
    assert sorted(found["/phone"].partition("Send only ")[2].split(", ")) == sorted(
        known.split(", ")
    )
    for model, what_to_send in (
        (WaitParameters, "Send only wait"),
        (NoParameters, "This call has no parameters"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse_query(model, MultiDict(colour="red"))
        assert what_to_send in caught.value.errors[0].detail


def test_of_thousands_of_wrong_fields_the_first_fifty_are_named() -> None:
    body = {**BODIES[Kind.DEPOSIT], **{f"field{number}": 1 for number in range(1_000)}}
    with pytest.raises(InvalidRequest, match="has 1000 wrong fields") as caught:
        payment_request(Kind.DEPOSIT, body, a_caller())
    assert [fault.pointer for fault in caught.value.errors] == [f"/field{n}" for n in range(50)]


def test_a_wait_is_from_0_to_60_seconds() -> None:
    for text in ("0", "60"):
        assert parse_query(WaitParameters, MultiDict(wait=text)).wait == int(text)


def test_an_app_user_lists_only_its_own_payments() -> None:
    query = page_query(parameters(kind="deposit"), USER)
    assert query.equal == {"kind": Kind.DEPOSIT, "owner": "user-1"}


def test_a_cursor_continues_where_the_page_ended() -> None:
    last = a_payment()
    cursor = next_cursor(parameters(kind="deposit", limit="5"), last)
    query = page_query(parameters(kind="deposit", limit="9", cursor=cursor), a_caller())
    assert query.older_than == (last.created_at, last.id)


def cursor_faults(cursor: str, **filters: str) -> list[str]:
    return pointers_of(lambda: page_query(parameters(**filters, cursor=cursor), a_caller()))


def test_a_cursor_is_valid_only_with_the_filters_of_its_page() -> None:
    cursor = next_cursor(parameters(kind="deposit"), a_payment())
    for other in ({}, {"kind": "withdrawal"}, {"kind": "deposit", "status": "failed"}):
        assert cursor_faults(cursor, **other) == ["?cursor"]


GOOD_CURSOR = next_cursor(parameters(), a_payment())


@for_each(
    "cursor",
    [
        *("", "x", "====", "é", "\0", "a" * 5000, "events-1", f"history-1-{a_payment().id.hex}"),
        *(GOOD_CURSOR + "\n", GOOD_CURSOR + "0", GOOD_CURSOR[:-1], GOOD_CURSOR.upper()),
        GOOD_CURSOR.replace("payments-", "payments--"),
        GOOD_CURSOR.replace("payments", "events"),
        GOOD_CURSOR.replace("-", "-\u0661", 1),
        GOOD_CURSOR[:-16] + "0" * 16,
    ],
)
def test_an_invalid_cursor_is_rejected(cursor: str) -> None:
    assert cursor_faults(cursor) == ["?cursor"]


@for_each(
    "created_at",
    [datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, 7, 15, 0, 123_456, tzinfo=UTC)],
)
def test_a_cursor_contains_the_microseconds(created_at: datetime) -> None:
    """Otherwise a payment of the same millisecond would be on two pages, or on none."""
    last = replace(a_payment(), created_at=created_at)
    cursor = next_cursor(parameters(), last)
    query = page_query(parameters(cursor=cursor), a_caller())
    assert query.older_than == (created_at, last.id)


def test_a_history_cursor_is_valid_only_for_its_payment() -> None:
    payment, other = a_payment(), replace(a_payment(), id=UUID(int=7))
    cursor = history_cursor(HistoryPlace(40, payment.id))
    found = parse_query(HistoryParameters, MultiDict(cursor=cursor))
    assert history_position(found, payment) == 40
    assert history_position(HistoryParameters(), payment) == 0
    assert pointers_of(lambda: history_position(found, other)) == ["?cursor"]
