"""Gives a payment its next step now, because an operator asks for it.

The change moves only the due time of the step that is planned anyway. The claim, the inquiry and
the sweeper check the same conditions as always, so the change can pay nothing twice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from uuid import UUID

from domain.changes import Change, Context, Decided, HistoryEntry, NewEntry
from domain.errors import ResolutionRefused
from domain.payment import Payment
from domain.stages import Stage


def requeue_change(payment_id: UUID, *, reason: str, operator: str) -> Change:
    """The change that makes the payment's next step due now.

    Raises ResolutionRefused if there is no such payment, if no step is planned, or if the step is
    not one that may come sooner. The error says what to do instead.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        _refuse_without_step(payment)
        step = payment.next_step
        assert step is not None  # noqa: S101 - just checked
        detail = {"reason": reason, "operator": operator, "step": step.value}
        return Decided(
            payment=replace(payment, next_step_at=context.now),
            entry=NewEntry(HistoryEntry.REQUEUED, detail),
        )

    return Change(payment_id=payment_id, decide=decide)


def _refuse_without_step(payment: Payment) -> None:
    if payment.next_step is None:
        raise ResolutionRefused(
            "The payment is final, and no step is planned. To inquire once more, use `ask`."
        )
    if payment.stage is Stage.SUBMITTING:
        lease_end = payment.lease_until or payment.next_step_at
        assert lease_end is not None  # noqa: S101 - a payment in this stage has a lease
        raise ResolutionRefused(
            "A worker is sending the payment. The sweeper looks at it when the lease ends, at "
            f"{lease_end.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC. If that time is over, no worker "
            "process runs."
        )
    if payment.stage is Stage.ACCEPTED and payment.needs_review:
        raise ResolutionRefused(
            "The payment is flagged for review, so no worker sends it. Decide by `resolve`."
        )
