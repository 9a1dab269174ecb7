"""Counters, histograms and states of several processes, which share their numbers in memory."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from domain.adapters import counting
from domain.adapters.counting import Counter, Histogram, SharedNumbers, WorstGauge


@pytest.fixture
def numbers() -> SharedNumbers:
    return SharedNumbers()


def _text(*collectors: Collector) -> list[str]:
    """The lines that a scrape shows, without comments."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def _run_forked(work: Callable[[], None]) -> None:
    """Runs `work` in a process that dies without any clean-up."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def _counter(numbers: SharedNumbers) -> Counter:
    return Counter("tries_total", "Tries", ["kind"], numbers=numbers, registers=False)


def test_one_process_shows_its_counts(numbers: SharedNumbers) -> None:
    plain = Counter("plain_total", "Plain", numbers=numbers, registers=False)
    tries = _counter(numbers)
    tries.labels(kind="a").inc()
    tries.labels(kind='quoted "b"').inc(2)
    assert _text(plain, tries) == [
        "plain_total 0.0",
        'tries_total{kind="a"} 1.0',
        'tries_total{kind="quoted \\"b\\""} 2.0',
    ]


def test_a_histogram_counts_each_value_once_and_shows_sums(numbers: SharedNumbers) -> None:
    """A value that equals a bound is in the bucket of the bound."""
    waits = Histogram("waits", "Waits", bounds=(0.5, 2.0), numbers=numbers, registers=False)
    for seconds in (0.5, 0.75, 3.0):
        waits.labels().observe(seconds)
    assert _text(waits) == [
        'waits_bucket{le="0.5"} 1.0',
        'waits_bucket{le="2.0"} 2.0',
        'waits_bucket{le="+Inf"} 3.0',
        "waits_count 3.0",
        "waits_sum 4.25",
    ]


def test_processes_add_up_and_a_dead_one_stays_counted_once(numbers: SharedNumbers) -> None:
    """Each process makes series in an order of its own. A replacement continues the dead one's."""
    tries = _counter(numbers)
    bound_before_the_fork = tries.labels(kind="early").inc
    bound_before_the_fork()
    numbers.share_among(2)

    def count(slot: int, *kinds: str) -> None:
        numbers.use_slot(slot)
        bound_before_the_fork()
        for kind in kinds:
            tries.labels(kind=kind).inc()

    _run_forked(lambda: count(1, "a", "b"))
    _run_forked(lambda: count(2, "b", "c"))
    expected = {"early": 3, "a": 1, "b": 2, "c": 1}
    assert sorted(_text(tries)) == sorted(
        f'tries_total{{kind="{kind}"}} {float(count)}' for kind, count in expected.items()
    )
    _run_forked(lambda: count(1, "d", "b", "a"))
    for kind in ("early", "a", "b", "d"):
        expected[kind] = expected.get(kind, 0) + 1
    assert sorted(_text(tries)) == sorted(
        f'tries_total{{kind="{kind}"}} {float(count)}' for kind, count in expected.items()
    )


def test_a_state_shows_the_worst_process_and_ends_with_it(numbers: SharedNumbers) -> None:
    """A replacement does not continue the state of the dead process."""
    fault = WorstGauge("fault", "Fault", choose=max, numbers=numbers, registers=False)
    numbers.share_among(2)

    def set_state(slot: int, value: float | None) -> None:
        numbers.use_slot(slot)
        if value is not None:
            fault.set(value)

    _run_forked(lambda: set_state(1, 0))
    _run_forked(lambda: set_state(2, 1))
    assert _text(fault) == ["fault 1.0"]
    _run_forked(lambda: set_state(2, None))
    assert _text(fault) == ["fault 0.0"]


def test_a_name_that_a_dying_process_wrote_half_is_overwritten(numbers: SharedNumbers) -> None:
    tries = _counter(numbers)
    tries.labels(kind="a").inc()
    numbers.share_among(1)

    def die() -> None:
        numbers.use_slot(1)
        end = numbers._own._names_length[0]
        numbers._own._names[end : end + 9] = b'["tries_t'

    _run_forked(die)

    def count() -> None:
        numbers.use_slot(1)
        tries.labels(kind="b").inc()

    _run_forked(count)
    assert _text(tries) == ['tries_total{kind="a"} 1.0', 'tries_total{kind="b"} 1.0']


def test_too_many_series_disturb_nothing(
    numbers: SharedNumbers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The series that have no room are not shown, and the log says so once."""
    monkeypatch.setattr(counting, "_NUMBERS_MAX", counting._UNSHOWN_NUMBERS + 2)
    tries = _counter(numbers)
    for kind in ("a", "b", "c", "d", "a"):
        tries.labels(kind=kind).inc()
    assert _text(tries) == ['tries_total{kind="a"} 2.0', 'tries_total{kind="b"} 1.0']
    assert capsys.readouterr().out.count("metrics_full") == 1
