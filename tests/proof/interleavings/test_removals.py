"""Without each protection of the core, some of the seeded lives break a law."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.proof.interleavings.record import LawBroken
from tests.proof.interleavings.removals import REMOVALS
from tests.proof.interleavings.swift import swiftly


def _first_break(protection: str, seeds: Iterable[int]) -> str | None:
    """The first seed whose life breaks a law, and the law."""
    with swiftly():
        for seed in seeds:
            try:
                REMOVALS[protection].world(seed).run()
            except LawBroken as broken:
                return f"seed {seed}: {broken}"
    return None


@pytest.mark.sampled(6)
@pytest.mark.parametrize("protection", REMOVALS)
def test_some_life_breaks_a_law_without_the_protection(
    protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    REMOVALS[protection].remove(monkeypatch)
    assert _first_break(protection, range(1, 4001)), f"no law broke without: {protection}"


@pytest.mark.sampled(6)
@pytest.mark.parametrize("protection", REMOVALS)
def test_the_same_lives_break_nothing_with_the_protection_in_place(protection: str) -> None:
    assert _first_break(protection, range(1, 101)) is None
