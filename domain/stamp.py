"""Completes a changed payment before it is stored: adds ids, sets times, and ends its lease.

Pure, so that every store of payments (PostgreSQL, or a test's memory) can use this one function.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from domain.attempts import ProviderIds
from domain.inquiry import next_inquiry_after_silence_at
from domain.payment import Payment
from domain.stages import Stage


def stamp_change(
    before: Payment,
    decided: Payment,
    *,
    attempt_id: UUID | None,
    new_ids: ProviderIds,
    now: datetime,
) -> Payment:
    """Returns `decided` as it is stored at `now`, with `new_ids` added to attempt `attempt_id`.

    Returns `before` itself if nothing changed.
    """
    after = _with_ids(decided, attempt_id, new_ids)
    if after == before:
        return before
    after = replace(
        after,
        updated_at=now,
        lease_until=after.lease_until if after.stage is Stage.SUBMITTING else None,
    )
    if not after.stage.is_final:
        return after
    if after.finalized_at is None:
        after = replace(after, finalized_at=now)
    can_be_asked_now = before.inquiry_step is None and after.inquiry_step is not None
    if after.stage is not before.stage or (can_be_asked_now and after.next_step_at is None):
        # Of the final payments, only a deposit that failed for silence gets another inquiry here.
        after = replace(after, next_step_at=next_inquiry_after_silence_at(after, now))
    return after if after.inquiry_step is not None else replace(after, next_step_at=None)


def _with_ids(payment: Payment, attempt_id: UUID | None, ids: ProviderIds) -> Payment:
    """Returns `payment` with `ids` added to attempt `attempt_id`."""
    return replace(
        payment,
        attempts=tuple(
            replace(attempt, provider_ids=attempt.provider_ids | ids)
            if attempt.id == attempt_id
            else attempt
            for attempt in payment.attempts
        ),
    )
