"""Which clients of the feed get a stream, and which get JSON."""

from __future__ import annotations

import pytest

from gateway.edge.requests import prefers_event_stream


@pytest.mark.parametrize(
    "accept",
    [
        ["text/event-stream"],
        ["Text/Event-Stream; charset=utf-8"],
        ["text/event-stream, */*"],
        ["*/*", "text/event-stream"],
        ["text/event-stream;q=0.9, application/json;q=0.5"],
        ["application/json;q=0.1,text/event-stream;q=0.2"],
        ["text/event-stream;q=0.5, */*;q=0.1"],
    ],
)
def test_a_client_that_prefers_a_stream_gets_it(accept: list[str]) -> None:
    assert prefers_event_stream(accept)


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        ["*/*"],
        ["text/*"],
        ["application/json"],
        ["application/json, text/event-stream"],
        ["text/event-stream;q=0"],
        ["text/event-stream;q=nan"],
        ["text/event-stream;q=2"],
        ["text/event-stream;q=x"],
        ["text/event-stream;q=0.5, */*"],
        ["text/event-stream;q=0.5, application/json"],
        ["text/event-streams"],
        [",;,;q=1"],
    ],
)
def test_every_other_client_gets_json(accept: list[str]) -> None:
    assert not prefers_event_stream(accept)
