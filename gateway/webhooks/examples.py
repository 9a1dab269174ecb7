"""Examples of bodies and answers for `/openapi.json`, by the name of their route."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from domain.events import EventType
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
from domain.webhooks.signing import KEY_BYTES, secret_text, signed_headers
from gateway.schemas.kind_schema import EXAMPLE_CREATED_AT, EXAMPLE_ID
from gateway.webhooks.views import public_delivery, public_endpoint

_LATER = EXAMPLE_CREATED_AT + timedelta(seconds=9)
_ENDPOINT = Endpoint(
    id=EXAMPLE_ID,
    url="https://shop.example.com/webhooks",
    event_types=[EventType.SUCCEEDED, EventType.CORRECTED],
    description="The shop",
    status=EndpointStatus.ENABLED,
    status_reason=None,
    failing_since=None,
    created_at=EXAMPLE_CREATED_AT,
    updated_at=EXAMPLE_CREATED_AT,
)
_SHOWN = public_endpoint(_ENDPOINT)
_WITH_SECRET = {**_SHOWN, "secret": secret_text(bytes(KEY_BYTES))}
_DISABLED = {
    **_SHOWN,
    "status": EndpointStatus.DISABLED.value,
    "status_reason": StatusReason.BY_CALLER.value,
}
_NEW = Delivery(
    endpoint_id=EXAMPLE_ID,
    number=1,
    cause=Cause.EVENT,
    event_id=UUID(int=EXAMPLE_ID.int + 2),
    event_type=EventType.SUCCEEDED,
    payment_id=EXAMPLE_ID,
    status=DeliveryStatus.PENDING,
    created_at=_LATER,
    next_attempt_at=_LATER,
)
_DELIVERED = Delivery(
    endpoint_id=EXAMPLE_ID,
    number=1,
    cause=Cause.EVENT,
    event_id=_NEW.event_id,
    event_type=EventType.SUCCEEDED,
    payment_id=EXAMPLE_ID,
    status=DeliveryStatus.DELIVERED,
    created_at=_LATER,
    next_attempt_at=None,
    attempts=(
        Attempt(
            number=1,
            attempted_at=_LATER,
            outcome=AttemptOutcome.DELIVERED,
            http_status=200,
            milliseconds=41,
            answer=b"ok",
        ),
    ),
)

WEBHOOK_EXAMPLE_HEADERS = signed_headers(
    [bytes(KEY_BYTES)],
    event_id=_NEW.event_id,
    unix_seconds=int(_LATER.timestamp()),
    body=b"{}",
)

BODY_EXAMPLES: Mapping[str, dict[str, Any]] = {
    "createWebhookEndpoint": {
        "all_events": {"url": _ENDPOINT.url},
        "some_events": {
            "url": _ENDPOINT.url,
            "event_types": _SHOWN["event_types"],
            "description": _ENDPOINT.description,
        },
    },
    "changeWebhookEndpoint": {"disable": {"status": "disabled"}, "all": {"event_types": None}},
}
ANSWER_EXAMPLES: Mapping[str, dict[str, Any]] = {
    "createWebhookEndpoint": {"created": _WITH_SECRET},
    "listWebhookEndpoints": {"one": {"items": [_SHOWN]}},
    "readWebhookEndpoint": {"enabled": _SHOWN},
    "changeWebhookEndpoint": {"disabled": _DISABLED},
    "rotateWebhookSecret": {"rotated": _WITH_SECRET},
    "testWebhookEndpoint": {
        "queued": {
            **public_delivery(_NEW),
            "cause": Cause.TEST.value,
            "event_type": "mkwanja.test",
            "payment_id": None,
        }
    },
    "listWebhookDeliveries": {
        "delivered": {"items": [public_delivery(_DELIVERED)], "next_cursor": None}
    },
    "redeliverWebhook": {
        "queued": {**public_delivery(_NEW), "number": 2, "cause": Cause.REDELIVERY.value}
    },
}
