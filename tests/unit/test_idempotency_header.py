"""Two headers may contain the idempotency key. Only the standard header may quote the key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from domain.errors import IdempotencyKeyInvalid, IdempotencyKeyMissing
from gateway.edge.requests import idempotency_key
from tests.case_tables import for_each

OURS, STANDARD = "X-Idempotency-Key", "Idempotency-Key"


def key_of(*headers: tuple[str, str]) -> str:
    return idempotency_key(CIMultiDictProxy(CIMultiDict(headers)))


@for_each(
    ("value", "key"),
    [
        ('"k1"', "k1"),
        ("k1", "k1"),
        (f'"{"k" * 255}"', "k" * 255),
        (r'"a\"b"', 'a"b'),
        (r'"a\\b"', r"a\b"),
        (r'"\"k1\""', '"k1"'),
        ('"a;b,c"', "a;b,c"),
        ("\"'k1'\"", "'k1'"),
        # A value that does not begin with a quote is the key itself.
        ("'k1'", "'k1'"),
        ('k1"', 'k1"'),
        ('k"1"', 'k"1"'),
        ("k1;a=1", "k1;a=1"),
        ("a,b", "a,b"),
        ("k\\1", "k\\1"),
    ],
)
def test_the_standard_header_accepts_a_key_with_or_without_quotes(value: str, key: str) -> None:
    assert key_of((STANDARD, value)) == key
    assert key_of((STANDARD.lower(), value)) == key


@for_each(
    "value",
    [
        '"', '"k1', '""', '"""', '"k1""', '"k"1"', '"k1"k2', '"k1";a=1', '"k1" ;a', '"k1", "k2"',
        '"k1","k1"', '"k 1"', '" k1"', '"k1 "', '" "', '"k\t1"', '"ufunguo-é"', '"\\é"', r'"k\1"',
        r'"k\"', r'"k1\\\"', f'"{"k" * 256}"', '"k1"\x7f', '"\x7f"', "", " ", "é", "k 1",
    ],
)  # fmt: skip
def test_an_invalid_or_ambiguous_value_is_rejected(value: str) -> None:
    """The quotes are wrong, or the key is empty, too long or contains an invalid character."""
    with pytest.raises(IdempotencyKeyInvalid):
        key_of((STANDARD, value))


def test_our_own_header_keeps_the_quotes_of_a_key() -> None:
    """The value of our header is no structured field, and callers use keys with quotes."""
    assert key_of((OURS, '"k1"')) == '"k1"'
    assert key_of((OURS, '"')) == '"'


@for_each(("ours", "standard"), [("k1", '"k1"'), ("k1", "k1"), ('"k1"', r'"\"k1\""')])
def test_both_headers_may_carry_the_same_key(ours: str, standard: str) -> None:
    assert key_of((OURS, ours), (STANDARD, standard)) == ours


@for_each(
    "headers",
    [
        [(OURS, "k1"), (STANDARD, '"k2"')],
        [(OURS, '"k1"'), (STANDARD, '"k1"')],
        [(OURS, "k1"), (STANDARD, '"k1')],
        [(OURS, "k1"), (STANDARD, "")],
        [(OURS, "k1"), (OURS, "k1")],
        [(STANDARD, "k1"), (STANDARD, '"k1"')],
        [(STANDARD, '"k1"'), (STANDARD, '"k1"')],
    ],
)
def test_two_different_keys_or_a_repeated_header_are_rejected(
    headers: list[tuple[str, str]],
) -> None:
    with pytest.raises(IdempotencyKeyInvalid):
        key_of(*headers)


def test_a_missing_key_has_an_error_of_its_own() -> None:
    with pytest.raises(IdempotencyKeyMissing):
        key_of()


@given(key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_key_can_be_quoted(key: str) -> None:
    """The quoted form is a String of RFC 8941."""
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert key_of((STANDARD, quoted)) == key
