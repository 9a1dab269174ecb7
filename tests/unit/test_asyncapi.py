"""The AsyncAPI document is valid by its official parser, and describes every event."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from uuid import UUID

import pytest
from jsonschema_rs import Draft7Validator

from domain.events import EventType
from domain.kinds import Kind
from domain.stages import Stage
from domain.views import event_body
from domain.webhooks.endpoint import TEST_EVENT_TYPE, body_of_test_event
from domain.webhooks.signing import signed_headers
from gateway.openapi.asyncapi import asyncapi_document
from gateway.openapi.document import document
from tests.builders import NOW, a_payment
from tests.case_tables import for_each
from tests.node.packages import HERE, node_packages

# As a client gets it.
DOCUMENT: Any = json.loads(json.dumps(asyncapi_document()))
SCHEMAS = DOCUMENT["components"]["schemas"]

_REMARK = 2  # 0 is an error, and 1 a warning
_NEWER_VERSION = "The latest version of AsyncAPi is not used."


def _parse(text: str) -> Any:
    """What the official parser finds: its version, its findings, and the channels with messages."""
    command = ["node", str(HERE / "parse_asyncapi.mjs"), str(node_packages())]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_official_parser_accepts_the_document_and_reads_every_channel() -> None:
    """It finds no error and no warning. One remark is that a newer version of AsyncAPI exists."""
    parsed = _parse(json.dumps(DOCUMENT))
    findings = [one for one in parsed["findings"] if not one["message"].startswith(_NEWER_VERSION)]
    assert findings == []
    assert parsed["version"] == "3.0.0"
    channels = {
        # The address of a webhook is known to its receiver only.
        channel["address"] or name
        for name, channel in DOCUMENT["channels"].items()
    }
    on_redis = {"payment-events", "payment-events:{payment_id}"}
    assert channels == {*on_redis, "/v1/events", "webhooks"}
    assert parsed["channels"].keys() == channels
    for names in parsed["channels"].values():
        assert set(names) >= {kind.value for kind in EventType}


@pytest.mark.whole
def test_the_official_parser_finds_a_fault() -> None:
    """An operation of a channel that does not exist, and a schema that is none."""
    lost, wrong = json.loads(json.dumps(DOCUMENT)), json.loads(json.dumps(DOCUMENT))
    next(iter(lost["operations"].values()))["channel"]["$ref"] = "#/channels/nowhere"
    wrong["components"]["schemas"]["Failure"]["type"] = "record"
    for broken in (lost, wrong):
        findings = _parse(json.dumps(broken))["findings"]
        assert any(finding["severity"] < _REMARK for finding in findings), findings


@for_each("kind", EventType)
def test_each_event_is_as_its_message_describes(kind: EventType) -> None:
    """About a payment of each kind in each stage. An event of another type is not as described."""
    on_redis, as_webhook = [
        message
        for message in DOCUMENT["components"]["messages"].values()
        if message["name"] == kind.value
    ]
    assert as_webhook["payload"] == on_redis["payload"]
    validator = _validator(on_redis["payload"])
    (example,) = on_redis["examples"]
    assert validator.is_valid(example["payload"])
    for payment_kind in Kind:
        for stage in Stage:
            payment = a_payment(kind=payment_kind, stage=stage)
            for other in EventType:
                body = event_body(other, event_id=UUID(int=1), payment=payment, at=NOW)
                event = json.loads(body)
                assert validator.is_valid(event) == (other is kind), (other, payment_kind, stage)
                del event["data"]["status"]
                assert not validator.is_valid(event)


def test_the_message_of_a_webhook_is_as_described() -> None:
    """It has the headers of Standard Webhooks. The event of a test is a message of its own."""
    webhooks = [
        message for message in DOCUMENT["components"]["messages"].values() if "headers" in message
    ]
    assert {message["name"] for message in webhooks} == {*EventType, TEST_EVENT_TYPE}
    body = body_of_test_event(UUID(int=1), UUID(int=2), NOW)
    headers = signed_headers([b"k"], event_id=UUID(int=1), unix_seconds=5, body=body.encode())
    for message in webhooks:
        assert _validator(message["headers"]).is_valid(headers)
        for name in headers:
            others = {other: headers[other] for other in headers if other != name}
            assert not _validator(message["headers"]).is_valid(others)
        is_test = message["name"] == TEST_EVENT_TYPE
        assert _validator(message["payload"]).is_valid(json.loads(body)) == is_test


def _validator(schema: Any) -> Draft7Validator:
    root = {"components": DOCUMENT["components"], **schema}
    return Draft7Validator(root, validate_formats=True)


def test_events_have_the_same_schemas_as_in_the_openapi_document() -> None:
    """Only the keywords differ that draft 7 of JSON Schema names otherwise or does not have."""
    theirs = json.loads(json.dumps(document()))["components"]["schemas"]
    assert (
        {"Event", "Payment", "Deposit", "BillPayment", "Failure"} <= SCHEMAS.keys() <= theirs.keys()
    )
    for name, schema in SCHEMAS.items():
        renamed = json.dumps(theirs[name]).replace('"dependentRequired"', '"dependencies"')
        expected = json.loads(renamed)
        expected.pop("discriminator", None)
        assert schema == expected, name
