"""Several running systems at once, because a crash test mostly waits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.proof.crash.lanes import Lanes
from tests.proof.crash.protections import Case, cases, play_case
from tests.proof.crash.running import CrashSystem, open_crash_system, play
from tests.proof.crash.table import Batch, all_batches, selected_batches
from tests.stack.starter import Starter

_ALL = "--all-combinations"
_LANES = "CRASH_LANES"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        _ALL,
        action="store_true",
        help="every combination of the table, and every protection taken away",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batch" in metafunc.fixturenames:
        batches = all_batches() if plays_all(metafunc.config) else selected_batches()
        metafunc.parametrize("batch", batches, ids=lambda batch: batch.name)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize(
            "case",
            cases(with_each_taken_away=plays_all(metafunc.config)),
            ids=lambda case: case.name,
        )


def plays_all(config: pytest.Config) -> bool:
    """Whether the option is set. A run of all tests does not have the option."""
    return bool(config.getoption(_ALL, default=False))


async def _work(crash_system: CrashSystem, piece: Batch | Case) -> None:
    await (
        play(crash_system, piece) if isinstance(piece, Batch) else play_case(crash_system, piece)
    )


@pytest.fixture(scope="session")
async def lanes(
    request: pytest.FixtureRequest,
    starter: Starter,
) -> AsyncIterator[Lanes[CrashSystem, Batch | Case]]:
    """Plays what all collected tests ask for, in their order, a few at once."""
    items = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    asked = [item.callspec.params.get(name) for item in items for name in ("batch", "case")]
    pieces = [piece for piece in asked if isinstance(piece, (Batch, Case))]
    at_once = int(os.environ.get(_LANES, "2"))
    async with Lanes(
        partial(open_crash_system, starter), _work, pieces, at_once=at_once
    ) as running:
        yield running
