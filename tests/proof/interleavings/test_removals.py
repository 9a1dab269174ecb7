"""The weaving can fail: each protection of the core, taken away, is missed within some seeded
lives.
"""

from __future__ import annotations

import pytest

from tests.proof.interleavings.record import LawBroken
from tests.proof.interleavings.removals import REMOVALS
from tests.proof.interleavings.swift import swiftly

RUNS_MAX = 4000


@pytest.mark.parametrize("protection", REMOVALS)
def test_a_protection_that_is_taken_away_is_missed(
    protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missed_after(protection, monkeypatch) is not None, f"nothing showed that {protection}"


def missed_after(protection: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str] | None:
    """After how many lives, and what broke."""
    removal = REMOVALS[protection]
    with swiftly():
        removal.remove(monkeypatch)
        for seed in range(1, RUNS_MAX + 1):
            try:
                removal.world(seed).run()
            except LawBroken as broken:
                return seed, str(broken)
    return None


@pytest.mark.parametrize("protection", REMOVALS)
def test_the_same_lives_break_nothing_with_the_protection_in_place(protection: str) -> None:
    removal = REMOVALS[protection]
    with swiftly():
        for seed in range(1, 101):
            try:
                removal.world(seed).run()
            except LawBroken as broken:
                pytest.fail(f"seed {seed}: {broken}")
