"""Hypothesis chooses the next step, and shrinks an order of steps that breaks a law.

The record, the provider and the flows are those of `world.py`. Here a step may come before earlier
ones, and any flow may crash. Daraja keeps ids, so a request may arrive late (daraja.md §4.2).
"""

from __future__ import annotations

import heapq
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.kinds import Kind
from tests.proof.interleavings import people
from tests.proof.interleavings.laws import judge_money
from tests.proof.interleavings.world import World

_WAITS_MS = (1, 1000, 5000, 30_000, 61_000, 200_000, 310_000)


class Life(RuleBasedStateMachine):
    """One payment's life."""

    world: World

    @initialize(seed=st.integers(0, 10_000), kind=st.sampled_from(Kind))
    def accept(self, seed: int, kind: Kind) -> None:
        self.world = World(seed, Counter(), kind=kind, forgets_ids=False)
        # A step may come much later than planned. A transaction that waits for a row may not, so
        # no transaction waits here.
        self.world.chances.waits_for_a_row = 0.0
        self.world.chances.crashes = self.world.chances.freezes = 0.0
        self.world.begin_life()

    def _happen(self, place: int) -> None:
        world = self.world
        at, _, action, arguments = world.pending.pop(place)
        heapq.heapify(world.pending)
        world.now = max(world.now, at)
        action(*arguments)

    @precondition(lambda self: self.world.pending)
    @rule()
    def what_is_next_happens(self) -> None:
        self._happen(0)

    @precondition(lambda self: self.world.pending)
    @rule(place=st.integers(0, 30))
    def something_else_happens_first(self, place: int) -> None:
        self._happen(place % len(self.world.pending))

    @precondition(lambda self: self.world.flows_pending)
    @rule(place=st.integers(0, 30))
    def a_worker_crashes(self, place: int) -> None:
        flows = self.world.flows_pending
        self.world.pending.remove(flows[place % len(flows)])
        heapq.heapify(self.world.pending)

    @rule(wait_ms=st.sampled_from(_WAITS_MS))
    def time_passes_and_nothing_happens(self, wait_ms: int) -> None:
        self.world.now += wait_ms

    @rule()
    def a_job_is_doubled(self) -> None:
        self.world.wake()

    @rule()
    def its_caller_cancels(self) -> None:
        people.cancel(self.world)

    @rule()
    def an_operator_looks(self) -> None:
        people.operate(self.world)

    @rule(is_engaged=st.booleans())
    def payouts_are_stopped_or_let_go(self, is_engaged: bool) -> None:
        people.stop_payouts(self.world, is_engaged)

    @rule(is_open=st.booleans())
    def another_payment_moves_the_breaker(self, is_open: bool) -> None:
        people.move_breaker_of_another_payment(self.world, is_open)

    @invariant()
    def money_and_record_agree(self) -> None:
        if hasattr(self, "world"):
            judge_money(self.world.record, self.world.daraja)

    def teardown(self) -> None:
        """Stop the faults, and run everything that is due."""
        if not hasattr(self, "world"):
            return
        self.world.calm()
        self.world.play_out()


Life.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# The laws hold after each step and at the end, in any order of steps.
TestLife = Life.TestCase
