"""A sweep gives each overdue payment its next step, whatever fails beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Change, ChangeResult, Decided
from domain.errors import QueueUnavailable, StoreUnavailable
from domain.kinds import RULES, Kind
from domain.lifecycle.reconcile import STEPS_MAX, Sweeper, SweepPlan
from domain.lifecycle.submit import NextStep
from domain.operations import Operation
from domain.stages import Stage, Step
from domain.times import BREAKER_COOL_DOWN_MAX
from tests.builders import ACCOUNTS, PAYMENT_ID, TIMES, a_payment, an_attempt_id

NOTHING_DUE = SweepPlan(
    due=dict.fromkeys(Step, 0),
    has_overdue_events=False,
    has_unlisted=False,
    engaged_brakes=frozenset(),
    breaker_is_open=False,
)
A_WITHDRAWAL = NextStep(
    payment_id=PAYMENT_ID,
    kind=Kind.WITHDRAWAL,
    stage=Stage.ACCEPTED,
    is_expired=False,
    step=Step.SUBMIT,
)


class World:
    """The store, the queue, the budgets and the announcer of one sweeper. It notes what they do.

    A call of a method in `errors` raises.
    """

    def __init__(self, plan: SweepPlan = NOTHING_DUE, *due: NextStep) -> None:
        self.plan = plan
        self.due = list(due)
        self.errors: dict[str, Exception] = {}
        self.fetched: list[tuple[Step, int, frozenset[Kind]]] = []
        self.changed: list[UUID] = []
        self.woken: list[UUID] = []
        self.handed_over: list[UUID] = []
        self.probed: list[UUID] = []
        self.publications = 0
        self.listed = 0
        self.free_places = 100
        anything: Any = self
        self.sweeper = Sweeper(
            store=anything,
            changes=anything,
            wakeups=anything,
            announcer=anything,
            budgets={Step.QUERY: anything, Step.STATUS: anything},
            inquirer=anything,
            times=TIMES,
            accounts=ACCOUNTS,
        )

    def _may_raise(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]

    async def plan_sweep(self, *, limit: int, overdue_by: timedelta) -> SweepPlan:
        assert (limit, overdue_by > timedelta(0)) == (STEPS_MAX, True)
        return self.plan

    async def fetch_due_steps(
        self,
        step: Step,
        *,
        limit: int,
        next_step_in: timedelta,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> list[NextStep]:
        assert next_step_in <= timedelta(seconds=5)
        self._may_raise(f"fetch_due_steps {step}")
        self.fetched.append((step, limit, frozenset(kinds)))
        return [item for item in self.due if item.step is step and item.kind in kinds][:limit]

    async def change(self, change: Change) -> ChangeResult:
        self.changed.append(change.payment_id)
        return ChangeResult(Decided(payment=a_payment()), None)

    async def end_stuck_sessions(self) -> int:
        return 1

    async def start_probe(self, cool_down: timedelta, maximum: timedelta, account: Any) -> UUID:
        assert (cool_down, maximum) == (TIMES.breaker_cool_down, BREAKER_COOL_DOWN_MAX)
        assert account == ACCOUNTS[Kind.WITHDRAWAL]
        return PAYMENT_ID

    def probe_soon(self, payment_id: UUID) -> None:
        self.probed.append(payment_id)

    async def list_events(self) -> int:
        self.listed += 1
        return 1

    async def room(self) -> int:
        self._may_raise("room")
        return self.free_places

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        self._may_raise("wake")
        self.woken += payment_ids

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        self.handed_over += payment_ids

    async def charge(self, wanted: int) -> int:
        self._may_raise("charge")
        return min(wanted, 1)

    def publish_soon(self) -> None:
        self.publications += 1

    def announce_soon(self, result: ChangeResult) -> None:
        assert result.announcement is None


def plan(**changes: Any) -> SweepPlan:
    """A plan; `due` lists the steps of which one is due."""
    counts = {step: int(step in changes.get("due", ())) for step in Step}
    return replace(NOTHING_DUE, **{**changes, "due": counts})


async def test_a_sweep_with_nothing_due_only_ends_stuck_sessions() -> None:
    """It does so in one of five sweeps."""
    world = World()
    assert [len(await world.sweeper.sweep()) for _ in range(6)] == [1, 0, 0, 0, 0, 1]
    assert world.fetched == []


async def test_a_waiting_payment_is_woken_and_an_expired_one_is_changed() -> None:
    expired = replace(A_WITHDRAWAL, payment_id=an_attempt_id(2), is_expired=True)
    world = World(plan(due=[Step.SUBMIT]), A_WITHDRAWAL, expired)
    assert (await world.sweeper.sweep())[Step.SUBMIT] == 2
    assert (world.woken, world.changed) == ([PAYMENT_ID], [expired.payment_id])


@pytest.mark.parametrize("method", ["room", "wake"])
async def test_without_redis_expired_payments_still_end(method: str) -> None:
    expired = replace(A_WITHDRAWAL, payment_id=an_attempt_id(2), is_expired=True)
    world = World(plan(due=[Step.SUBMIT]), A_WITHDRAWAL, expired)
    world.errors[method] = QueueUnavailable()
    await world.sweeper.sweep()
    assert world.changed == [expired.payment_id]
    [(_, limit, _)] = world.fetched
    assert limit == (STEPS_MAX if method == "room" else world.free_places)


async def test_stopped_payouts_are_not_woken_but_may_expire() -> None:
    expired = replace(A_WITHDRAWAL, payment_id=an_attempt_id(2), is_expired=True)
    a_deposit = replace(A_WITHDRAWAL, payment_id=an_attempt_id(3), kind=Kind.DEPOSIT)
    world = World(
        plan(due=[Step.SUBMIT], payouts_are_stopped=True), A_WITHDRAWAL, expired, a_deposit
    )
    await world.sweeper.sweep()
    assert (world.woken, world.changed) == ([a_deposit.payment_id], [expired.payment_id])


@pytest.mark.parametrize(("probes", "woken"), [([], 0), ([Operation.B2C], 1)])
async def test_one_payment_of_a_held_operation_is_woken_after_the_cool_down(
    probes: list[Operation], woken: int
) -> None:
    second = replace(A_WITHDRAWAL, payment_id=an_attempt_id(2))
    held = frozenset({RULES[Kind.WITHDRAWAL].operation})
    world = World(
        plan(due=[Step.SUBMIT], held_operations=held, probes_due=frozenset(probes)),
        A_WITHDRAWAL,
        second,
    )
    await world.sweeper.sweep()
    assert len(world.woken) == woken


async def test_inquiries_are_handed_over_within_the_budget() -> None:
    due = [replace(A_WITHDRAWAL, payment_id=an_attempt_id(n), step=Step.STATUS) for n in (1, 2)]
    world = World(plan(due=[Step.STATUS]), *due)
    await world.sweeper.sweep()
    assert world.handed_over == [due[0].payment_id]


@pytest.mark.parametrize("method", ["room", "charge"])
async def test_without_redis_no_inquiry_is_handed_over(method: str) -> None:
    world = World(plan(due=[Step.QUERY]), replace(A_WITHDRAWAL, step=Step.QUERY))
    world.errors[method] = QueueUnavailable()
    assert (await world.sweeper.sweep())[Step.QUERY] == 0
    assert (world.fetched, world.handed_over) == ([], [])


async def test_an_open_breaker_starts_a_probe() -> None:
    world = World(plan(breaker_is_open=True))
    assert (await world.sweeper.sweep())["probe"] == 1
    assert world.probed == [PAYMENT_ID]


@pytest.mark.parametrize("has_unlisted", [True, False])
async def test_overdue_events_are_published_and_listed(has_unlisted: bool) -> None:
    """The sweeper lists them itself, because Redis may be away for a long time."""
    world = World(plan(has_overdue_events=True, has_unlisted=has_unlisted))
    assert (await world.sweeper.sweep())["announce"] == 1
    assert (world.publications, world.listed) == (1, int(has_unlisted))


async def test_a_bug_in_one_step_stops_no_other_step() -> None:
    world = World(plan(due=[Step.WATCH, Step.SUBMIT]), A_WITHDRAWAL)
    world.errors[f"fetch_due_steps {Step.WATCH}"] = RuntimeError("a bug")
    steps = await world.sweeper.sweep()
    assert (steps[Step.WATCH], steps[Step.SUBMIT]) == (0, 1)


async def test_a_sweep_ends_if_postgres_is_away() -> None:
    world = World(plan(due=[Step.WATCH]))
    world.errors[f"fetch_due_steps {Step.WATCH}"] = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        await world.sweeper.sweep()
