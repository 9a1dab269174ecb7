"""A hostile message: the reader raises nothing, believes nothing unclear and stores no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.adapters.daraja.reports import UNREADABLE, read_report
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.callback_address import PAYMENT_OPERATIONS
from domain.evidence import InquiryOutcome
from domain.report import ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import ABSENT, payout, read_message, stk
from tests.unit.status_messages import status

OPERATIONS = [*sorted(PAYMENT_OPERATIONS), "status-1", "status-2-timeout", "deposit-timeout", ""]
BROKEN: list[bytes] = [
    b"", b" ", b"null", b"0", b'"0"', b"[]", b"{}", b"<html><body>502</body></html>",
    b"\xff\xfe\x00", b"\x80", json.dumps(stk()).encode()[:-3], json.dumps(stk()).encode() + b"x",
    json.dumps(stk()).replace('"ResultCode": 0', '"ResultCode": NaN').encode(),
    json.dumps(stk()).replace('"ResultCode": 0', '"ResultCode": -0').encode(),
    json.dumps(stk()).replace("250.0", "Infinity").encode(),
    json.dumps(stk()).replace('"ResultCode": 0', '"ResultCode": 1032, "ResultCode": 0').encode(),
    json.dumps(stk())
    .replace('"ResultCode": 0', '"ResultCode": 0, "Deep": ' + "[" * 20 + "]" * 20)
    .encode(),
    b"[" * 60_000, b'{"Body":' * 9_000,
    b'{"Body":{"stkCallback":{"ResultCode":' + b"0" * 5_000 + b"}}}",
    b'{"Body":{"stkCallback":{"ResultCode":' + b"1" * 5_000 + b"}}}",
    json.dumps(stk()).encode("utf-16"),
]  # fmt: skip


@for_each("body", BROKEN, ids=range(len(BROKEN)))
@for_each("operation", ["deposit", "withdrawal", "bill-payment"])
def test_a_body_that_is_not_unambiguous_json_is_unreadable(operation: str, body: bytes) -> None:
    assert read_report(operation, body) == UNREADABLE


@pytest.mark.parametrize(
    "text", ["transaction " * 5_000, "The transaction does not exist." + " " * 500]
)
def test_a_text_longer_than_a_sentence_is_not_read_as_not_found(text: str) -> None:
    """The pattern takes quadratic time: 64 KiB of "transaction" once took the receiver seconds."""
    body = status("SFC_IC0003", ABSENT, ResultDesc=text)
    assert read_message("status-1", body).inquiry_outcome is InquiryOutcome.NO_ANSWER


def test_a_byte_order_mark_is_accepted() -> None:
    assert (
        read_message("deposit", b"\xef\xbb\xbf" + json.dumps(stk()).encode()).outcome
        is ReportedOutcome.SUCCESS
    )


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["0", 0, "UC17KX20PM"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["Body", "Result", "Key", "Name", "Value", "Item", "ResultCode", "Amount"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


def is_explicit_zero(operation: str, message: Any) -> bool:
    try:
        result = message["Body"]["stkCallback"] if operation == "deposit" else message["Result"]
        code = result["ResultCode"]
    except (KeyError, TypeError, IndexError):
        return False
    return type(code) in (int, str) and code in (0, "0")


@given(operation=st.sampled_from(OPERATIONS), code=VALUES, items=VALUES, outer=VALUES)
@example(operation="deposit", code=float("nan"), items=None, outer=None)
def test_a_json_value_is_a_success_only_with_an_explicit_zero(
    operation: str, code: Any, items: Any, outer: Any
) -> None:
    for message in (
        stk(code, items),
        payout(code, items),
        {"Result": outer},
        {"Body": {"stkCallback": outer}},
        outer,
    ):
        report = read_message(operation, json.dumps(message).encode())
        assert (report.outcome is ReportedOutcome.SUCCESS) <= is_explicit_zero(operation, message)
        assert (report.outcome is ReportedOutcome.FAILURE) == (report.failure is not None)


@given(operation=st.sampled_from(OPERATIONS), body=st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(operation: str, body: bytes) -> None:
    assert read_report(operation, body).outcome is not ReportedOutcome.SUCCESS


@given(
    operation=st.sampled_from(OPERATIONS),
    cut=st.integers(0, 900),
    junk=st.binary(max_size=8),
    at=st.integers(0, 900),
)
def test_no_mangled_message_makes_the_reader_raise(
    operation: str, cut: int, junk: bytes, at: int
) -> None:
    for message in (stk(), payout()):
        body = json.dumps(message).encode()
        read_report(operation, body[:cut])
        read_report(operation, body[:at] + junk + body[at:])


@for_each(
    "name",
    ["SecurityCredential", "securitycredential", "Password", "InitiatorPassword", "access_token"],
)
@for_each(
    ("before", "after"),
    [
        ('{"%s":"S3CRET"}', '{"%s":"[replaced]"}'),
        ('{"a": 1, "%s" : \n"S3CRET", "b": 2}', '{"a": 1, "%s" : \n"[replaced]", "b": 2}'),
        ('{"%s":"S3CR', '{"%s":"[replaced]'),
        (r'{"%s":"S3\"S3CRET\\","b":"\""}', r'{"%s":"[replaced]","b":"\""}'),
        (
            '[{"x":{"%s":"S3CRET"}},{"%s":"S3CRET"}]',
            '[{"x":{"%s":"[replaced]"}},{"%s":"[replaced]"}]',
        ),
        ('{"%s":"S3CRET"', '{"%s":"[replaced]"'),
        ('\x00\x01{"%s":"S3CRET\x02"', '\x00\x01{"%s":"[replaced]"'),
    ],
)
def test_secrets_are_replaced_before_a_body_is_stored(name: str, before: str, after: str) -> None:
    assert (
        SECRET_FIELDS.replace_secrets(before.replace("%s", name).encode())
        == after.replace("%s", name).encode()
    )


def test_a_secret_with_a_broken_escape_is_replaced_to_its_end() -> None:
    assert b"S3CRET" not in SECRET_FIELDS.replace_secrets(b'{"SecurityCredential":"ab\\\nS3CRET"}')


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"\xff", json.dumps(stk()).encode(), b'{"Passwords":"kept","x":"Password"}'],
)
def test_a_body_without_secrets_is_stored_unchanged(body: bytes) -> None:
    assert SECRET_FIELDS.replace_secrets(body) == body
