"""A short soak with a fixed plan: no payment is lost, doubled, stuck or broken."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from tests.proof.invariants import judge
from tests.proof.soak.plan import FaultKind, make_plan
from tests.proof.soak.report import report
from tests.proof.soak.run import PROCESSES, Options, SoakResult, soak


def test_a_seed_makes_one_plan() -> None:
    """The same seed makes the same plan. It has every kind of fault, and kills every process."""
    plan, same, other = [
        make_plan(seed=seed, seconds=30, kills_per_minute=20, processes=PROCESSES)
        for seed in (3, 3, 4)
    ]
    assert plan == same
    assert plan != other
    assert {fault.kind for fault in plan.faults} == set(FaultKind)
    killed = {fault.target for fault in plan.faults if fault.kind is FaultKind.KILL}
    assert killed == set(PROCESSES)


@pytest.fixture(scope="module")
async def result() -> SoakResult:
    if os.environ.keys() & {"DATABASE_URL", "REDIS_URL"}:
        pytest.skip("a soak kills its servers, so it does not use DATABASE_URL or REDIS_URL")
    return await soak(Options(minutes=0.3, seed=11, kills_per_minute=40.0), lambda _line: None)


@pytest.mark.whole
def test_a_short_soak_loses_and_doubles_nothing(result: SoakResult) -> None:
    assert result.is_good, report(result)
    assert result.injector.failed == [], report(result)


@pytest.mark.whole
def test_the_judge_condemns_the_run_with_falsified_evidence(result: SoakResult) -> None:
    """The soak above can fail: if any part of its evidence is false, the judge finds more."""
    evidence, good = result.evidence, len(result.verdict.unexplained)
    falsified: dict[str, Any] = {
        "movements": [*evidence.movements, *evidence.movements],
        "payments": {},
        "keys": {},
        "history": [],
        "callbacks": [],
        "deliveries": [],
    }
    for part, value in falsified.items():
        assert len(judge(replace(evidence, **{part: value})).unexplained) > good, part
    assert len(evidence.calls) > len(evidence.payments)
    assert evidence.witness.acceptances
    assert evidence.witness.received_events
    assert evidence.witness.followed
