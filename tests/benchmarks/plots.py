"""Draws the figures of a run: `python -m tests.benchmarks.plots REPORT.json docs/performance`.

A plot is an SVG file of bars, without a library. A bar has the colour of its column.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tests.benchmarks.figures import FLOOR, OURS, PEER, format_number

Medians = Mapping[str, Mapping[str, float]]  # by figure and column

_COLOURS = ("#b8c0c8", "#7f9bb3", "#d9a441", "#1f6f54", "#8c5a9e", "#c4604a")
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 760, 250, 90, 16, 12, 56
_PARTS = ("web", "callbacks", "worker", "postgres", "redis")


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of one or more segments, one after the other. Each has a length and a colour."""

    label: str
    segments: Sequence[tuple[float, str]]

    @property
    def length(self) -> float:
        """The length of all segments."""
        return sum(length for length, _ in self.segments)


def draw(title: str, groups: Sequence[Sequence[Bar]], legend: Mapping[str, str]) -> str:
    """An SVG of horizontal bars. `legend` has the colour of each name."""
    longest = max((bar.length for group in groups for bar in group), default=1) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    shapes = [_text(10, 20, title, "font-weight='bold'")]
    left = 10.0
    for name, colour in legend.items():
        shapes.append(_box(left, 30, 12, 12, colour))
        shapes.append(_text(left + 16, 40, name))
        left += 30 + 7 * len(name)
    top = float(_TOP)
    for group in groups:
        for bar in group:
            shapes.append(_text(_LEFT - 6, top + 12, bar.label, "text-anchor='end'"))
            left = _LEFT
            for length, colour in bar.segments:
                shapes.append(_box(left, top, length * scale, _BAR - 3, colour))
                left += length * scale
            shapes.append(_text(left + 4, top + 12, format_number(bar.length)))
            top += _BAR
        top += _GAP
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {top:g}' "
        f"font-family='sans-serif' font-size='12'>\n"
        f"<rect width='100%' height='100%' fill='white'/>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _box(left: float, top: float, width: float, height: float, colour: str) -> str:
    return (
        f"<rect x='{left:.1f}' y='{top:g}' width='{width:.1f}' height='{height}' fill='{colour}'/>"
    )


def _text(left: float, top: float, text: str, options: str = "") -> str:
    return f"<text x='{left:.1f}' y='{top:g}' {options}>{escape(text)}</text>"


def plots(medians: Medians) -> dict[str, str]:
    """The plots for which the run has figures, by the names of their files."""
    drawn = {
        "accepts.svg": by_column(
            medians, "Accepted payments a second", r"(accepts, .*): a second$"
        ),
        "delays.svg": by_column(medians, "Delays, p99, ms", r"delays at .*?: (.*), p99, ms$"),
        "overload.svg": by_column(
            medians, "Accepted payments a second under overload", r"(overload, .*): a second$"
        ),
        "growth.svg": by_column(medians, "Growth: p99, ms", r"growth, ([\d,]+: .*), p99, ms$"),
        "life.svg": by_part(medians, "Processor time of a life, ms"),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def by_column(medians: Medians, title: str, pattern: str) -> str:
    """One group of bars for each figure that matches, with one bar for each column."""
    found = [
        (match[1], values)
        for name, values in medians.items()
        if (match := re.match(pattern, name)) and OURS in values
    ]
    colours = _colours([values for _, values in found])
    groups = [
        [
            Bar(f"{label}" if number == 0 else "", [(values[column], colour)])
            for number, (column, colour) in enumerate(
                (column, colour) for column, colour in colours.items() if column in values
            )
        ]
        for label, values in found
    ]
    return draw(title, groups, colours) if groups else ""


def by_part(medians: Medians, title: str) -> str:
    """One bar for each column, with one segment for each process."""
    colours = dict(zip(_PARTS, _COLOURS, strict=False))
    costs = {part: medians.get(f"lives: {part}, ms each", {}) for part in _PARTS}
    columns = list(costs["worker"])
    bars = [
        Bar(column, [(costs[part].get(column, 0.0), colours[part]) for part in _PARTS])
        for column in columns
    ]
    return draw(title, [bars], colours) if bars else ""


def _colours(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The colour of each column that has a value, in the order of the table."""
    columns = {column for values in rows for column in values}
    bases = sorted(columns - {FLOOR, PEER, OURS})
    ordered = [FLOOR, PEER, *bases, OURS]
    colours = dict(zip(ordered, _COLOURS, strict=False))
    return {column: colours[column] for column in ordered if column in columns}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plots", description=__doc__)
    parser.add_argument("report", type=Path, help="the file of `make bench REPORT=…`")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    for name, svg in plots(json.loads(arguments.report.read_text())["medians"]).items():
        (arguments.folder / name).write_text(svg)


if __name__ == "__main__":
    main()
