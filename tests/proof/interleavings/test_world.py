"""A part of `make interleavings`: no order of events breaks a law, and every rule is covered."""

from __future__ import annotations

import pytest

from domain.kinds import Kind
from domain.payment import Payment
from tests.proof.interleavings.record import new_payment
from tests.proof.interleavings.swift import swift_replace, swiftly
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
def test_every_transition_outcome_and_verdict_was_met(share: Tally) -> None:
    assert share.unseen == []


@pytest.mark.shortened
def test_most_lives_differ_in_the_order_of_their_steps(share: Tally) -> None:
    assert len(set(share.paths)) > share.runs / 2


def test_a_seed_gives_the_same_life_again() -> None:
    for seed in range(1, 40):
        assert list(replay(seed)) == list(replay(seed))


def test_payments_copied_swiftly_are_as_the_library_copies_them() -> None:
    for kind in Kind:
        payment = new_payment(kind)
        assert swift_replace(payment, sequence=7) == _slowly(payment, sequence=7)
    with pytest.raises(TypeError, match="unknown"):
        swift_replace(new_payment(Kind.DEPOSIT), unknown=1)


def test_the_same_lives_are_lived_swiftly_and_slowly() -> None:
    def lives() -> list[list[str]]:
        return [list(replay(seed)) for seed in range(1, 60)]

    slow = lives()
    with swiftly():
        assert lives() == slow


def _slowly(payment: Payment, **changed: object) -> Payment:
    import dataclasses  # noqa: PLC0415

    return dataclasses.replace(payment, **changed)  # type: ignore[arg-type]
