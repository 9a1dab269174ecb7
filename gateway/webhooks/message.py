"""The message to an endpoint, for the part `webhooks` of `/openapi.json`."""

from __future__ import annotations

from typing import Any

from gateway.webhooks.examples import WEBHOOK_EXAMPLE_HEADERS

_DESCRIPTIONS = {
    "webhook-id": "The `id` of the event. Every message about one event has the same one.",
    "webhook-timestamp": "When the message was signed, in seconds since 1970.",
    "webhook-signature": (
        "`v1,` and the signature in base64. While a secret rotates: two of these, with a blank "
        "between them."
    ),
}

_DESCRIPTION = (
    "Signed as Standard Webhooks. Verify the signature over the bytes of the body. An event may "
    "arrive more than once, and a later one before an earlier one. A test has the type "
    "`mkwanja.test`, and no payment."
)


def describe_message(event_schema: dict[str, Any]) -> dict[str, Any]:
    """The message as an OpenAPI path item."""
    parameters = [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": _DESCRIPTIONS[name],
            "schema": {"type": "string"},
            "example": example,
        }
        for name, example in WEBHOOK_EXAMPLE_HEADERS.items()
    ]
    operation = {
        "operationId": "receiveEvent",
        "tags": ["Webhooks"],
        "summary": "An event, sent to your endpoint",
        "description": _DESCRIPTION,
        "security": [],
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {"application/cloudevents+json": {"schema": event_schema}},
        },
        "responses": {
            "2XX": {"description": "You have the event. It is not sent again."},
            "410": {"description": "The service disables the endpoint."},
            "default": {"description": "The service sends the event again later."},
        },
    }
    return {"post": operation}
