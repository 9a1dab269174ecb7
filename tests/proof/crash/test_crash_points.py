"""Real processes are killed or frozen at each crash point and continue: every promise holds.

Every scenario of a protection passes. With `--all-combinations`, it also fails without its
protection. Both are in one file, because one process plays all batches and scenarios together.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.proof.crash import document
from tests.proof.crash.lanes import Lanes
from tests.proof.crash.protections import PROTECTIONS, Case, PromiseBroken
from tests.proof.crash.sites import SITES
from tests.proof.crash.table import Batch, all_batches, all_combinations, selected_batches
from tests.proof.failpoints.points import CHECKS, POINTS


@pytest.mark.sampled(3)
async def test_every_payment_under_way_gets_the_ending_of_the_table(
    batch: Batch, lanes: Lanes
) -> None:
    """Each payment of the batch ends as the table says, and the judge finds I1 to I7 kept."""
    await lanes.done(batch)


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


def test_every_combination_exists_or_says_why_not() -> None:
    """Each row of the full product is played by exactly one batch, or has a reason."""
    rows = list(all_combinations())
    assert len(rows) == len(SITES) * 3 * 2 * 3 * 2
    assert all((one.ending is None) is bool(one.reason) for one in rows)
    played = Counter(one for batch in all_batches() for one in batch.combinations)
    assert played == Counter(one for one in rows if one.ending is not None)


def test_every_run_of_the_tests_plays_every_crash_point() -> None:
    """The selection has every point, kind, answer, number of callbacks and state of Redis."""
    chosen = [one for batch in selected_batches() for one in batch.combinations]
    assert {one.site.crash_point for one in chosen} == set(range(1, 13))
    for name in ("kind", "answer", "callbacks", "redis"):
        assert {getattr(one, name) for one in chosen} == {
            getattr(one, name) for one in all_combinations()
        }


def test_sites_and_points_have_the_same_numbers() -> None:
    """A site's name contains the number of its failpoint. Only `11 callbacks` is an exception."""
    for site in SITES:
        number = str(POINTS[site.point].crash_point)
        assert number in site.name.split() or site.name == "11 callbacks", site.name


def test_the_document_is_the_table() -> None:
    """`python -m tests.proof.crash --table` writes the document again."""
    assert document.PATH.read_text() == document.text()
