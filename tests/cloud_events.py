"""Reads events with the official package of CloudEvents, which rejects what is no CloudEvent."""

from __future__ import annotations

import json
from datetime import timedelta

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from domain.events import EventType
from domain.views import EVENT_SOURCE


def parse_cloud_event(body: bytes | str) -> CloudEvent:
    """The event in `body`. Fails if `body` is no CloudEvent 1.0 with JSON and a time in UTC."""
    event = JSONFormat().read(CloudEvent, body)
    assert isinstance(event, CloudEvent)
    attributes = json.loads(body)
    data = attributes.pop("data")
    time = event.get_time()
    assert time is not None
    assert time.utcoffset() == timedelta(0)
    # The package reads no more and no less than the event has.
    assert event.get_attributes() == {**attributes, "time": time}
    assert event.get_data() == data
    assert event.get_specversion() == "1.0"
    assert event.get_datacontenttype() == "application/json"
    return event


def parse_event(body: bytes | str) -> CloudEvent:
    """The event about a payment in `body`. Fails if `body` is no such event."""
    event = parse_cloud_event(body)
    assert event.get_source() == EVENT_SOURCE
    assert event.get_type() in set(EventType)
    assert event.get_subject() == json.loads(body)["data"]["id"]
    sequence = event.get_extension("sequence")
    assert isinstance(sequence, int)
    # CloudEvents §Integer: the type of an attribute has 32 bits.
    assert 0 < sequence < 2**31
    return event
