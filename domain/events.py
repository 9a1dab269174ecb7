"""What the world is told of a payment: the public Payment, and the event of a finalization.

Pure. An event's body is made once, in the commit that finalizes, and repeated byte for byte ever after: so it is text
here, and nothing downstream renders it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from domain.payment import Payment
from domain.stages import Stage

EVENT_SOURCE = "/mkwanja/payments"

# The text of a refusal, in a history entry. It may name our settings at Daraja.
PROVIDER_SAID = "provider_said"

# All other details are for backends. A detail may name an operator, and what a person wrote may name anyone.
_DETAILS_FOR_USERS = frozenset({"provider_code", "error", "by"})


class EventType(StrEnum):
    """The types that subscribers may rely on (interface.md, "Events")."""

    SUCCEEDED = "mkwanja.payment.succeeded"
    FAILED = "mkwanja.payment.failed"
    CORRECTED = "mkwanja.payment.corrected"
    RECEIPT_ADDED = "mkwanja.payment.receipt_added"


def event_type(before: Payment, after: Payment) -> EventType | None:
    """Which event the change from `before` to `after` is, or None where subscribers were told nothing else."""
    if before.stage is Stage.FAILED and after.stage is Stage.SUCCEEDED:
        return EventType.CORRECTED
    if not before.stage.is_final and after.stage is Stage.SUCCEEDED:
        return EventType.SUCCEEDED
    if not before.stage.is_final and after.stage is Stage.FAILED:
        return EventType.FAILED
    if before.stage is Stage.SUCCEEDED and before.receipt is None and after.receipt is not None:
        return EventType.RECEIPT_ADDED
    return None


def event_body(kind: EventType, *, event_id: UUID, payment: Payment, at: datetime) -> str:
    """The CloudEvents 1.0 message about `payment` as it now stands."""
    return json_text(
        {
            "specversion": "1.0",
            "id": str(event_id),
            "source": EVENT_SOURCE,
            "type": kind.value,
            "subject": str(payment.id),
            "time": timestamp(at),
            "sequence": payment.sequence,
            "datacontenttype": "application/json",
            "data": public_payment(payment),
        }
    )


def public_payment(payment: Payment, *, for_backend: bool = False) -> dict[str, Any]:
    """The Payment of interface.md. A backend also sees the key, the recipient's name and the provider's ids."""
    view: dict[str, Any] = {
        "id": str(payment.id),
        "kind": payment.kind.value,
        "status": payment.stage.public_status,
        "stage": payment.stage.value,
        "amount": payment.amount_kes,
        "amount_settled": payment.amount_settled_kes,
        "currency": "KES",
        **_parties(payment),
        "owner": payment.owner,
        "metadata": dict(payment.metadata),
        "receipt": payment.receipt,
        "failure": None,
        "needs_review": payment.needs_review,
        "created_at": timestamp(payment.created_at),
        "updated_at": timestamp(payment.updated_at),
        "finalized_at": timestamp(payment.finalized_at) if payment.finalized_at else None,
    }
    if payment.failure is not None:
        view["failure"] = {
            "reason": payment.failure.reason.value,
            "message": payment.failure.message,
            "provider_code": payment.failure.provider_code,
            "safe_to_retry": payment.failure.safe_to_retry,
        }
    if for_backend:
        view["idempotency_key"] = payment.idempotency_key
        view["recipient_name"] = payment.recipient_name
        view["provider_ids"] = _provider_ids(payment)
    return view


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a payment's history."""

    sequence: int
    recorded_at: datetime
    what: str
    previous_stage: str | None
    stage: str
    detail: Mapping[str, str]


def public_entry(entry: Entry, *, for_backend: bool = False) -> dict[str, Any]:
    """An entry of the history as callers see it. A user sees that an operator decided, but not the name and the reason."""
    detail = {key: value for key, value in entry.detail.items() if for_backend or key in _DETAILS_FOR_USERS}
    return {
        "sequence": entry.sequence,
        "at": timestamp(entry.recorded_at),
        "what": entry.what,
        "previous_stage": entry.previous_stage,
        "stage": entry.stage,
        "detail": detail,
    }


def _parties(payment: Payment) -> dict[str, Any]:
    """Who pays whom, in the fields of the payment's kind."""
    parties = {name: value for name in payment.rules.parties if (value := getattr(payment, name)) is not None}
    return parties | {name: getattr(payment, name) for name, _ in payment.rules.texts}


def _provider_ids(payment: Payment) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for attempt in payment.attempts:
        for id_kind, value in sorted(attempt.provider_ids):
            ids.setdefault(id_kind.value, []).append(value)
    return ids


def timestamp(at: datetime) -> str:
    """`at` in UTC with milliseconds, as every answer and event writes a time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def json_text(value: object) -> str:
    """`value` as compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
