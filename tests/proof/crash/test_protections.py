"""Every protection's scenario holds; and, where all combinations are played, fails without the
protection.
"""

from __future__ import annotations

import pytest

from tests.proof.crash.lanes import Lanes
from tests.proof.crash.protections import PROTECTIONS, Case, PromiseBroken
from tests.proof.crash.running import CrashSystem
from tests.proof.crash.table import Batch
from tests.proof.failpoints.points import CHECKS


@pytest.mark.sampled(2)
async def test_a_promise_holds_by_its_protection(
    case: Case, lanes: Lanes[CrashSystem, Batch | Case]
) -> None:
    """As the product is, the scenario ends well; without the protection it breaks the promise."""
    if not case.without:
        await lanes.done(case)
        return
    with pytest.raises(PromiseBroken):
        await lanes.done(case)


def test_every_check_that_can_be_taken_away_is_a_protection() -> None:
    """So that none is missed."""
    assert {protection.check for protection in PROTECTIONS} == set(CHECKS)
