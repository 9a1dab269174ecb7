"""Without each protection of the core, some of the seeded lives break a law."""

from __future__ import annotations

import pytest

from tests.proof.interleavings.record import LawBroken
from tests.proof.interleavings.removals import REMOVALS
from tests.proof.interleavings.swift import swiftly

RUNS_MAX = 4000


@pytest.mark.parametrize("protection", REMOVALS)
def test_some_life_breaks_a_law_without_the_protection(
    protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missed_after(protection, monkeypatch) is not None, f"nothing showed that {protection}"


def missed_after(protection: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str] | None:
    """The first seed that breaks a law, and the message. None if no life breaks one."""
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
