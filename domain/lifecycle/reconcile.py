"""Reconciling: what is overdue gets its next step.

A sweep looks at one stage after the other, so that kinds of step take turns. What needs only Postgres it does itself; what
needs Daraja it hands to the workers as a wake-up. Each due row's next time is moved when it is taken: a payment that makes
no progress cannot starve the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from domain.errors import QueueUnavailable
from domain.lifecycle.announce import Announcer
from domain.lifecycle.submit import expiry
from domain.payment import Fact, FactName, Payment, Stage
from domain.ports import Change, ChangingStore, ClaimTerms, Context, Decided, Due, SweepingStore, Wakeups

log = structlog.get_logger()

# A first submission, or a hand-over that may have been lost, is looked at again this soon (rule 5: at most 5 s).
HANDED_OVER_FOR = timedelta(seconds=5)

# Whoever made the fact publishes it at once; the sweeper takes what is this late.
ANNOUNCEMENT_OVERDUE_BY = timedelta(seconds=2)

# One sweep's share of each kind of step: bounded, so that a backlog of one cannot keep the others waiting.
STEPS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTerms:
    """The times of a sweep."""

    claim: ClaimTerms
    inquiry_interval_max: timedelta


class Sweeper:
    """Gives overdue payments their next step. Any number may run at once."""

    def __init__(
        self,
        *,
        due: SweepingStore,
        changes: ChangingStore,
        wakeups: Wakeups,
        announcer: Announcer,
        terms: SweepTerms,
    ) -> None:
        self._due = due
        self._changes = changes
        self._wakeups = wakeups
        self._announcer = announcer
        self._terms = terms

    async def sweep(self) -> Mapping[str, int]:
        """One round; how many payments each kind of step was given. Raises StoreUnavailable."""
        return {
            "leases_expired": await self._expire_leases(),
            "woken": await self._wake_accepted(),
            "overdue": await self._look_after_overdue(),
            "announced": await self._announce_owed(),
        }

    async def _expire_leases(self) -> int:
        due = await self._due.take_due(Stage.SUBMITTING, limit=STEPS_MAX, next_step_in=HANDED_OVER_FOR)
        await self._change_all([lease_expiry(item.payment_id) for item in due])
        return len(due)

    async def _wake_accepted(self) -> int:
        due = await self._due.take_due(Stage.ACCEPTED, limit=STEPS_MAX, next_step_in=HANDED_OVER_FOR)
        too_old = [item for item in due if item.age >= self._terms.claim.expires_after[item.kind]]
        await self._change_all([expiry(item.payment_id, self._terms.claim) for item in too_old])
        await self._wake([item.payment_id for item in due if item not in too_old])
        return len(due)

    async def _look_after_overdue(self) -> int:
        """Payments whose result is overdue. Inquiries are not built yet: they keep a due time, and are counted."""
        overdue: list[Due] = []
        for stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT):
            overdue += await self._due.take_due(stage, limit=STEPS_MAX, next_step_in=self._terms.inquiry_interval_max)
        return len(overdue)

    async def _announce_owed(self) -> int:
        owed = await self._due.unannounced(limit=STEPS_MAX, overdue_by=ANNOUNCEMENT_OVERDUE_BY)
        if not owed or not await self._announcer.announce(owed[0]):
            return 0  # Redis is away: once is enough to know
        return 1 + sum(await asyncio.gather(*(self._announcer.announce(announcement) for announcement in owed[1:])))

    async def _change_all(self, changes: list[Change]) -> None:
        """At once, so that they share commits."""
        for result in await asyncio.gather(*(self._changes.change(change) for change in changes)):
            self._announcer.announce_soon(result)

    async def _wake(self, payment_ids: list[UUID]) -> None:
        if not payment_ids:
            return
        try:
            await self._wakeups.wake(payment_ids)
        except QueueUnavailable:
            log.warning("wakeups_postponed", payments=len(payment_ids))  # each is due again in a few seconds


def lease_expiry(payment_id: UUID) -> Change:
    """The change that ends a submission whose worker said nothing in time: it may have acted."""

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.lease_until is None or payment.lease_until > context.now:
            return Decided(payment=payment)
        fact = Fact(name=FactName.LEASE_EXPIRED, attempt_id=payment.attempt_id)
        after = payment.after(fact)
        what = fact.name if after.stage is not payment.stage else None
        return Decided(payment=after, what=what, attempt_id=payment.attempt_id)

    return Change(payment_id=payment_id, decide=decide)
