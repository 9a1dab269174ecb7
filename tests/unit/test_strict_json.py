"""The parser of all JSON from outside: which bytes it rejects, and its options."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.adapters.strict_json import DEPTH_MAX, Fault, Unreadable, parse
from tests.case_tables import for_each

REJECTED = {
    Fault.REPEATED_KEY: [b'{"a":1,"a":1}', b'[{"b":{"a":1,"\\u0061":2}}]'],
    Fault.CONSTANT: [b"[NaN]", b"-Infinity"],
    Fault.NOT_JSON: [
        *(b"", b" ", b"{", b"'a'", b'{"a":1,}', b"{}{}", b"{/*1*/}", b"0250", b'"\0"'),
    ],
    Fault.NOT_UTF8: [b'"\xff"', b'"\xed\xa0\x80"', '{"a":1}'.encode("utf-16")],
    Fault.NUMBER_TOO_LONG: [b"9" * 5000],
    Fault.TOO_DEEP: [b"[" * 100_000],
}


@for_each("is_exact", [True, False])
@for_each(
    ("fault", "body"), [(fault, body) for fault, bodies in REJECTED.items() for body in bodies]
)
def test_bytes_that_are_ambiguous_or_not_json_are_rejected(
    fault: Fault, body: bytes, *, is_exact: bool
) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(body, has_exact_numbers=is_exact)
    assert caught.value.fault is fault


@pytest.mark.parametrize("depth_max", [DEPTH_MAX, 16])
def test_depth_is_counted_in_levels(depth_max: int) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * (levels - 1) + b"0" + b"}" * (levels - 1)

    parse(nested(depth_max), depth_max=depth_max)
    parse(nested(depth_max + 1), depth_max=None)
    with pytest.raises(Unreadable, match=Fault.TOO_DEEP.name):
        parse(nested(depth_max + 1), depth_max=depth_max)


def test_daraja_s_numbers_are_exact_and_never_minus_zero() -> None:
    assert [type(value) for value in parse(b"[1, 1.0, -0.0]")] == [int, Decimal, Decimal]
    for body, fault in ((b"[-0]", Fault.MINUS_ZERO), (b"1e" + b"9" * 30, Fault.NUMBER_TOO_LONG)):
        with pytest.raises(Unreadable, match=fault.name):
            parse(body)
    numbers_of_a_request: list[Any] = parse(b"[1, 1.0, -0]", has_exact_numbers=False)
    assert [type(value) for value in numbers_of_a_request] == [int, float, int]


def test_only_messages_of_daraja_may_begin_with_a_byte_order_mark() -> None:
    assert parse(b"\xef\xbb\xbf{}") == {}
    with pytest.raises(Unreadable, match="BOM"):
        parse(b"\xef\xbb\xbf{}", may_begin_with_bom=False)
