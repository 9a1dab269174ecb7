"""Completes a changed payment before it is stored: adds ids, sets times, and ends its lease.

Pure, so that every store of payments (PostgreSQL, or a test's memory) can use this one function.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.attempts import ProviderIds
from domain.inquiry import next_inquiry_after_silence_at
from domain.payment import Payment
from domain.records import replace
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
    after = _with_ids(decided, attempt_id, new_ids) if new_ids else decided
    if after == before:
        return before
    if not after.stage.is_final:
        is_claimed = after.stage is Stage.SUBMITTING
        return replace(after, updated_at=now, lease_until=after.lease_until if is_claimed else None)
    inquiry_step, next_step_at = after.inquiry_step, after.next_step_at
    can_be_asked_now = before.inquiry_step is None and inquiry_step is not None
    if after.stage is not before.stage or (can_be_asked_now and next_step_at is None):
        # Of the final payments, only a deposit that failed for silence gets another inquiry here.
        next_step_at = next_inquiry_after_silence_at(after, now)
    return replace(
        after,
        updated_at=now,
        lease_until=None,
        finalized_at=after.finalized_at or now,
        next_step_at=next_step_at if inquiry_step is not None else None,
    )


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
