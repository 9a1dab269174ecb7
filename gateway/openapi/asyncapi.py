"""`GET /asyncapi.json`: the AsyncAPI document, where the service sends events and what they hold.

Channels, headers and closed lists are named by the code that sends, and the schemas of events and
payments are those of `/openapi.json`. The official parser checks the document in a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from domain.adapters.redis.bell import CHANNEL
from domain.events import EventType
from domain.webhooks.endpoint import TEST_EVENT_TYPE, body_of_test_event
from domain.webhooks.signing import signed_headers
from gateway.openapi import views
from gateway.openapi.document import VERSION, component_schemas
from gateway.openapi.examples import EVENT_EXAMPLES
from gateway.routes import LIST_EVENTS
from gateway.schemas.kind_schema import EXAMPLE_CREATED_AT, EXAMPLE_ID
from gateway.tail import End

_DESCRIPTION = """Events about payments. Each is one CloudEvents 1.0 object in JSON.

* An event is stored in the commit that ends or corrects a payment, and never changes: every channel
  sends the same bytes.
* An event may arrive twice, or late. `id` is unique and stable: ignore an event whose `id` you have
  seen. `sequence` grows with each event of one payment.
* Redis may lose a message. A stream and `GET /v1/events` (see `/openapi.json`) skip no event.
* Ignore members that you do not know, because we may add members."""

_SUMMARIES: Mapping[EventType, str] = {
    EventType.SUCCEEDED: "The money moved.",
    EventType.FAILED: "The payment failed. `failure` says why, and whether a new one is safe.",
    EventType.CORRECTED: "The payment had failed, and M-PESA reported later that the money moved.",
    EventType.RECEIPT_ADDED: "The receipt of a payment that had succeeded without one.",
}

_SERVERS = {
    "redis": {
        "host": "{host}",
        "protocol": "redis",
        "description": "The Redis of the service (its setting REDIS_URL).",
        "variables": {"host": {"default": "localhost:6379"}},
    },
    "web": {
        "host": "{host}",
        "protocol": "https",
        "description": "The web process. The token is that of `/openapi.json`.",
        "variables": {"host": {"default": "pay.example"}},
        "security": [{"$ref": "#/components/securitySchemes/bearer"}],
    },
    "receiver": {
        "host": "{host}",
        "protocol": "https",
        "description": "Your own server, at the URL of a webhook endpoint.",
        "variables": {"host": {"default": "shop.example.com"}},
    },
}

_STREAM = """Server-sent events: the answer to `GET /v1/events` with `Accept: text/event-stream`.
The field `data` has the message in one line. The field `id` is a cursor: send the newest one as
`Last-Event-ID` when you connect again, and you miss no event. Comments are heartbeats. A backend
gets all events, and an app's user those of its own payments."""

_WEBHOOKS = """A POST to the URL of a backend's webhook endpoint, in the form of Standard Webhooks.
The body is the event. Verify the signature over the bytes of the body. Any status from 200 to 299
accepts the message. Otherwise the service sends it again for three days. An event may arrive more
than once, and a later event of a payment before an earlier one."""

# What the headers of a webhook have. `signed_headers` writes them.
_HEADERS = {
    "webhook-id": "The event's `id`. Every message about one event has the same one.",
    "webhook-timestamp": "When this message was signed, in seconds since 1970.",
    "webhook-signature": (
        "`v1,` and the signature in base64. While a secret rotates, there are two, with a blank "
        "between them."
    ),
}

# AsyncAPI builds on draft 7 of JSON Schema. These keywords have another name there.
_DRAFT_7_NAMES = {"dependentRequired": "dependencies"}


def asyncapi_document() -> dict[str, Any]:
    """The AsyncAPI 3 document. Every call returns the same document."""
    events = {_message_name(kind): _message(kind) for kind in EventType}
    end = {"streamEnd": _stream_end()}
    webhooks = {f"{name}Webhook": _as_webhook(message) for name, message in events.items()}
    webhooks["testWebhook"] = _as_webhook(_test_message())
    schemas = component_schemas([views.Event])
    of_payment = _channel(
        f"{CHANNEL}:{{payment_id}}", "redis", "Redis pub/sub: the events of one payment.", events
    )
    of_payment["parameters"] = {
        "payment_id": {
            "description": "The payment's id.",
            "location": "$message.payload#/subject",
        }
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Mkwanja events", "version": VERSION, "description": _DESCRIPTION},
        "defaultContentType": "application/cloudevents+json",
        "servers": _SERVERS,
        "channels": {
            "allEvents": _channel(
                CHANNEL, "redis", "Redis pub/sub: the events of all payments.", events
            ),
            "eventsOfPayment": of_payment,
            "eventStream": _channel(LIST_EVENTS.path, "web", _STREAM, [*events, *end]),
            # An unknown address in AsyncAPI: each endpoint has its own URL.
            "webhooks": _channel(None, "receiver", _WEBHOOKS, webhooks),
        },
        "operations": {
            "publishAllEvents": _sending("allEvents", "Publish each event on Redis."),
            "publishEventsOfPayment": _sending(
                "eventsOfPayment", "Publish each event on the channel of its payment too."
            ),
            "streamEvents": _sending(
                "eventStream", "Send each event to the clients that stream.", LIST_EVENTS.method
            ),
            "sendWebhooks": _sending(
                "webhooks", "Send each event to the endpoints that want it.", "POST"
            ),
        },
        "components": {
            "messages": {**events, **end, **webhooks},
            "schemas": {name: _as_draft_7(schema) for name, schema in schemas.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _channel(
    address: str | None, server: str, description: str, messages: Iterable[str]
) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _sending(channel: str, summary: str, method: str | None = None) -> dict[str, Any]:
    """An operation: the service sends. In AsyncAPI 3, the described side is the one that acts.

    `method` is the method of HTTP, for a channel over HTTP.
    """
    operation: dict[str, Any] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }
    if method is not None:
        operation["bindings"] = {"http": {"method": method, "bindingVersion": "0.3.0"}}
    return operation


def _message(kind: EventType) -> dict[str, Any]:
    return {
        "name": kind.value,
        "title": kind.value,
        "summary": _SUMMARIES[kind],
        "payload": {
            "allOf": [
                {"$ref": f"#/components/schemas/{views.Event.__name__}"},
                {"properties": {"type": {"const": kind.value}}},
            ]
        },
        "examples": [{"name": "one", "payload": json.loads(EVENT_EXAMPLES[kind])}],
    }


def _message_name(kind: EventType) -> str:
    """`paymentReceiptAdded` for `mkwanja.payment.receipt_added`."""
    words = kind.value.removeprefix("mkwanja.").replace("_", ".").split(".")
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _stream_end() -> dict[str, Any]:
    return {
        "name": "end",
        "title": "The end of a stream",
        "summary": "Says why the service ends the stream. Its field `event` is `end`.",
        "contentType": "application/json",
        "payload": {
            "type": "object",
            "required": ["reason", "detail"],
            "properties": {
                "reason": {"type": "string", "enum": [end.value for end in End]},
                "detail": {"type": "string", "description": "What to do, for a person."},
            },
        },
    }


def _test_message() -> dict[str, Any]:
    """The event that a backend asks for to test its endpoint. It is about no payment."""
    example = json.loads(body_of_test_event(EXAMPLE_ID, EXAMPLE_ID, EXAMPLE_CREATED_AT))
    return {
        "name": TEST_EVENT_TYPE,
        "title": TEST_EVENT_TYPE,
        "summary": "A test of the endpoint, which a backend has asked for.",
        "payload": {
            "type": "object",
            "required": list(example),
            "properties": {
                **{name: {"type": "string"} for name in example},
                "type": {"const": TEST_EVENT_TYPE},
                "data": {
                    "type": "object",
                    "required": list(example["data"]),
                    "properties": {name: {"type": "string"} for name in example["data"]},
                },
            },
        },
        "examples": [{"name": "one", "payload": example}],
    }


def _as_webhook(message: Mapping[str, Any]) -> dict[str, Any]:
    """`message` with the headers of Standard Webhooks."""
    names = signed_headers([b""], event_id=EXAMPLE_ID, unix_seconds=0, body=b"").keys()
    headers = {name: {"type": "string", "description": _HEADERS[name]} for name in names}
    return {
        **message,
        "headers": {"type": "object", "required": list(names), "properties": headers},
    }


def _as_draft_7(schema: Any) -> Any:
    """`schema` with the names of draft 7, and without OpenAPI's own keyword `discriminator`."""
    if isinstance(schema, list):
        return [_as_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        _DRAFT_7_NAMES.get(name, name): _as_draft_7(value)
        for name, value in schema.items()
        if not (name == "discriminator" and "mapping" in value)
    }
