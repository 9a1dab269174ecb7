"""The service accepts exactly the bodies and queries that the OpenAPI document calls valid."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from domain.errors import IdempotencyKeyInvalid, InvalidRequest
from domain.idempotency import validate_key
from domain.kinds import Kind
from gateway.openapi.document import document
from gateway.route import Route
from gateway.routes import (
    CREATE_PAYMENT,
    LIST_EVENTS,
    LIST_PAYMENTS,
    READ_HISTORY,
    READ_PAYMENT,
)
from gateway.schemas import SCHEMAS
from gateway.schemas.bodies import payment_request
from gateway.schemas.queries import parse_query
from gateway.webhooks.routes import LIST_DELIVERIES
from tests.builders import a_caller
from tests.case_tables import for_each
from tests.described import Described

DESCRIBED = Described(json.loads(json.dumps(document())))
VALIDATORS = {
    kind: DESCRIBED.validator(
        {"$ref": f"#/components/schemas/{schema.body.__name__}"}, is_closed=False
    )
    for kind, schema in SCHEMAS.items()
}
WHOLE: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {
        "amount": 250, "phone_number": "0711000111", "account_reference": "INV1",
        "description": "Tea", "owner": "amina", "metadata": {"order": "42"},
    },
    Kind.WITHDRAWAL: {
        "amount": 250, "phone_number": "0711000111", "purpose": "salary", "remarks": "For tea",
        "owner": "amina", "metadata": {"order": "42"},
    },
    Kind.BILL_PAYMENT: {
        "amount": 250, "paybill": "888880", "account_reference": "INV1", "remarks": "For tea",
        "owner": "amina", "metadata": {"order": "42"},
    },
    Kind.POCHI_PAYMENT: {
        "amount": 250, "phone_number": "0733000333", "remarks": "For tea", "owner": "amina",
        "metadata": {"order": "42"},
    },
}  # fmt: skip
NAMES = sorted({name for body in WHOLE.values() for name in body} | {"till", "other"})
ABSENT = object()
VALUES: list[Any] = [
    ABSENT, None, True, 2.5, [], {}, -1, 0, 1, 9, 10, 250_000, 250_001, 10**30,
    "", " ", "a", "ab", "Tea", "salary", "gift",
    "0711000111", "0111000111", "254111000111", "+254711000111", "++254711000111", "0211000111",
    "071100011", "07110001112", "0711000111\n", "\n0711000111",
    "888880", "1234", "12345", "1234567", "12345678", "12345\n", "\u0661\u0662\u0663\u0664\u0665",
    "INV00042", "A-1", "A/1.b", "A b", " A", "A ", "A  b", "A_b", "A&b", "-", "/",
    "0/1-2.3 4567", "0/1-2.3 456789", "A" * 12, "A" * 13, "A" * 14,
    "x" * 100, "x" * 101, "x" * 255, "x" * 256, "é", "two\nlines",
    "a\u00a0b", "\u200b", "\u2028", "a\0b",
    {"a": "b"}, {"a": 1}, {"a": None}, {"a\0": "b"}, {"a": "b\0"}, {"": ""},
    {str(n): "" for n in range(20)}, {str(n): "" for n in range(21)},
]  # fmt: skip


def assert_agreement(kind: Kind, body: Any) -> None:
    """Assert that the document and the service agree about a body from a backend.

    The document says only in words which fields a user may not set.
    """
    try:
        payment_request(kind, body, a_caller())
        is_accepted = True
    except InvalidRequest:
        is_accepted = False
    assert VALIDATORS[kind].is_valid(body) == is_accepted, body


@for_each("name", NAMES)
@for_each("kind", Kind)
def test_the_document_and_the_service_agree_about_every_field(kind: Kind, name: str) -> None:
    """The field has each of the values, or is absent."""
    for value in VALUES:
        body = {**WHOLE[kind], name: value}
        assert_agreement(kind, {each: given for each, given in body.items() if given is not ABSENT})


def test_the_document_and_the_service_agree_about_paybill_till_and_reference() -> None:
    """A bill has a paybill with its reference, or a till. Null counts as absent."""
    names = ("paybill", "till", "account_reference")
    options: list[list[Any]] = [[ABSENT, None, value] for value in ("888880", "556677", "INV1")]
    for values in itertools.product(*options):
        body = {"amount": 1, **dict(zip(names, values, strict=True))}
        assert_agreement(
            Kind.BILL_PAYMENT, {name: value for name, value in body.items() if value is not ABSENT}
        )


@for_each("kind", Kind)
def test_the_document_and_the_service_agree_about_an_invalid_body(kind: Kind) -> None:
    """Only an object with the required members is a valid body."""
    bodies: tuple[Any, ...] = (None, [], "text", 5, True, {})
    for body in bodies:
        assert_agreement(kind, body)


@given(
    kind=st.sampled_from(Kind),
    text=st.text(st.characters(codec="utf-8"), max_size=14),
    name=st.sampled_from(NAMES),
)
def test_the_document_and_the_service_agree_about_any_text(
    kind: Kind, name: str, text: str
) -> None:
    """The text is the value of a field, or a key and a value of the metadata."""
    assert_agreement(kind, {**WHOLE[kind], name: text})
    assert_agreement(kind, {**WHOLE[kind], "metadata": {text: text}})


QUERIES: dict[str, list[str]] = {
    "kind": ["deposit", "withdrawal", "bill_payment", "Deposit", "", "loan"],
    "status": ["pending", "success", "failed", "succeeded", ""],
    "phone_number": ["0711000111", "+254711000111", "12", "", "0711000111\n"],
    "account_reference": ["", "A", "A/1-2.3 4", "a\0b", "é"],
    "receipt": ["", "UC14KD82QZ", "\0"],
    "idempotency_key": ["", "order-42", "\0"],
    "created_after": [
        "2026-03-01T07:15:00Z", "2026-03-01T07:15:00.5+03:00", "2026-03-01",
        "2026-03-01T07:15:00.123456789-00:00",
        "2026-03-01T07:15:00", "2026-03-01 07:15:00Z", "20260301T071500Z",
        "2026-W09-7T07:15:00Z", "2026-03-01T07:15Z", "2026-13-01T07:15:00Z",
        "2026-03-01T25:15:00Z", "2026-03-01T07:15:00z", "2026-03-01T07:15:00+0300",
        "2026-02-30T07:15:00Z", "2026-03-01T07:15:00Z\n", "yesterday", "",
    ],
}  # fmt: skip


def parameters(route: Route) -> dict[str, Any]:
    """The schemas of the route's parameters, by name."""
    described = DESCRIBED.operations[route.method, route.path].get("parameters", [])
    return {each["name"]: each["schema"] for each in described if each["in"] != "path"}


def is_value_accepted(route: Route, name: str, text: str) -> bool:
    """Whether the service accepts this value of a parameter."""
    try:
        parse_query(route.query, MultiDict({name: text}))
    except InvalidRequest:
        return False
    return True


@for_each("name", QUERIES)
def test_the_document_and_the_service_agree_about_a_parameter(name: str) -> None:
    for text in QUERIES[name]:
        is_valid = not DESCRIBED.faults(parameters(LIST_PAYMENTS)[name], text)
        assert is_valid == is_value_accepted(LIST_PAYMENTS, name, text), text


@for_each(
    ("route", "name"),
    [
        (LIST_PAYMENTS, "limit"),
        (LIST_EVENTS, "limit"),
        (READ_HISTORY, "limit"),
        (LIST_DELIVERIES, "limit"),
        (READ_PAYMENT, "wait"),
    ],
)
def test_the_document_and_the_service_agree_about_a_number(route: Route, name: str) -> None:
    """The numbers go from below the minimum to above the maximum. The defaults agree too."""
    schema = parameters(route)[name]
    for number in range(-1, 103):
        is_valid = not DESCRIBED.faults(schema, number)
        assert is_valid == is_value_accepted(route, name, str(number)), number
    if "default" in schema:
        assert schema["default"] == getattr(parse_query(route.query, MultiDict()), name)


def test_the_document_and_the_service_agree_about_an_idempotency_key() -> None:
    """A key has 1 to 255 visible ASCII characters."""
    schema = parameters(CREATE_PAYMENT[Kind.DEPOSIT])["X-Idempotency-Key"]
    characters = [chr(number) for number in range(300)]
    for key in ["", "k" * 255, "k" * 256, *characters, "one\nkey", "key\n"]:
        try:
            is_accepted = bool(validate_key(key))
        except IdempotencyKeyInvalid:
            is_accepted = False
        assert is_accepted == (not DESCRIBED.faults(schema, key)), key


_PAYMENT_HEX = "0199a0b1c2d37e4f8a5b6c7d8e9f0a1b"
_CURSORS: list[tuple[Route, str, str]] = [
    (LIST_PAYMENTS, "cursor", f"payments-1772349300123000-{_PAYMENT_HEX}-0123456789abcdef"),
    (LIST_EVENTS, "after", "events-15-0123456789ab"),
    (READ_HISTORY, "cursor", f"history-40-{_PAYMENT_HEX}"),
    (LIST_DELIVERIES, "cursor", f"deliveries-40-{_PAYMENT_HEX}"),
]
_NO_CURSORS = [
    *("", "x", "0", "events-", "events-15", "events--1", "events-01", "events-15\n", "é"),
    *("events-" + "9" * 19, "ZXZlbnRzOjE1"),
]


@for_each(("route", "name", "genuine"), _CURSORS)
def test_the_document_has_the_exact_pattern_of_each_cursor(
    route: Route, name: str, genuine: str
) -> None:
    """The parameter and `next_cursor` have one pattern. The pattern fits only cursors of this list.

    A fuzzer that follows the document gets no refusal because of a cursor's form.
    """
    schema = parameters(route)[name]
    answer = DESCRIBED.operations[route.method, route.path]["responses"]["200"]
    page = DESCRIBED.resolved(answer["content"]["application/json"]["schema"])
    next_cursor = page["properties"]["next_cursor"]
    patterns = (next_cursor, *next_cursor.get("anyOf", []))
    assert schema in patterns or schema["pattern"] == next_cursor["pattern"]
    for text in [*(each for *_, each in _CURSORS), *_NO_CURSORS]:
        is_described = not DESCRIBED.faults(schema, text)
        assert is_described == is_value_accepted(route, name, text) == (text == genuine), text

    @given(text=st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True))
    def accept_any_text(text: str) -> None:
        assert is_value_accepted(route, name, text.removesuffix("\n")), text

    accept_any_text()
