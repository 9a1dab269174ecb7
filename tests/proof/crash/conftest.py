"""Plays the batches and scenarios of all collected crash tests, in a few systems at once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.proof.crash.lanes import Lanes
from tests.proof.crash.protections import Case, cases
from tests.proof.crash.table import Batch, all_batches, selected_batches
from tests.stack.starter import Starter

_ALL = "--all-combinations"
_LANES = "CRASH_LANES"


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "play every combination of the table, and every scenario also without its protections"
    parser.addoption(_ALL, action="store_true", help=text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # pytest knows the option only if its command line names this folder.
    is_all = bool(metafunc.config.getoption(_ALL, default=False))
    if "batch" in metafunc.fixturenames:
        batches = all_batches() if is_all else selected_batches()
        metafunc.parametrize("batch", batches, ids=lambda batch: batch.name)
    if "case" in metafunc.fixturenames:
        scenarios = cases(with_each_taken_away=is_all)
        metafunc.parametrize("case", scenarios, ids=lambda case: case.name)


@pytest.fixture(scope="session")
async def lanes(request: pytest.FixtureRequest, starter: Starter) -> AsyncIterator[Lanes]:
    """Plays the batches and scenarios of all collected tests, in their order, a few at once."""
    asked = [
        item.callspec.params.get(name)
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        for name in ("batch", "case")
    ]
    pieces = [piece for piece in asked if isinstance(piece, Batch | Case)]
    running = Lanes(starter, pieces, at_once=int(os.environ.get(_LANES, "2")))
    yield running
    await running.close()
