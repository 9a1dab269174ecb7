"""A hostile message: the reader raises nothing, believes nothing unclear and stores no secret."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from domain.adapters.daraja.reports import UNREADABLE, read_report
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.callback_address import PAYMENT_OPERATIONS
from domain.report import ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import as_body, payout, read_message, stk
from tests.unit.hostile_answers import shapeless
from tests.unit.status_messages import status

OPERATIONS = [*sorted(PAYMENT_OPERATIONS), "status-1", "status-2-timeout", "deposit-timeout", ""]
GOOD = as_body(stk())
BROKEN: dict[str, bytes] = {
    **shapeless({"ResponseCode": 0, **stk()}),
    "NaN as the code": GOOD.replace(b'"ResultCode": 0', b'"ResultCode": NaN'),
    "minus zero as the code": GOOD.replace(b'"ResultCode": 0', b'"ResultCode": -0'),
    "many zeros as the code": GOOD.replace(b'"ResultCode": 0', b'"ResultCode": ' + b"0" * 5_000),
    "two codes": GOOD.replace(b'"ResultCode": 0', b'"ResultCode": 1032, "ResultCode": 0'),
    "an infinite amount": GOOD.replace(b"250.0", b"Infinity"),
}


@for_each("label", BROKEN)
@for_each("operation", ["deposit", "withdrawal"])
def test_a_body_that_is_not_unambiguous_json_is_unreadable(operation: str, label: str) -> None:
    assert read_report(operation, BROKEN[label]) == UNREADABLE


def test_a_byte_order_mark_is_accepted() -> None:
    assert read_message("deposit", b"\xef\xbb\xbf" + GOOD) == read_message("deposit", GOOD)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["0", 0, "UC17KX20PM"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["Body", "Result", "Key", "Name", "Value", "Item", "ResultCode", "Amount"]),
        inner),
    max_leaves=12,
)  # fmt: skip


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


@given(
    operation=st.sampled_from(OPERATIONS),
    cut=st.integers(0, 900),
    junk=st.binary(max_size=300),
    at=st.integers(0, 900),
)
def test_no_bytes_make_the_reader_raise(operation: str, cut: int, junk: bytes, at: int) -> None:
    """Random bytes, and a good message that is cut off or has random bytes inside."""
    assert read_report(operation, junk).outcome is not ReportedOutcome.SUCCESS
    for message in (stk(), payout(), status()):
        body = as_body(message)
        read_report(operation, body[:cut])
        read_report(operation, body[:at] + junk + body[at:])


@for_each("name", ["SecurityCredential", "password", "InitiatorPassword", "access_token"])
@for_each(
    ("before", "after"),
    [
        ('{"%s":"S3CRET"}', '{"%s":"[replaced]"}'),
        ('{"a": 1, "%s" : \n"S3CRET", "b": 2}', '{"a": 1, "%s" : \n"[replaced]", "b": 2}'),
        ('{"%s":"S3CR', '{"%s":"[replaced]'),
        (r'{"%s":"S3\"S3CRET\\","b":"\""}', r'{"%s":"[replaced]","b":"\""}'),
        ('[{"x":{"%s":"S3"}},{"%s":"S3"}]', '[{"x":{"%s":"[replaced]"}},{"%s":"[replaced]"}]'),
        ('\x00\x01{"%s":"S3CRET\x02"', '\x00\x01{"%s":"[replaced]"'),
        ('{"%ss":"kept","x":"%s"}', '{"%ss":"kept","x":"%s"}'),
    ],
)
def test_secrets_are_replaced_before_a_body_is_stored(name: str, before: str, after: str) -> None:
    """All other bytes stay as they are."""
    body, stored = before.replace("%s", name).encode(), after.replace("%s", name).encode()
    assert SECRET_FIELDS.replace_secrets(body) == stored


def test_a_secret_with_a_broken_escape_is_replaced_to_its_end() -> None:
    assert b"S3CRET" not in SECRET_FIELDS.replace_secrets(b'{"SecurityCredential":"ab\\\nS3CRET"}')


@for_each("body", [b"", b"\xff", GOOD])
def test_a_body_without_secrets_is_stored_unchanged(body: bytes) -> None:
    assert SECRET_FIELDS.replace_secrets(body) == body
