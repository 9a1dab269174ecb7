"""An ambiguous message is unreadable, and no secret in a message is stored.

`test_fuzzing.py` tests the same parser with changed messages.
"""

from __future__ import annotations

from domain.adapters.daraja.reports import UNREADABLE, read_report
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from tests.case_tables import for_each
from tests.unit.daraja_messages import as_body, read_message, stk
from tests.unit.hostile_answers import shapeless

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
