"""Reads JSON that came from outside. Another reader must not see another message in the same bytes.

The only reader of requests, tokens, callbacks and Daraja's answers. Each of them has its own
limits, and its own error.
"""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum, auto
from typing import Any, NoReturn

# A real message of Daraja has a few levels. json would follow a hostile one until the stack ends.
DEPTH_MAX = 12


class Fault(Enum):
    """Why bytes are no JSON that has exactly one meaning."""

    NOT_UTF8 = auto()
    NOT_JSON = auto()  # the detail says where
    TOO_DEEP = auto()
    REPEATED_KEY = auto()  # one reader takes the first value, another the last
    CONSTANT = auto()  # NaN, Infinity or -Infinity, which the detail names
    MINUS_ZERO = auto()
    NUMBER_TOO_LONG = auto()  # beyond the digits that Python reads, or beyond even Decimal


class Unreadable(ValueError):
    """The bytes are no JSON that has exactly one meaning. `detail` may quote what they hold."""

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
    """The value of `body`: UTF-8, no repeated keys, no NaN, bounded depth. Raises Unreadable.

    Exact numbers are `int` and `Decimal`, and minus zero is refused: Python reads it as 0, which is
    the code of a success, and Daraja never writes it. Without `depth_max` only Python's own stack
    bounds the depth, which is safe as well.
    """
    exact: dict[str, Any] = (
        {"parse_float": Decimal, "parse_int": _parse_whole_number} if has_exact_numbers else {}
    )
    try:
        value = json.loads(
            body.decode("utf-8-sig" if may_begin_with_bom else "utf-8"),
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
            **exact,
        )
    except Unreadable:
        raise
    except UnicodeDecodeError:
        raise Unreadable(Fault.NOT_UTF8) from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Unreadable(Fault.NOT_JSON, where) from None
    except RecursionError:
        raise Unreadable(Fault.TOO_DEEP) from None
    except (ValueError, ArithmeticError):
        raise Unreadable(Fault.NUMBER_TOO_LONG) from None
    if depth_max is not None:
        _check_depth(value, depth_max)
    return value


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


def _check_depth(value: object, levels_left: int) -> None:
    if levels_left == 0:
        raise Unreadable(Fault.TOO_DEEP)
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check_depth(inner, levels_left - 1)
