"""`make test` and `make test-all` together run each test. A seed always draws the same sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import sampling
from tests.sampling import Part


class Item:
    """The parts of a pytest item that the selection reads."""

    def __init__(self, nodeid: str, *marks: pytest.MarkDecorator) -> None:
        self.nodeid = nodeid
        self.path = Path(nodeid.partition("::")[0])
        self._marks = {mark.name: mark.mark for mark in marks}

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._marks.get(name)


def all_tests() -> Iterator[Item]:
    for number in range(40):
        yield Item(f"tests/unit/test_table.py::test_each[{number}]", pytest.mark.sampled(7))
    yield Item("tests/unit/test_table.py::test_few[a]", pytest.mark.sampled(7))
    yield Item("tests/unit/test_plain.py::test_it")
    yield Item("tests/spec/test_plain.py::test_it")
    yield Item("tests/spec/test_long.py::test_a_thousand", pytest.mark.whole)
    yield Item("tests/proof/soak/test_soak.py::test_a_soak", pytest.mark.shortened)


def selected(part: Part, seed: int = 1) -> list[str]:
    options = {"--part": part, "--sample-seed": seed}
    hook = SimpleNamespace(pytest_deselected=lambda **_: None)
    config: Any = SimpleNamespace(getoption=options.get, hook=hook)
    items: list[Any] = list(all_tests())
    sampling.select(config, items)
    return [item.nodeid for item in items]


def test_the_sample_and_the_rest_are_all_tests_and_share_the_shortened_tests() -> None:
    sample, rest = set(selected(Part.SAMPLE)), set(selected(Part.REST))
    assert sample | rest == {item.nodeid for item in all_tests()} == set(selected(Part.ALL))
    assert sample & rest == {"tests/proof/soak/test_soak.py::test_a_soak"}


def test_the_sample_limits_the_cases_of_a_table_and_omits_long_tests() -> None:
    sample = selected(Part.SAMPLE)
    assert sum("test_each[" in name for name in sample) == 7
    assert sum("test_few[" in name for name in sample) == 1
    assert "tests/spec/test_long.py::test_a_thousand" not in sample


def test_files_that_wait_and_files_that_compute_take_turns() -> None:
    files = list(dict.fromkeys(name.partition("::")[0] for name in selected(Part.SAMPLE)))
    assert [name.split("/")[-2] for name in files] == ["soak", "unit", "spec", "unit"]
