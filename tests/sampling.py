"""The choice of tests for a run: a sample of all levels in minutes, or the rest.

`make test` plays the sample, `make test-all` the rest, and pytest by itself everything.

* `whole` marks a test that takes long by nature. The sample leaves it out.
* `shortened` marks a test of which the sample plays a short form. Tests of hypothesis are shortened
  without a mark.
* `sampled(n)` marks a test with many cases. The sample plays n of them, drawn by `--sample-seed`.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test


class Part(StrEnum):
    """A part of all tests."""

    ALL = "all"
    SAMPLE = "sample"
    REST = "rest"


# Whether a finished test was the last one of its file in this process.
ENDS_FILE = pytest.StashKey[bool]()

# The files of the collected tests; and the file and the name of each test that is played.
COLLECTED = pytest.StashKey[tuple[set[str], set[tuple[str, str]]]]()

# The folders of tests that mostly wait, the longest first.
_WAITING = ("soak", "crash", "fuzz", "spec", "integration")

_MARKS = {
    "whole": "takes long by nature: `make test` leaves it out, `make test-all` plays it",
    "shortened": "takes long by nature: `make test` plays a short form, `make test-all` the whole",
    "sampled(n)": "has many cases: `make test` plays n of them, `make test-all` the others",
}


def add_options(parser: pytest.Parser) -> None:
    """Adds `--part` and `--sample-seed`."""
    parts, text = list(Part), "which tests to play (default: all)"
    parser.addoption("--part", type=Part, choices=parts, default=Part.ALL, help=text)
    parser.addoption("--sample-seed", type=int, default=1, help="draws the cases (default: 1)")


def add_marks(config: pytest.Config) -> None:
    """Registers the marks."""
    for name, description in _MARKS.items():
        config.addinivalue_line("markers", f"{name}: {description}")


def is_sample(config: pytest.Config) -> bool:
    """Whether this run plays the sample: a test that is `shortened` then draws fewer cases."""
    return part_of(config) is Part.SAMPLE


def part_of(config: pytest.Config) -> Part:
    """The part that this run plays."""
    part: Any = config.getoption("--part")
    return Part(part)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the items that belong to the part, in their order."""
    part = part_of(config)
    if part is Part.ALL:
        return
    sample = _sample(items, config.getoption("--sample-seed"))
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        is_in_both = item.get_closest_marker("shortened") is not None or _draws_examples(item)
        is_played = is_in_both or (item.nodeid in sample) is (part is Part.SAMPLE)
        (kept if is_played else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = _mixed(kept)


def remember(config: pytest.Config, files: set[str], items: list[pytest.Item]) -> None:
    """Stores which tests are played. A test reads this in `COLLECTED`."""
    config.stash[COLLECTED] = (
        files,
        {(_file(item), item.name.partition("[")[0]) for item in items},
    )


def files_of(items: list[pytest.Item]) -> set[str]:
    """The files of the items."""
    return {_file(item) for item in items}


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _draws_examples(item: pytest.Item) -> bool:
    """Whether hypothesis draws the test's examples. The sample draws fewer (conftest.py)."""
    return is_hypothesis_test(getattr(item, "obj", None))


def _mixed(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The items, in turns from files that mostly wait and from files that compute."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for folder in _WAITING for path in files if path.parent.name == folder]
    computing = [path for path in files if path not in set(waiting)]
    turns = itertools.zip_longest(waiting, computing)
    return [item for turn in turns for path in turn if path is not None for item in files[path]]


def _sample(items: list[pytest.Item], seed: int) -> set[str]:
    """The node ids of the sample. They depend only on the seed, not on the other tests."""
    chosen: set[str] = set()
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("whole") is not None:
            continue
        if item.get_closest_marker("sampled") is None:
            chosen.add(item.nodeid)
        else:
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, of_one_test in cases.items():
        mark = of_one_test[0].get_closest_marker("sampled")
        assert mark is not None
        count = min(int(mark.args[0]), len(of_one_test))
        draw = random.Random(f"{seed} {name}")
        chosen |= {item.nodeid for item in draw.sample(of_one_test, count)}
    return chosen
