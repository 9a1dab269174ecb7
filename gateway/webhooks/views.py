"""What backends see of an endpoint and of its deliveries: the writers, and their models."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from domain.views import timestamp
from domain.webhooks.endpoint import (
    Attempt,
    AttemptOutcome,
    Cause,
    Delivery,
    DeliveryStatus,
    Endpoint,
    EndpointStatus,
    StatusReason,
)
from gateway.fields import ITEMS_MAX, DeliveryCursor


class WebhookEndpoint(BaseModel):
    """An endpoint that gets events. Its secret is shown only when it is new."""

    id: UUID
    url: str
    event_types: list[str] | None = Field(description="The types that it gets. Null: all.")
    description: str | None
    status: EndpointStatus
    status_reason: StatusReason | None = Field(description="Null while the endpoint is enabled.")
    failing_since: datetime | None = Field(
        description=(
            "The first failure since the last success, or since a change of `status` by a call."
            " Null: no attempt has failed since."
        )
    )
    created_at: datetime
    updated_at: datetime


class WebhookEndpointWithSecret(WebhookEndpoint):
    """An endpoint with its new secret. No later answer shows this secret."""

    secret: str = Field(
        pattern="^whsec_[A-Za-z0-9+/]+=*$",
        description="The key of the signatures, in the form of Standard Webhooks.",
    )


class WebhookEndpointList(BaseModel):
    """The caller's endpoints, oldest first."""

    items: list[WebhookEndpoint]


class WebhookAttempt(BaseModel):
    """One request to the endpoint."""

    number: int = Field(ge=1)
    at: datetime
    outcome: AttemptOutcome
    http_status: int | None = Field(description="Null: there was no answer.")
    milliseconds: int = Field(ge=0, description="From the lookup of the name to the answer.")
    answer: str = Field(description="The first kilobyte of the answer's body.")


class WebhookDelivery(BaseModel):
    """One event on its way to an endpoint."""

    number: int = Field(ge=1, description="Counts the deliveries of the endpoint.")
    cause: Cause
    event_id: UUID = Field(description="The `webhook-id` of the message.")
    event_type: str
    payment_id: UUID | None = Field(description="Null for a test.")
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="Null: there will be no attempt.")
    attempts: list[WebhookAttempt] = Field(description="Oldest first.")


class WebhookDeliveryPage(BaseModel):
    """Deliveries, newest first."""

    items: list[WebhookDelivery] = Field(max_length=ITEMS_MAX)
    next_cursor: DeliveryCursor | None = Field(
        description="Where the next page begins. Null: this is the last page."
    )


def public_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """The members of `WebhookEndpoint`."""
    reason = endpoint.status_reason
    return {
        "id": str(endpoint.id),
        "url": endpoint.url,
        "event_types": list(endpoint.event_types) if endpoint.event_types is not None else None,
        "description": endpoint.description,
        "status": endpoint.status.value,
        "status_reason": reason.value if reason is not None else None,
        "failing_since": _timestamp_or_none(endpoint.failing_since),
        "created_at": timestamp(endpoint.created_at),
        "updated_at": timestamp(endpoint.updated_at),
    }


def public_delivery(delivery: Delivery) -> dict[str, Any]:
    """The members of `WebhookDelivery`."""
    return {
        "number": delivery.number,
        "cause": delivery.cause.value,
        "event_id": str(delivery.event_id),
        "event_type": delivery.event_type,
        "payment_id": str(delivery.payment_id) if delivery.payment_id is not None else None,
        "status": delivery.status.value,
        "created_at": timestamp(delivery.created_at),
        "next_attempt_at": _timestamp_or_none(delivery.next_attempt_at),
        "attempts": [_public_attempt(attempt) for attempt in delivery.attempts],
    }


def _public_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": timestamp(attempt.attempted_at),
        "outcome": attempt.outcome.value,
        "http_status": attempt.http_status,
        "milliseconds": attempt.milliseconds,
        "answer": attempt.answer.decode(errors="replace"),
    }


def _timestamp_or_none(at: datetime | None) -> str | None:
    return timestamp(at) if at is not None else None
