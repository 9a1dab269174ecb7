"""A part of `make interleavings`: no order of steps breaks a law, and every rule is covered."""

from __future__ import annotations

import pytest

from tests.proof.interleavings.swift import swiftly
from tests.proof.interleavings.tally import Tally, replay, tally
from tests.sampling import is_sample

RUNS = 30_000
RUNS_OF_A_SAMPLE = 9_000


@pytest.fixture(scope="module")
def share(pytestconfig: pytest.Config) -> Tally:
    return tally(range(1, (RUNS_OF_A_SAMPLE if is_sample(pytestconfig) else RUNS) + 1))


@pytest.mark.shortened
def test_no_interleaving_breaks_a_law(share: Tally) -> None:
    """`python -m tests.proof.interleavings --replay SEED` shows the life of one seed."""
    assert share.seeds == {}


@pytest.mark.shortened
def test_every_transition_and_every_outcome_occurred(share: Tally) -> None:
    assert share.unseen == []


@pytest.mark.shortened
def test_most_lives_differ_in_the_order_of_their_steps(share: Tally) -> None:
    assert len(set(share.paths)) > share.runs / 2


def test_a_seed_gives_the_same_life_again_swiftly_or_slowly() -> None:
    for seed in range(1, 60):
        slow = list(replay(seed))
        with swiftly():
            assert list(replay(seed)) == slow
