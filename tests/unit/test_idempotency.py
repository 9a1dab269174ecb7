"""Which idempotency keys are valid, and which requests have the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IdempotencyKeyInvalid
from domain.idempotency import KEY_LIFETIME, fingerprint, validate_key
from tests.case_tables import for_each

BODY: dict[str, Any] = {
    "amount": 250,
    "phone_number": "0711000111",
    "metadata": {"a": "1", "b": "2"},
}


def of(body: object, *, method: str = "POST", path: str = "/v1/deposits") -> bytes:
    return fingerprint(method, path, body)


def test_a_key_is_up_to_255_characters_of_visible_ascii() -> None:
    for good in ("a", "!", "~", "order-42", "x" * 255):
        assert validate_key(good) == good
    for wrong in ("", " ", "a b", "a\tb", "a\n", "\x7f", "\0", "é", "\ud800", "x" * 256, "\u00a0"):
        with pytest.raises(IdempotencyKeyInvalid):
            validate_key(wrong)


def test_a_key_lives_for_a_day_at_least() -> None:
    assert KEY_LIFETIME.total_seconds() >= 24 * 3600


@for_each(
    "other",
    [
        {**BODY, "amount": 251},
        {**BODY, "amount": "250"},
        {**BODY, "amount": 250.0},
        {**BODY, "amount": True},
        {**BODY, "phone_number": "254711000111"},  # the same phone in another spelling
        {**BODY, "description": "Payment"},  # a default written out
        {**BODY, "owner": None},
        {**BODY, "metadata": {"a": "1"}},
        *({}, None, [], "", [BODY]),
    ],
)
def test_any_other_body_is_another_request(other: object) -> None:
    assert of(other) != of(BODY)


def test_another_method_or_path_is_another_request() -> None:
    """The same text with another border between method and path is also another request."""
    fingerprints = {
        of(BODY),
        of(BODY, path="/v1/withdrawals"),
        of(BODY, method="PUT"),
        of(BODY, method="POST/v1", path="/deposits"),
    }
    assert len(fingerprints) == 4


def test_a_fingerprint_begins_with_its_version() -> None:
    """Stored fingerprints must still match, so another way to compute them needs a new version."""
    body = b'{"amount":250,"metadata":{"a":"1","b":"2"},"phone_number":"0711000111"}'
    text = b'["POST","/v1/deposits",' + body + b"]"
    assert of(BODY) == b"\x01" + hashlib.sha256(text).digest()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(first=JSON, second=JSON)
def test_two_bodies_share_a_fingerprint_only_if_they_are_the_same_json(
    first: Any, second: Any
) -> None:
    is_same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (of(first) == of(second)) == is_same


def test_half_a_surrogate_pair_in_a_body_has_a_fingerprint() -> None:
    assert of({"a": "\ud800"}) != of({"a": "\udfff"})
