"""The events that are published to subscribers. `views.py` has their content."""

from __future__ import annotations

from enum import StrEnum

from domain.payment import Payment
from domain.stages import Stage


class EventType(StrEnum):
    """The event types that subscribers may rely on (/openapi.json lists them)."""

    SUCCEEDED = "mkwanja.payment.succeeded"
    FAILED = "mkwanja.payment.failed"
    CORRECTED = "mkwanja.payment.corrected"
    RECEIPT_ADDED = "mkwanja.payment.receipt_added"


def event_type(before: Payment, after: Payment) -> EventType | None:
    """The event for the change from `before` to `after`, or None if it makes no event."""
    if before.stage is Stage.FAILED and after.stage is Stage.SUCCEEDED:
        return EventType.CORRECTED
    if not before.stage.is_final and after.stage is Stage.SUCCEEDED:
        return EventType.SUCCEEDED
    if not before.stage.is_final and after.stage is Stage.FAILED:
        return EventType.FAILED
    if before.stage is Stage.SUCCEEDED and before.receipt is None and after.receipt is not None:
        return EventType.RECEIPT_ADDED
    return None
