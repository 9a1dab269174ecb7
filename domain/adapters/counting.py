"""Counters, histograms and gauges whose values add up over processes forked from one parent.

The numbers are in memory that the processes share. Each process writes only its own slot, and a
scrape reads all slots, so any process shows the numbers of all, also of a frozen one. A process
that replaces a dead one continues its slot. So the counts of a dead process neither vanish nor
count twice. prometheus_client still writes the text (ADR 38 says why it does not keep the numbers).

Only the thread of the event loop may change a number. Any thread may read.
"""

from __future__ import annotations

import math
import mmap
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import orjson
import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

log = structlog.get_logger()

# A slot begins with the number of bytes of its names. Then come the names, one a line, and then the
# numbers. We have a few hundred series. Pages that no process touched need no memory.
_HEAD_BYTES = 8
_NAMES_BYTES = 192 * 1024 - _HEAD_BYTES
_NUMBERS_MAX = 8 * 1024
_SLOT_BYTES = _HEAD_BYTES + _NAMES_BYTES + 8 * _NUMBERS_MAX

# A series for which no room is left counts here, and is not shown.
_UNSHOWN_NUMBERS = 32

Labels = tuple[str, ...]
Cell = TypeVar("Cell")


class _Slot:
    """The numbers of one process, and the names of their series. Names are only ever appended."""

    def __init__(self, memory: memoryview) -> None:
        names_end = _HEAD_BYTES + _NAMES_BYTES
        self.memory = memory
        self.numbers = memory[names_end:].cast("d")
        self._names_length = memory[:_HEAD_BYTES].cast("Q")
        self._names = memory[_HEAD_BYTES:names_end]
        self._read_bytes = 0
        self._next = _UNSHOWN_NUMBERS
        # The first number of each series, by the metric's name and the values of its labels.
        self._series: dict[str, dict[Labels, int]] = {}
        self._lock = threading.Lock()
        self._is_full_logged = False

    def copy_names(self, other: _Slot) -> None:
        """Copies the names of `other`, so that its places are places of this slot too."""
        end = _HEAD_BYTES + other._names_length[0]
        self.memory[:end] = other.memory[:end]

    def place(self, metric: str, labels: Labels, size: int) -> int:
        """The place of the series, which gets `size` numbers if it is new."""
        with self._lock:
            self._read()
            place = self._series.get(metric, {}).get(labels)
            if place is not None:
                return place
            line = orjson.dumps([metric, labels, size]) + b"\n"
            end = self._read_bytes + len(line)
            if end > _NAMES_BYTES or self._next + size > _NUMBERS_MAX:
                self._log_full(metric)
                return 0
            self._names[self._read_bytes : end] = line
            # Written last: if the process dies before, its replacement overwrites the line.
            self._names_length[0] = end
            self._read()
            return self._series[metric][labels]

    def series(self, metric: str) -> list[tuple[Labels, int]]:
        """The series of `metric`, with their places."""
        with self._lock:
            self._read()
            return list(self._series.get(metric, {}).items())

    def _read(self) -> None:
        """Reads the names that were appended since the last call."""
        end = self._names_length[0]
        if end == self._read_bytes:
            return
        for line in bytes(self._names[self._read_bytes : end]).splitlines():
            metric, labels, size = orjson.loads(line)
            self._series.setdefault(metric, {})[tuple(labels)] = self._next
            self._next += size
        self._read_bytes = end

    def _log_full(self, metric: str) -> None:
        if not self._is_full_logged:
            self._is_full_logged = True
            log.error("metrics_full", metric=metric)


class SharedNumbers:
    """The slots of all processes that share their numbers. At first there is one process."""

    def __init__(self) -> None:
        self._states: set[str] = set()
        self._allocate(1)

    def add_state(self, metric: str) -> None:
        """`metric` shows states of a process, which its replacement does not continue."""
        self._states.add(metric)

    def _allocate(self, count: int) -> None:
        memory = memoryview(mmap.mmap(-1, count * _SLOT_BYTES))
        self._slots = [
            _Slot(memory[start : start + _SLOT_BYTES])
            for start in range(0, count * _SLOT_BYTES, _SLOT_BYTES)
        ]
        self._use(self._slots[0])

    def share_among(self, count: int) -> None:
        """Makes slots for `count` processes, which the parent forks after this call.

        The parent keeps slot 0. After this call, it must not make a new series.
        """
        before = self._own
        self._allocate(1 + count)
        for slot in self._slots:
            slot.copy_names(before)
        self._slots[0].memory[:] = before.memory

    def use_slot(self, number: int) -> None:
        """Writes slot `number` (from 1) from now on. A forked process calls this once."""
        self._use(self._slots[number])
        for metric in self._states:
            for _, place in self._own.series(metric):
                self.own_numbers[place] = 0.0

    def _use(self, slot: _Slot) -> None:
        self._own, self.own_numbers = slot, slot.numbers

    def place(self, metric: str, labels: Labels, size: int) -> int:
        """The place of a series in `own_numbers`."""
        return self._own.place(metric, labels, size)

    def read(self, metric: str, size: int) -> dict[Labels, list[Sequence[float]]]:
        """For each series of `metric`, its numbers in every process that has the series."""
        found: dict[Labels, list[Sequence[float]]] = {}
        for slot in self._slots:
            for labels, place in slot.series(metric):
                found.setdefault(labels, []).append(list(slot.numbers[place : place + size]))
        return found

    def read_serving(self, metric: str) -> dict[Labels, list[float]]:
        """For each series of one number, the number of each process that serves."""
        slots = self._slots[1:] or self._slots  # a parent serves nothing
        found: dict[Labels, list[float]] = {}
        for slot in slots:
            for labels, place in slot.series(metric):
                found.setdefault(labels, []).append(slot.numbers[place])
        return found


NUMBERS = SharedNumbers()


class _Metric(Collector, Generic[Cell]):
    """A metric with its series, registered with prometheus_client. Names are as in its library."""

    size = 1

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        numbers: SharedNumbers = NUMBERS,
        registers: bool = True,
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._numbers = numbers
        self._cells: dict[tuple[object, ...], Cell] = {}
        if not self.label_names:
            self.labels()  # it is 0 from the start
        if registers:
            REGISTRY.register(self)

    def labels(self, **values: object) -> Cell:
        """The series with these values of all labels."""
        labels = tuple([values[name] for name in self.label_names])
        cell = self._cells.get(labels)
        if cell is None:
            texts = tuple(map(str, labels))
            place = self._numbers.place(self.name, texts, self.size)
            cell = self._cells[labels] = self._make_cell(place)
        return cell

    def _make_cell(self, place: int) -> Cell:
        raise NotImplementedError

    def describe(self) -> Iterable[Metric]:
        yield self._family()

    def _family(self) -> Metric:
        raise NotImplementedError


class _Count:
    """One series of a counter."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, numbers: SharedNumbers, place: int) -> None:
        self._numbers = numbers
        self._place = place

    def inc(self, amount: float = 1.0) -> None:
        self._numbers.own_numbers[self._place] += amount


class Counter(_Metric[_Count]):
    """Counts events. Its value is the sum over all processes.

    `from_start`: the labels of series that are 0 from the start. Prometheus notices no increase of
    a series that begins with 1, so an alert needs this to notice a first event.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        from_start: Iterable[Labels] = (),
        numbers: SharedNumbers = NUMBERS,
        registers: bool = True,
    ) -> None:
        super().__init__(name, documentation, label_names, numbers=numbers, registers=registers)
        for labels in from_start:
            self.labels(**dict(zip(self.label_names, labels, strict=True)))

    def inc(self, amount: float = 1.0) -> None:
        """Counts for a counter without labels."""
        self.labels().inc(amount)

    def _make_cell(self, place: int) -> _Count:
        return _Count(self._numbers, place)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, numbers in self._numbers.read(self.name, 1).items():
            family.add_metric(labels, math.fsum(each[0] for each in numbers))
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self.documentation, labels=self.label_names)


class _Observations:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_numbers", "_place", "_sum_place")

    def __init__(self, numbers: SharedNumbers, place: int, bounds: tuple[float, ...]) -> None:
        self._numbers = numbers
        self._place = place
        self._sum_place = place + len(bounds) + 1
        self._bounds = bounds

    def observe(self, value: float) -> None:
        numbers = self._numbers.own_numbers
        numbers[self._place + bisect_left(self._bounds, value)] += 1
        numbers[self._sum_place] += value


class Histogram(_Metric[_Observations]):
    """Counts values by size. `bounds`: the upper bounds of the buckets, without infinity."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        bounds: tuple[float, ...],
        numbers: SharedNumbers = NUMBERS,
        registers: bool = True,
    ) -> None:
        self._bounds = bounds
        self.size = len(bounds) + 2  # the buckets, that of infinity, and the sum
        super().__init__(name, documentation, label_names, numbers=numbers, registers=registers)

    def _make_cell(self, place: int) -> _Observations:
        return _Observations(self._numbers, place, self._bounds)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        bounds = [*map(str, self._bounds), "+Inf"]
        for labels, numbers in self._numbers.read(self.name, self.size).items():
            *counts, total = [math.fsum(each) for each in zip(*numbers, strict=True)]
            buckets = [(bound, sum(counts[: i + 1])) for i, bound in enumerate(bounds)]
            family.add_metric(labels, buckets, total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self.documentation, labels=self.label_names)


class _Value:
    """One series of a gauge."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, numbers: SharedNumbers, place: int) -> None:
        self._numbers = numbers
        self._place = place

    def set(self, value: float) -> None:
        self._numbers.own_numbers[self._place] = value


class WorstGauge(_Metric[_Value]):
    """A state of each process. Shows the worst of all, which `choose` chooses from their numbers.

    A number is 0 until its process sets it.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        choose: Callable[[Sequence[float]], float],
        numbers: SharedNumbers = NUMBERS,
        registers: bool = True,
    ) -> None:
        self._choose = choose
        numbers.add_state(name)
        super().__init__(name, documentation, label_names, numbers=numbers, registers=registers)

    def set(self, value: float) -> None:
        """Sets this process's number of a gauge without labels."""
        self.labels().set(value)

    def choose_by(self, choose: Callable[[Sequence[float]], float]) -> None:
        """Replaces `choose` in this process."""
        self._choose = choose

    def _make_cell(self, place: int) -> _Value:
        return _Value(self._numbers, place)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, numbers in self._numbers.read_serving(self.name).items():
            family.add_metric(labels, self._choose(numbers))
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.documentation, labels=self.label_names)
