"""SQL with named parameters, in the form that the driver accepts.

Our SQL names its parameters (`:payment_id`), and the driver numbers them (`$1`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A colon that follows a word or another colon is part of a cast or of an array's slice.
_NAME = re.compile(r"(?<![:\w]):([a-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `names` are its parameters, in the order of their numbers."""

    text: str
    names: tuple[str, ...]

    def order(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The values of `parameters` in the order of their numbers."""
        return [parameters[name] for name in self.names]


def sql(text: str) -> Statement:
    """The statement of `text`, which names its parameters."""
    names: dict[str, int] = {}
    numbered = number_parameters(text, names)
    return Statement(numbered, tuple(names))


def number_parameters(text: str, numbers: dict[str, int]) -> str:
    """`text` with a number in place of each name. Names that `numbers` lacks get the next one."""

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return _NAME.sub(number, text)
