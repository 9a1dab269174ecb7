"""Endpoints, the deliveries of events to them, and the attempts of each delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from domain.views import json_text, timestamp

ENDPOINTS_PER_CALLER_MAX = 20
DESCRIPTION_LENGTH_MAX = 200

# The bytes of an answer that are stored.
ANSWER_BYTES_MAX = 1024

# For this long after a rotation, messages have a signature by the old secret too.
ROTATION = timedelta(hours=24)

TEST_EVENT_TYPE = "mkwanja.test"
_TEST_EVENT_SOURCE = "/mkwanja/webhooks"


class EndpointStatus(StrEnum):
    """Whether an endpoint gets messages. The service pauses an endpoint that fails for days."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PAUSED = "paused"


class StatusReason(StrEnum):
    """Why an endpoint is not enabled."""

    BY_CALLER = "disabled_by_caller"
    BY_OPERATOR = "disabled_by_operator"
    GONE = "answered_410"
    FAILING = "failed_for_days"


class DeliveryStatus(StrEnum):
    """Whether the endpoint got the event. `failed`: the service has given up."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Cause(StrEnum):
    """Why there is a delivery: a new event, a test, or a request to send an event again."""

    EVENT = "event"
    TEST = "test"
    REDELIVERY = "redelivery"


class AttemptOutcome(StrEnum):
    """How an attempt ended. Only an answer with a status 2xx delivers the event."""

    DELIVERED = "delivered"
    ERROR_STATUS = "error_status"
    REDIRECT = "redirect"
    GONE = "gone"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    NAME_NOT_RESOLVED = "name_not_resolved"
    TLS_FAILED = "tls_failed"
    BROKEN_ANSWER = "broken_answer"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a backend wants to get events. `event_types` of None: all events."""

    id: UUID
    url: str
    event_types: Sequence[str] | None
    description: str | None
    status: EndpointStatus
    status_reason: StatusReason | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request to an endpoint, and the beginning of its answer."""

    number: int
    attempted_at: datetime
    outcome: AttemptOutcome
    http_status: int | None
    milliseconds: int
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one endpoint. `number` counts the deliveries of the endpoint."""

    endpoint_id: UUID
    number: int
    cause: Cause
    event_id: UUID
    event_type: str
    payment_id: UUID | None
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: tuple[Attempt, ...] = ()


def outcome_of_status(http_status: int) -> AttemptOutcome:
    """What an answer with this status means."""
    if 200 <= http_status < 300:
        return AttemptOutcome.DELIVERED
    if 300 <= http_status < 400:
        return AttemptOutcome.REDIRECT
    return AttemptOutcome.GONE if http_status == 410 else AttemptOutcome.ERROR_STATUS


def body_of_test_event(event_id: UUID, endpoint_id: UUID, at: datetime) -> str:
    """The CloudEvents message of a test. It is about no payment."""
    return json_text(
        {
            "specversion": "1.0",
            "id": str(event_id),
            "source": _TEST_EVENT_SOURCE,
            "type": TEST_EVENT_TYPE,
            "subject": str(endpoint_id),
            "time": timestamp(at),
            "datacontenttype": "application/json",
            "data": {"webhook_endpoint": str(endpoint_id)},
        }
    )
