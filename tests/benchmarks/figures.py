"""The medians over all turns, as a table and as JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from tests.benchmarks.cases.common import Figures

FLOOR, PEER, GO, OURS = "floor", "peer", "go", "this"


class Table:
    """Figures by their names, of each column and turn."""

    def __init__(self, base: str | None) -> None:
        """`base`: the heading of the column of the old commit."""
        self._base = base
        self._values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, column: str, figures: Figures) -> None:
        """Adds the figures of one turn."""
        for name, value in figures.items():
            self._values[name][column].append(value)

    @property
    def _has_go(self) -> bool:
        return any(GO in by_column for by_column in self._values.values())

    def medians(self) -> dict[str, dict[str, float]]:
        """The median of each figure in each column."""
        return {
            name: {column: median(values) for column, values in by_column.items()}
            for name, by_column in self._values.items()
        }

    def to_json(self) -> dict[str, object]:
        """All values, and their medians."""
        return {"medians": self.medians(), "values": self._values}

    def to_markdown(self) -> str:
        """One row for each figure that we have ourselves."""
        base = [self._base] if self._base else []
        others = [FLOOR, PEER, *([GO] if self._has_go else []), *base]
        columns, ratios = [*others, OURS], others
        header = ["figure", *columns, *(f"÷ {column}" for column in ratios)]
        rows = [header, ["---", *("---:" for _ in header[1:])]]
        for name, values in self.medians().items():
            if OURS in values or self._base in values:
                rows.append(_row(name, values, columns, ratios))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(
    name: str, values: Mapping[str, float], columns: Sequence[str], ratios: Sequence[str]
) -> list[str]:
    numbers = [format_number(values.get(column)) for column in columns]
    ours = values.get(OURS)
    quotients = [format_number(_quotient(ours, values.get(column))) for column in ratios]
    return [name, *numbers, *quotients]


def _quotient(ours: float | None, other: float | None) -> float | None:
    return None if ours is None or not other else ours / other


def format_number(value: float | None) -> str:
    """Three significant digits: `0.012`, `1.23`, `12.3`, `1,234`."""
    if value is None or math.isnan(value):
        return ""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
