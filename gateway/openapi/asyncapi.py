"""`GET /asyncapi.json`: the AsyncAPI document, where the service sends events and what they hold.

Channels are named by the adapter that publishes, and the schemas of events and payments are those
of `/openapi.json`. The official parser checks the document in a test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from domain.adapters.redis.bell import CHANNEL
from domain.events import EventType
from gateway.openapi import views
from gateway.openapi.document import VERSION, component_schemas
from gateway.openapi.examples import EVENT_EXAMPLES

_DESCRIPTION = """Events about payments. Each is one CloudEvents 1.0 object in JSON.

* An event is stored in the commit that ends or corrects a payment, and never changes: every channel
  sends the same bytes.
* An event may arrive twice, or late. `id` is unique and stable: ignore an event whose `id` you have
  seen. `sequence` grows with each event of one payment.
* Redis may lose a message. `GET /v1/events` (see `/openapi.json`) skips no event.
* Ignore members that you do not know, because we may add members."""

_SUMMARIES: Mapping[EventType, str] = {
    EventType.SUCCEEDED: "The money moved.",
    EventType.FAILED: "The payment failed. `failure` says why, and whether a new one is safe.",
    EventType.CORRECTED: "The payment had failed, and M-PESA reported later that the money moved.",
    EventType.RECEIPT_ADDED: "The receipt of a payment that had succeeded without one.",
}

# AsyncAPI builds on draft 7 of JSON Schema. These keywords have another name there.
_DRAFT_7_NAMES = {"dependentRequired": "dependencies"}


def asyncapi_document() -> dict[str, Any]:
    """The AsyncAPI 3 document. Every call returns the same document."""
    messages = {_message_name(kind): _message(kind) for kind in EventType}
    schemas = component_schemas([views.Event])
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Mkwanja events", "version": VERSION, "description": _DESCRIPTION},
        "defaultContentType": "application/cloudevents+json",
        "servers": {
            "redis": {
                "host": "{host}",
                "protocol": "redis",
                "description": "The Redis of the service (its setting REDIS_URL).",
                "variables": {"host": {"default": "localhost:6379"}},
            }
        },
        "channels": {
            "allEvents": _redis_channel(
                CHANNEL, "The events of all payments.", messages, parameters={}
            ),
            "eventsOfPayment": _redis_channel(
                f"{CHANNEL}:{{payment_id}}",
                "The events of one payment.",
                messages,
                parameters={
                    "payment_id": {
                        "description": "The payment's id.",
                        "location": "$message.payload#/subject",
                    }
                },
            ),
        },
        "operations": {
            "publishAllEvents": _sending("allEvents", "Publish each event on Redis."),
            "publishEventsOfPayment": _sending(
                "eventsOfPayment", "Publish each event on the channel of its payment too."
            ),
        },
        "components": {
            "messages": messages,
            "schemas": {name: _as_draft_7(schema) for name, schema in schemas.items()},
        },
    }


def _redis_channel(
    address: str, description: str, messages: Mapping[str, Any], *, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": address,
        "description": f"{description} A Redis pub/sub channel.",
        "servers": [{"$ref": "#/servers/redis"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    if parameters:
        channel["parameters"] = dict(parameters)
    return channel


def _sending(channel: str, summary: str) -> dict[str, Any]:
    """An operation: the service sends. In AsyncAPI 3, the described side is the one that acts."""
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }


def _message(kind: EventType) -> dict[str, Any]:
    example = json.loads(EVENT_EXAMPLES[kind])
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
        "examples": [{"name": "one", "payload": example}],
    }


def _message_name(kind: EventType) -> str:
    """`paymentReceiptAdded` for `mkwanja.payment.receipt_added`."""
    words = kind.value.removeprefix("mkwanja.").replace("_", ".").split(".")
    return words[0] + "".join(word.capitalize() for word in words[1:])


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
