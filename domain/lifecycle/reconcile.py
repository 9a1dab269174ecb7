"""Gives overdue payments their next step.

A sweep goes through the kinds of step one after another. If a step needs only PostgreSQL, the
sweeper itself takes the step. If a step needs Daraja, the sweeper sends a wake-up to the workers.
The statement that fetches due payments also moves their due times, so a payment that makes no
progress does not delay the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog

from domain.account import Account
from domain.changes import Change, ChangingStore, Context, Decided, NewEntry
from domain.errors import PaymentServiceError, QueueUnavailable
from domain.inquiry import last_sent_at
from domain.kinds import RULES, Kind, kinds_that
from domain.lifecycle.announce import Announcer
from domain.lifecycle.inquire import Inquirer
from domain.lifecycle.inquiry_changes import watch_change
from domain.lifecycle.submit import NextStep, expiry_change
from domain.operations import Operation
from domain.payment import Fact, Payment
from domain.stages import FactName, Step
from domain.times import BREAKER_COOL_DOWN_MAX, HANDOVER_RETRY_AFTER, Times

log = structlog.get_logger()

# The process that made an event publishes it at once. The sweeper publishes an event that is
# overdue by this time.
ANNOUNCEMENT_OVERDUE_BY = timedelta(seconds=2)

# The maximum number of steps of each kind in one sweep. A backlog of one kind then does not delay
# the other kinds.
STEPS_MAX = 200

# The maximum number of held payments (a brake stops their claim) in one sweep. It is smaller,
# because the sweeper can only fail a held payment that is too old.
_HELD_STEPS_MAX = 50

# One of this many sweeps ends stuck database sessions.
_STUCK_SESSIONS_EVERY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """The work that a sweep found."""

    due: Mapping[Step, int]
    has_overdue_events: bool
    has_unlisted: bool
    engaged_brakes: frozenset[str]  # names of brakes and of held operations
    breaker_is_open: bool
    payouts_are_stopped: bool = False
    held_operations: frozenset[Operation] = frozenset()
    probes_due: frozenset[Operation] = frozenset()  # held operations whose cool-down is over


class SweepingStore(Protocol):
    """What the sweeper reads and writes."""

    async def plan_sweep(self, *, limit: int, overdue_by: timedelta) -> SweepPlan:
        """Counts the due steps of each kind, up to `limit`, and reads the brakes.

        Also reads whether the first unpublished event has waited for longer than `overdue_by`, and
        if so, whether it has no position in the feed yet.
        """
        ...

    async def fetch_due_steps(
        self,
        step: Step,
        *,
        limit: int,
        next_step_in: timedelta,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> list[NextStep]:
        """Fetches payments whose `step` is due, oldest first.

        The same statement moves their due times.
        """
        ...

    async def end_stuck_sessions(self) -> int:
        """Ends transactions whose process stopped within a statement; returns how many."""
        ...

    async def start_probe(
        self, cool_down: timedelta, cool_down_max: timedelta, account: Account | None = None
    ) -> UUID | None:
        """Returns the payment whose inquiry tests if the breaker may close.

        None if the breaker is closed, or its cool-down is not over. Starts the next cool-down,
        which is twice as long, up to `cool_down_max`. Chooses a payment that only `account` has
        sent, because an inquiry as another account would say nothing about the credential in use.
        """
        ...

    async def list_events(self) -> int:
        """Gives feed positions to some committed events that have none; returns how many."""
        ...


class Budget(Protocol):
    """The budget of inquiries of one kind, which all workers share."""

    async def charge(self, wanted: int) -> int:
        """Spends up to `wanted` inquiries; returns how many. Raises QueueUnavailable."""
        ...


class Wakeups(Protocol):
    """Jobs that carry only a payment's id."""

    async def room(self) -> int:
        """Returns how many more overdue payments fit in the queue. Raises QueueUnavailable."""
        ...

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """Queues jobs for overdue payments, ahead of all other jobs. Raises QueueUnavailable."""
        ...

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """Does the same as `wake` for payments whose inquiry was charged to a budget.

        Each of these jobs permits one inquiry.
        """
        ...


class Sweeper:
    """Gives overdue payments their next step. Any number of sweepers may run at once."""

    def __init__(
        self,
        *,
        store: SweepingStore,
        changes: ChangingStore,
        wakeups: Wakeups,
        announcer: Announcer,
        budgets: Mapping[Step, Budget],
        inquirer: Inquirer,
        times: Times,
        accounts: Mapping[Kind, Account],
    ) -> None:
        self._store = store
        self._changes = changes
        self._wakeups = wakeups
        self._announcer = announcer
        self._budgets = budgets
        self._inquirer = inquirer
        self._times = times
        self._accounts = accounts
        self._known_brakes: frozenset[str] = frozenset()
        self._rounds = 0

    async def sweep(self) -> Mapping[str, int]:
        """Runs one round; returns the number of steps of each kind. Raises StoreUnavailable."""
        plan = await self._store.plan_sweep(limit=STEPS_MAX, overdue_by=ANNOUNCEMENT_OVERDUE_BY)
        self._log_brake_changes(plan.engaged_brakes)
        steps: dict[str, Callable[[], Awaitable[int]]] = {
            Step.END_LEASE: self._end_leases,
            Step.SUBMIT: partial(self._wake_accepted, plan),
            Step.WATCH: self._watch,
            Step.QUERY: partial(self._hand_over_inquiries, Step.QUERY, plan.due[Step.QUERY]),
            Step.STATUS: partial(self._hand_over_inquiries, Step.STATUS, plan.due[Step.STATUS]),
        }
        steps = {step: run for step, run in steps.items() if plan.due[Step(step)]}
        if self._rounds % _STUCK_SESSIONS_EVERY == 0:
            steps["stuck"] = self._store.end_stuck_sessions
        self._rounds += 1
        if plan.breaker_is_open:
            steps["probe"] = self._probe_breaker
        if plan.has_overdue_events:
            steps["announce"] = self._announce_owed
        if plan.has_unlisted:
            steps["list"] = self._store.list_events
        return {name: await self._run_step(name, step) for name, step in steps.items()}

    def _log_brake_changes(self, engaged: frozenset[str]) -> None:
        """Logs the brakes that changed since the last sweep: they explain why no money goes out."""
        for name in sorted(engaged - self._known_brakes):
            log.error("brake_engaged", brake=name)
        for name in sorted(self._known_brakes - engaged):
            log.warning("brake_released", brake=name)
        self._known_brakes = engaged

    async def _run_step(self, name: str, step: Callable[[], Awaitable[int]]) -> int:
        try:
            return await step()
        except PaymentServiceError:
            raise
        except Exception:
            # A bug in one kind of step must not stop the others.
            log.exception("sweep_step_failed", step=name)
            return 0

    async def _end_leases(self) -> int:
        due = await self._store.fetch_due_steps(
            Step.END_LEASE, limit=STEPS_MAX, next_step_in=HANDOVER_RETRY_AFTER
        )
        await self._change_all([lease_expiry_change(item.payment_id, self._times) for item in due])
        return len(due)

    async def _wake_accepted(self, plan: SweepPlan) -> int:
        """Queues jobs for as many accepted payments as fit in the queue, longest due first.

        If a brake holds a payment, no job is queued, but the payment fails if it is too old. If the
        cool-down of a held operation is over, one job is queued. Its payment is the probe: a worker
        may claim and send it although the operation is held.
        """
        stopped_kinds = kinds_that(lambda rules: rules.moves_money_out and plan.payouts_are_stopped)
        held_kinds = kinds_that(
            lambda rules: (
                rules.operation in plan.held_operations and rules.kind not in stopped_kinds
            )
        )
        free_kinds = [kind for kind in Kind if kind not in stopped_kinds and kind not in held_kinds]
        count = 0
        for kind in held_kinds:
            if RULES[kind].operation in plan.probes_due:
                count += await self._submit_or_expire([kind], limit=1, is_queued=True)
        if stopped_kinds or held_kinds:
            count += await self._submit_or_expire(
                [*stopped_kinds, *held_kinds], limit=_HELD_STEPS_MAX, is_queued=False
            )
        if free_kinds:
            count += await self._submit_or_expire(
                free_kinds, limit=await self._room(), is_queued=True
            )
        return count

    async def _submit_or_expire(
        self, kinds: Collection[Kind], *, limit: int, is_queued: bool
    ) -> int:
        due = await self._store.fetch_due_steps(
            Step.SUBMIT, limit=limit, next_step_in=HANDOVER_RETRY_AFTER, kinds=kinds
        )
        too_old = [item for item in due if item.is_expired]
        await self._change_all([expiry_change(item.payment_id) for item in too_old])
        if is_queued:
            await self._wake([item.payment_id for item in due if item not in too_old])
        return len(due)

    async def _room(self) -> int:
        """Returns how many payments to fetch.

        If Redis is away, returns the maximum, because the sweep still has to fail payments that are
        too old.
        """
        try:
            return min(STEPS_MAX, await self._wakeups.room())
        except QueueUnavailable:
            return STEPS_MAX

    async def _watch(self) -> int:
        due = await self._store.fetch_due_steps(
            Step.WATCH, limit=STEPS_MAX, next_step_in=HANDOVER_RETRY_AFTER
        )
        await self._change_all([watch_change(item.payment_id, self._times) for item in due])
        return len(due)

    async def _hand_over_inquiries(self, step: Step, waiting: int) -> int:
        """Hands over as many inquiries as the budget allows, longest overdue first.

        The other payments stay due.
        """
        try:
            granted = await self._budgets[step].charge(min(waiting, await self._wakeups.room()))
        except QueueUnavailable:
            return 0  # without the shared count no worker inquires (rules.md §10)
        due = (
            await self._store.fetch_due_steps(
                step, limit=granted, next_step_in=HANDOVER_RETRY_AFTER
            )
            if granted
            else []
        )
        await self._wake([item.payment_id for item in due], is_hand_over=True)
        return len(due)

    async def _probe_breaker(self) -> int:
        # All kinds whose requests contain the credential are sent by the same account, so the first
        # of these kinds shows the account.
        [kind, *_] = kinds_that(lambda rules: rules.uses_credential)
        account = self._accounts.get(kind)
        payment_id = await self._store.start_probe(
            self._times.breaker_cool_down, BREAKER_COOL_DOWN_MAX, account
        )
        if payment_id is None:
            return 0
        log.warning("breaker_probed", payment_id=str(payment_id))
        self._inquirer.probe_soon(payment_id)
        return 1

    async def _announce_owed(self) -> int:
        """Starts a publication in the background, because a backlog may take long to publish."""
        self._announcer.publish_soon()
        return 1

    async def _change_all(self, changes: list[Change]) -> None:
        """Makes all changes concurrently, so that they share commits."""
        for result in await asyncio.gather(*(self._changes.change(change) for change in changes)):
            self._announcer.announce_soon(result)

    async def _wake(self, payment_ids: list[UUID], *, is_hand_over: bool = False) -> None:
        if not payment_ids:
            return
        try:
            await (self._wakeups.hand_over if is_hand_over else self._wakeups.wake)(payment_ids)
        except QueueUnavailable:
            # Each payment is due again in a few seconds.
            log.warning("wakeups_postponed", payments=len(payment_ids))


def lease_expiry_change(payment_id: UUID, times: Times) -> Change:
    """The change that ends a claim whose worker recorded no answer in time.

    It moves the payment to `in_doubt`, because Daraja may have acted.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.lease_until is None or payment.lease_until > context.now:
            return Decided(payment=payment)
        fact = Fact(name=FactName.LEASE_EXPIRED, attempt_id=payment.attempt_id)
        after = payment.apply(fact)
        if after.stage is payment.stage:
            return Decided(payment=payment)
        # A worker sends only in the first half of a lease, so the send is at least half a lease
        # old. As usual, the first inquiry follows the send by `inquiry_first_after`. If there is no
        # id to inquire by, the payment waits a moment longer: PostgreSQL may have been unreachable
        # until now, and a worker may be about to record the answer.
        earliest = context.now
        if after.inquiry_step is None:
            earliest += min(times.inquiry_first_after, HANDOVER_RETRY_AFTER)
        after = replace(
            after,
            next_step_at=max(earliest, last_sent_at(after, times) + times.inquiry_first_after),
        )
        return Decided(
            payment=after, entry=NewEntry.of_fact(fact.name), attempt_id=payment.attempt_id
        )

    return Change(payment_id=payment_id, decide=decide)
