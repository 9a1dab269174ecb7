"""The charts: volume, success rate, and time to the end. The server draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from domain.adapters.postgres.trends import COUNTED_MAX, SAMPLED_MAX, Bar, Trends
from domain.errors import FieldError, InvalidRequest
from domain.values import NAIROBI
from gateway.console.pages import Pages
from gateway.console.payments import Read
from gateway.console.visits import Visit

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 8, 14, 34
_TICKS = 4
_LABELS = 5


@dataclass(frozen=True, slots=True)
class Period:
    """What the charts show: the number of bars, and the time that each stands for."""

    title: str
    width: timedelta
    bars: int
    label: str  # of a bar, as strftime writes it


_PERIODS = {
    "hour": Period("Last hour", timedelta(minutes=5), 12, "%H:%M"),
    "day": Period("Last day", timedelta(hours=1), 24, "%H:%M"),
    "week": Period("Last week", timedelta(hours=6), 28, "%d %b"),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A bar or a dot, with its value in words."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """Marks of one colour. `path` joins them, and is empty for bars."""

    name: str
    style: str
    marks: tuple[Mark, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: `ticks` are (y, text), `labels` are (x, text)."""

    title: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]
    labels: tuple[tuple[float, str], ...]


class Charts:
    """The page of charts."""

    def __init__(self, *, pages: Pages, trends: Trends, read: Read[Any]) -> None:
        self._pages = pages
        self._trends = trends
        self._read = read

    async def show(self, visit: Visit) -> web.Response:
        """GET /console/charts"""
        period = _read_period(visit)
        began_at = _first_bar_at(datetime.now(UTC), period)
        bars = await self._read(
            lambda: self._trends.read(began_at=began_at, width=period.width, bars=period.bars)
        )
        return self._pages.response(
            "charts.html",
            visit=visit,
            periods=[(key, each.title, each is period) for key, each in _PERIODS.items()],
            charts=draw(bars, period),
            size=(_WIDTH, _HEIGHT),
            edges=(_LEFT, _WIDTH - _RIGHT),
            bars=bars,
            counted_max=COUNTED_MAX,
            sampled_max=SAMPLED_MAX,
        )


def _read_period(visit: Visit) -> Period:
    name = visit.query({"period"}).get("period", "day")
    if name not in _PERIODS:
        raise InvalidRequest([FieldError("?period", "must be hour, day or week")])
    return _PERIODS[name]


def draw(bars: Sequence[Bar], period: Period) -> list[Chart]:
    """The three charts of `bars`."""
    labels = _labels(bars, period)
    counts = [float(bar.count) for bar in bars]
    rates = [_success_percent(bar) for bar in bars]
    return [
        _bar_chart("Payments accepted", bars, counts, labels, period),
        _line_chart("Success rate", [("success", "line", rates)], labels, " %", maximum=100.0),
        _line_chart(
            "Time from acceptance to the end",
            [
                ("half of the payments took at most", "line", [bar.median_seconds for bar in bars]),
                ("95 of 100 took at most", "line second", [bar.slow_seconds for bar in bars]),
            ],
            labels,
            " s",
        ),
    ]


def _first_bar_at(now: datetime, period: Period) -> datetime:
    """The start of the first bar. Bars divide Nairobi's day, and the last bar has not ended."""
    midnight = now.astimezone(NAIROBI).replace(hour=0, minute=0, second=0, microsecond=0)
    last = midnight + period.width * ((now - midnight) // period.width)
    return last - period.width * (period.bars - 1)


def _success_percent(bar: Bar) -> float | None:
    ended = bar.succeeded + bar.failed
    return 100.0 * bar.succeeded / ended if ended else None


def _bar_chart(
    title: str,
    bars: Sequence[Bar],
    values: Sequence[float],
    labels: tuple[tuple[float, str], ...],
    period: Period,
) -> Chart:
    top = _round_up(max(values, default=0.0))
    step = (_WIDTH - _LEFT - _RIGHT) / len(values)
    marks = tuple(
        Mark(
            round(_LEFT + step * (number + 0.12), 1),
            _y(value, top),
            round(step * 0.76, 1),
            round(_HEIGHT - _BOTTOM - _y(value, top), 1),
            f"{_bar_label(bar, period)}: {value:,.0f}{'+' if bar.count >= COUNTED_MAX else ''}",
        )
        for number, (bar, value) in enumerate(zip(bars, values, strict=True))
    )
    return Chart(title, (Series("payments", "bar", marks),), _ticks(top, ""), labels)


def _line_chart(
    title: str,
    lines: Sequence[tuple[str, str, Sequence[float | None]]],
    labels: tuple[tuple[float, str], ...],
    unit: str,
    *,
    maximum: float | None = None,
) -> Chart:
    highest = max((value for _, _, values in lines for value in values if value), default=0.0)
    top = _round_up(highest) if maximum is None else maximum
    series = []
    for name, style, values in lines:
        step = (_WIDTH - _LEFT - _RIGHT) / len(values)
        marks, path, is_joined = [], "", False
        for number, value in enumerate(values):
            if value is None:
                is_joined = False
                continue
            x, y = round(_LEFT + step * (number + 0.5), 1), _y(value, top)
            marks.append(Mark(x, y, 0, 0, f"{name}: {value:,.1f}{unit}"))
            path += f"{'L' if is_joined else 'M'}{x} {y}"
            is_joined = True
        series.append(Series(name, style, tuple(marks), path))
    return Chart(title, tuple(series), _ticks(top, unit), labels)


def _labels(bars: Sequence[Bar], period: Period) -> tuple[tuple[float, str], ...]:
    step = (_WIDTH - _LEFT - _RIGHT) / len(bars)
    every = max(1, len(bars) // _LABELS)
    return tuple(
        (round(_LEFT + step * (number + 0.5), 1), _bar_label(bar, period))
        for number, bar in enumerate(bars)
        if number % every == 0
    )


def _bar_label(bar: Bar, period: Period) -> str:
    return f"{bar.began_at.astimezone(NAIROBI):{period.label}}"


def _ticks(top: float, unit: str) -> tuple[tuple[float, str], ...]:
    return tuple(
        (_y(top * number / _TICKS, top), f"{top * number / _TICKS:,.4g}{unit}")
        for number in range(_TICKS + 1)
    )


def _y(value: float, top: float) -> float:
    height = _HEIGHT - _TOP - _BOTTOM
    return round(_HEIGHT - _BOTTOM - height * value / top, 1)


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten; at least 4."""
    if value <= _TICKS:
        return float(_TICKS)
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 4, 8, 10) if power * factor >= value)
