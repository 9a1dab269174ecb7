"""A client of the stream of events, and what a test sees of requests that wait."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.cloud_events import parse_event
from tests.spec.playing import stopped_payouts
from tests.spec.requesting import cancel
from tests.spec.system import PATIENCE_SECONDS, System

_ACCEPT = {"Accept": "text/event-stream"}


@dataclass
class Stream:
    """What a client has read of one stream. `cursors` has the `id` of each event."""

    first_id: str = ""
    cursors: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    comments: int = 0
    end: Any = None  # the data of the event `end`
    is_closed: bool = False

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    @property
    def last_id(self) -> str:
        """The value for `Last-Event-ID`."""
        return self.cursors[-1] if self.cursors else self.first_id

    def add(self, block: str) -> None:
        """Parse one block: lines `name: value` up to an empty line."""
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, separator, value = line.partition(":")
            assert separator, line
            if name:
                assert name not in fields, f"an event has two lines {name}"
                fields[name] = value.removeprefix(" ")
            else:
                self.comments += 1
        if fields.get("event") == "end":
            self.end = json.loads(fields["data"])
        elif "data" in fields:
            assert fields.keys() == {"id", "data"}, fields
            self.cursors.append(fields["id"])
            parse_event(fields["data"])
            self.events.append(json.loads(fields["data"]))
        elif "id" in fields:
            assert not self.first_id, "a second block has an id without an event"
            self.first_id = fields["id"]


@asynccontextmanager
async def streaming(
    system: System,
    token: str | None = None,
    *,
    last_id: str | None = None,
    path: str = "/v1/events",
    url: str | None = None,
) -> AsyncIterator[Stream]:
    """Read a stream during the block, as a backend unless `token` is given.

    The block begins after the first bytes of the stream.
    """
    headers = {
        **_ACCEPT,
        "Authorization": f"Bearer {token or system.stack.issuer.backend_token()}",
        **({} if last_id is None else {"Last-Event-ID": last_id}),
    }
    stream, begun = Stream(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with (
        aiohttp.ClientSession(trust_env=False, timeout=timeout) as http,
        http.get((url or system.stack.web_url) + path, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"

        async def read() -> None:
            text = b""
            async for data, _ in answer.content.iter_chunks():
                *blocks, text = (text + data).split(b"\n\n")
                for block in blocks:
                    stream.add(block.decode())
                begun.set()
            assert text == b"", "the stream ends inside a block"
            stream.is_closed = True

        reading = asyncio.create_task(read())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await begun.wait()
            yield stream
        finally:
            if not reading.done():
                reading.cancel()
            [outcome] = await asyncio.gather(reading, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome


async def cancelled_payments(system: System, count: int, **more: Any) -> list[str]:
    """Make payments and cancel them, because a cancellation needs only PostgreSQL."""
    async with stopped_payouts(system):
        payment_ids = [await system.withdrawal(**more) for _ in range(count)]
        for payment_id in payment_ids:
            (await cancel(system, payment_id)).expect(200)
    return payment_ids


async def count_waiting(system: System, what: str, name: str = "web") -> int:
    """How many requests of the web process wait: for a `payment`, or in a `stream`."""
    async with system.http.get(f"{system.stack.process(name).url}/metrics") as answer:
        text = await answer.text()
    pattern = rf'^mkwanja_waiting_requests{{what="{what}"}} ([0-9.]+)$'
    found = re.search(pattern, text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def wait_until_waiting(system: System, what: str, count: int, name: str = "web") -> None:
    """Wait until so many requests of the web process wait."""
    await system.eventually(
        lambda: count_waiting(system, what, name),
        lambda waiting: waiting == count,
        f"{count} requests wait ({what})",
    )
