"""The look of the console: contrast of its colours, and the drawing of its charts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from domain.adapters.postgres.trends import Bar
from domain.errors import FieldError
from domain.kinds import Kind
from gateway.console.charts import Period, draw
from gateway.console.faults import show_faults
from gateway.console.pages import Pages, format_count, format_seconds, format_words
from tests.paths import ROOT

_STYLE = (ROOT / "gateway" / "console" / "static" / "console.css").read_text()
_SCHEMES = dict(
    zip(("light", "dark"), re.findall(r":root \{(.*?)\}", _STYLE, re.DOTALL), strict=True)
)
_READ_ON = {
    "text": ("page", "card", "field"),
    "faint": ("page", "card", "field"),
    "accent": ("page", "card"),
    "good": ("good-back", "card"),
    "bad": ("bad-back", "card"),
    "wait": ("wait-back", "card"),
    "busy": ("busy-back",),
    "accent-text": ("accent",),
    "card": ("bad",),
}


def _luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_aa_requires(scheme: str) -> None:
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", _SCHEMES[scheme]))
    low = {
        (text, back): round(ratio, 2)
        for text, backs in _READ_ON.items()
        for back in backs
        for lighter, darker in [
            sorted((_luminance(colours[text]), _luminance(colours[back])), reverse=True)
        ]
        if (ratio := (lighter + 0.05) / (darker + 0.05)) < 4.5
    }
    assert low == {}


def test_a_template_escapes_every_value() -> None:
    faults = show_faults([FieldError("?<i>", "<u>")], {"<i>": "<s>"})
    page = Pages().render(
        "fault.html", visit=None, title="<b>", text="<script>'\"", faults=faults, back='"><a>'
    )
    for tag in ("<b>", "<i>", "<u>", "<s>", "><a>"):
        assert tag not in page
    assert "&lt;script&gt;&#39;&#34;" in page


def _bar(number: int, **more: float | None) -> Bar:
    values: dict[str, float | None] = {"count": 0, "succeeded": 0, "failed": 0, **more}
    return Bar(
        datetime(2026, 3, 1, number, tzinfo=UTC),
        int(values["count"] or 0),
        int(values["succeeded"] or 0),
        int(values["failed"] or 0),
        values.get("median"),
        values.get("slow"),
    )


_HOURS = Period("Last day", timedelta(hours=1), 3, "%H:%M")


def test_the_charts_have_a_mark_for_each_bar_that_has_a_value() -> None:
    bars = [
        _bar(0, count=8, succeeded=6, failed=2, median=2.0, slow=8.0),
        _bar(1),
        _bar(2, count=4, succeeded=3, failed=1, median=4.0, slow=4.0),
    ]
    volume, rate, times = draw(bars, _HOURS)
    [counts] = volume.series
    assert [mark.text for mark in counts.marks] == ["03:00: 8", "04:00: 0", "05:00: 4"]
    assert counts.marks[0].height == 2 * counts.marks[2].height
    assert counts.marks[1].height == 0
    assert [mark.text for mark in rate.series[0].marks] == ["success: 75.0 %", "success: 75.0 %"]
    # A bar without a value interrupts the line.
    assert rate.series[0].path.count("M") == 2
    assert [len(series.marks) for series in times.series] == [2, 2]


def test_charts_of_no_payments_are_drawn_too() -> None:
    volume, rate, times = draw([_bar(number) for number in range(3)], _HOURS)
    assert [text for _, text in volume.ticks] == ["0", "1", "2", "3", "4"]
    assert [text for _, text in rate.ticks][-1] == "100 %"
    assert times.series[0].marks == ()


def test_names_and_numbers_are_said_in_words() -> None:
    names = ("bill_payment", Kind.DEPOSIT, "OutcomeUnknown")
    assert [format_words(each) for each in names] == ["bill payment", "deposit", "outcome unknown"]
    assert [format_count(number, "job") for number in (0, 1, 1_200)] == [
        "0 jobs",
        "1 job",
        "1,200 jobs",
    ]
    assert [format_seconds(seconds) for seconds in (9, 119, 120, 7_200, 200_000)] == [
        "9 s",
        "119 s",
        "2 min",
        "2 h",
        "2 days",
    ]
