"""Every scenario passes. With `--all-combinations`, it also fails without its protection."""

from __future__ import annotations

import pytest

from tests.proof.crash.lanes import Lanes
from tests.proof.crash.protections import PROTECTIONS, Case, PromiseBroken
from tests.proof.failpoints.points import CHECKS


@pytest.mark.sampled(2)
async def test_a_promise_holds_by_its_protection(case: Case, lanes: Lanes) -> None:
    """The scenario passes with the protection, and raises PromiseBroken without it."""
    if not case.without:
        await lanes.done(case)
        return
    with pytest.raises(PromiseBroken):
        await lanes.done(case)


def test_every_check_that_can_be_taken_away_is_a_protection() -> None:
    assert {protection.check for protection in PROTECTIONS} == set(CHECKS)
