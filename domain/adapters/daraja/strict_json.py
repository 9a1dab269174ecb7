"""Reading JSON that came from outside, where another reader must not see another message in the same bytes.

Callbacks, answers and tokens are all read here.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

# A real message has a few levels; json would follow a hostile one until the stack ends.
_DEPTH_MAX = 12


class Unreadable(ValueError):
    """The bytes are no JSON that has one meaning."""


def parse(body: bytes) -> Any:
    """The value: UTF-8 only, no repeated keys, no NaN, no minus zero, bounded depth, exact numbers. Raises Unreadable."""
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_float=Decimal,
            parse_int=_whole_number,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError, ArithmeticError) as error:  # the last: a number beyond even Decimal
        raise Unreadable(type(error).__name__) from None
    _check_depth(value, _DEPTH_MAX)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Unreadable("a key is repeated")
    return value


def _whole_number(text: str) -> int:
    if text == "-0":  # Python reads it as 0, which is the code of a success; Daraja never writes it
        raise Unreadable("minus zero")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise Unreadable(f"{name} is not JSON")


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise Unreadable("nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, left - 1)
