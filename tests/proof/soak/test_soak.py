"""A short soak, always the same plan: nothing is lost, doubled, stuck or broken."""

from __future__ import annotations

import os

import pytest

from tests.proof.invariants import judge
from tests.proof.soak.plan import FaultKind, make_plan
from tests.proof.soak.report import report
from tests.proof.soak.run import PROCESSES, Options, SoakResult, soak
from tests.proof.soak.tampering import SPOILERS

_OPTIONS = Options(minutes=0.3, seed=11, kills_per_minute=40.0, patience_seconds=60.0)


def test_a_seed_makes_one_plan() -> None:
    """The same seed makes the same plan. It has every kind of fault, and kills every process."""
    plans = [
        make_plan(seed=seed, seconds=30, rate=5, kills_per_minute=20, processes=PROCESSES)
        for seed in (3, 3, 4)
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert {fault.kind for fault in plans[0].faults} == set(FaultKind)
    assert {fault.target for fault in plans[0].faults if fault.kind is FaultKind.KILL} == set(
        PROCESSES
    )


@pytest.fixture(scope="module")
async def result() -> SoakResult:
    if os.environ.keys() & {"DATABASE_URL", "REDIS_URL"}:
        pytest.skip("a soak kills its servers; the given ones are not ours to kill")
    return await soak(_OPTIONS, lambda _line: None)


@pytest.mark.whole
def test_a_short_soak_loses_and_doubles_nothing(result: SoakResult) -> None:
    assert result.is_good, report(result)
    assert result.injector.failed == [], report(result)


@pytest.mark.whole
@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_judge_condemns_the_run_with_doctored_evidence(
    result: SoakResult, spoiler: str
) -> None:
    """This shows that the test before can fail."""
    before = len(judge(result.evidence).unexplained)
    assert len(judge(SPOILERS[spoiler](result.evidence)).unexplained) > before
