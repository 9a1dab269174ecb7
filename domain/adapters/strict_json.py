"""Parses JSON from outside, and rejects bytes that two parsers could read differently.

All requests, tokens, callbacks and answers of Daraja are parsed here. Each of these callers has its
own limits and its own error.
"""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum, auto
from typing import Any, NoReturn

# Real messages of Daraja have a few levels. A hostile message may have so many that Python's json
# exhausts the stack.
DEPTH_MAX = 12


class Fault(Enum):
    """The reason why bytes are not JSON with exactly one meaning."""

    NOT_UTF8 = auto()
    NOT_JSON = auto()  # `detail` has the position
    TOO_DEEP = auto()
    REPEATED_KEY = auto()  # some parsers use the first value, others the last
    CONSTANT = auto()  # NaN, Infinity or -Infinity; `detail` has its name
    MINUS_ZERO = auto()
    NUMBER_TOO_LONG = auto()  # more digits than Python parses, or outside the range of Decimal


class Unreadable(ValueError):
    """The bytes are not JSON with exactly one meaning. `detail` may quote their content."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(f"{fault.name} {detail}".rstrip())
        self.fault = fault
        self.detail = detail


def parse(
    body: bytes,
    *,
    depth_max: int | None = DEPTH_MAX,
    has_exact_numbers: bool = True,
    may_begin_with_bom: bool = True,
) -> Any:
    """Parse `body`: UTF-8, no repeated keys, no NaN, bounded depth. Raises Unreadable.

    If `has_exact_numbers`, numbers become `int` or `Decimal`, and minus zero is rejected. Python
    would read minus zero as 0, which is the code of a success, and Daraja never writes minus zero.
    If `depth_max` is None, the limit is the depth at which Python's parser gives up.
    """
    decoder = _EXACT if has_exact_numbers else _PLAIN
    try:
        value = decoder.decode(_decode_text(body, may_begin_with_bom=may_begin_with_bom))
    except Unreadable:
        raise
    except UnicodeDecodeError:
        raise Unreadable(Fault.NOT_UTF8) from None
    except json.JSONDecodeError as error:
        position = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Unreadable(Fault.NOT_JSON, position) from None
    except RecursionError:
        raise Unreadable(Fault.TOO_DEEP) from None
    except (ValueError, ArithmeticError):
        raise Unreadable(Fault.NUMBER_TOO_LONG) from None
    if depth_max is not None:
        _check_depth(value, depth_max)
    return value


def _decode_text(body: bytes, *, may_begin_with_bom: bool) -> str:
    text = body.decode("utf-8-sig" if may_begin_with_bom else "utf-8")
    if text.startswith("\ufeff"):
        raise Unreadable(Fault.NOT_JSON, "unexpected BOM at line 1, column 1")
    return text


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Unreadable(Fault.REPEATED_KEY)
    return value


def _parse_whole_number(text: str) -> int:
    if text == "-0":
        raise Unreadable(Fault.MINUS_ZERO)
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(Fault.CONSTANT, name)


# `json.loads` would make a decoder for each body.
_PLAIN = json.JSONDecoder(object_pairs_hook=_build_object, parse_constant=_refuse_constant)
_EXACT = json.JSONDecoder(
    object_pairs_hook=_build_object,
    parse_constant=_refuse_constant,
    parse_float=Decimal,
    parse_int=_parse_whole_number,
)


def _check_depth(value: object, levels_left: int) -> None:
    if levels_left == 0:
        raise Unreadable(Fault.TOO_DEEP)
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check_depth(inner, levels_left - 1)
