"""One stream of events on our own server: heartbeats, slow readers, and every end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from domain.adapters.postgres.feed import FeedPlace, ListedEvent
from domain.errors import StoreUnavailable, Unauthenticated
from gateway import event_stream
from gateway.edge.answers import ROUTE
from gateway.edge.connections import Connections
from gateway.edge.problems import answer_with_problems
from gateway.edge.serving import listen
from gateway.event_stream import EventStream
from gateway.tail import QUEUE_MAX, End, Frame, Subscription
from tests.integration.conftest import PATIENCE_SECONDS, until
from tests.stack.ports import release_port, reserve_port

_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_LARGE = "x" * 4000


def event(position: int, body: str = "{}") -> ListedEvent:
    return ListedEvent(position, f"{position:012x}", None, UUID(int=position), body)


def frames(first: int, last: int, body: str = "{}") -> list[Frame]:
    return [Frame(event(position, body)) for position in range(first, last + 1)]


class Served:
    """A server whose every request is a stream of `subscription`."""

    def __init__(self) -> None:
        self.subscription = Subscription()
        self.connections = Connections()
        self.expires_at = time.time() + 3600
        self.refusal: Exception | None = None
        self.pages: Callable[[int, int], Sequence[ListedEvent]] = lambda _after, _limit: []
        self.has_ended = asyncio.Event()
        self.port = reserve_port()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        request[ROUTE] = "/"

        async def read_page(after: int, limit: int) -> Sequence[ListedEvent]:
            return self.pages(after, limit)

        async def reauthenticate() -> None:
            if self.refusal is not None:
                raise self.refusal

        stream = EventStream(
            self.subscription,
            FeedPlace(),
            read_page=read_page,
            reauthenticate=reauthenticate,
            expires_at=self.expires_at,
        )
        try:
            return await stream.send(request)
        finally:
            self.has_ended.set()

    @asynccontextmanager
    async def opened(self, *, receive_bytes: int | None = None) -> AsyncIterator[Any]:
        """A client that has sent its request. It reads only if the test does."""
        raw = socket.socket()
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
        writer.write(_REQUEST)
        try:
            yield reader
        finally:
            writer.transport.abort()

    async def text(self) -> str:
        """All that the stream sends until its end."""
        async with self.opened() as reader, asyncio.timeout(PATIENCE_SECONDS):
            text: bytes = await reader.read(-1)
        return text.decode()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    app = web.Application(middlewares=[answer_with_problems])
    app.router.add_get("/", served.handle)
    async with listen(app, served.port, served.connections, cancels_abandoned=True):
        yield served
        served.subscription.finish(End.SHUTDOWN)
    release_port(served.port)


def positions(text: str) -> list[int]:
    """The positions of all events, in order."""
    ids = [line for line in text.splitlines() if line.startswith("id: events-")]
    return [int(line.split("-")[1]) for line in ids[1:]]


def end_of(text: str) -> str:
    assert text.endswith("\n\n\r\n0\r\n\r\n"), text[-200:]
    [end] = [block for block in text.split("\n\n") if "event: end" in block]
    return end


async def test_a_stream_sends_a_heartbeat_again_and_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.01)
    async with served.opened() as reader, asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(3):
            await reader.readuntil(b"\n: heartbeat\n\n")


async def test_a_stream_ends_when_its_token_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each heartbeat checks the token again, because its key may be withdrawn."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.01)
    served.refusal = Unauthenticated()
    assert '"reason":"token_refused"' in end_of(await served.text())


async def test_a_stream_ends_when_its_token_has_expired(served: Served) -> None:
    served.expires_at = time.time()
    assert '"reason":"token_expired"' in end_of(await served.text())


async def test_a_reader_that_stops_reading_is_cut_off_with_a_clear_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets whole events in order up to the end, when it reads again. Little waits for it."""
    monkeypatch.setattr(event_stream, "READ_SECONDS_MAX", 0.2)
    served.subscription.push(frames(1, QUEUE_MAX, _LARGE))
    async with served.opened(receive_bytes=64 * 1024) as reader, asyncio.timeout(PATIENCE_SECONDS):
        await served.has_ended.wait()
        [connection] = served.connections._open
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 4 * 16 * 1024
        text = (await reader.read(-1)).decode()
    assert '"reason":"slow_reader"' in end_of(text)
    assert "Last-Event-ID" in end_of(text)
    seen = positions(text)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) < QUEUE_MAX


async def test_a_reader_that_never_reads_again_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "READ_SECONDS_MAX", 0.2)
    monkeypatch.setattr("gateway.edge.connections.ANSWER_SECONDS", 0.5)
    served.subscription.push(frames(1, QUEUE_MAX, _LARGE))
    async with served.opened(receive_bytes=4096):
        await served.has_ended.wait()
        await until(lambda: _closed(served))


async def _closed(served: Served) -> bool:
    return len(served.connections) == 0


async def test_a_stream_that_falls_too_far_behind_ends(served: Served) -> None:
    served.subscription.push(frames(1, 10))
    served.subscription.push(frames(11, QUEUE_MAX + 1))
    assert '"reason":"slow_reader"' in end_of(await served.text())


async def test_a_stream_reads_pages_and_skips_what_its_queue_repeats(served: Served) -> None:
    """Events come while the pages are read, some of them in both. Each is sent once."""
    total = 250

    def pages(after: int, limit: int) -> list[ListedEvent]:
        served.subscription.push(frames(after + 50, min(after + 149, total)))
        if after + limit >= total:
            served.subscription.push(frames(total - 5, total + 5))
            asyncio.get_running_loop().call_later(0.2, served.subscription.finish, End.SHUTDOWN)
        return [event(position) for position in range(after + 1, min(after + limit, total) + 1)]

    served.pages = pages
    served.subscription.mark_behind()
    text = await served.text()
    assert positions(text) == list(range(1, total + 6))


async def test_more_events_than_its_queue_holds_only_make_a_stream_read_more_pages(
    served: Served,
) -> None:
    """While the stream reads pages, its queue may overflow without harm."""
    total = 150
    pushed: list[bool] = []

    def pages(after: int, limit: int) -> list[ListedEvent]:
        if not pushed:
            pushed.append(True)
            served.subscription.push(frames(1, QUEUE_MAX + 1))
        if after >= total:
            served.subscription.finish(End.SHUTDOWN)
        return [event(position) for position in range(after + 1, min(after + limit, total) + 1)]

    served.pages = pages
    served.subscription.mark_behind()
    reading = asyncio.create_task(served.text())
    await until(lambda: _is(lambda: bool(pushed)))
    served.subscription.finish(End.SHUTDOWN)
    text = await reading
    assert '"reason":"shutdown"' in end_of(text)
    assert positions(text) == sorted(set(positions(text)))


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_a_stream_waits_for_postgres_to_come_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_RETRY_SECONDS", 0.01)
    failures = [StoreUnavailable(), StoreUnavailable()]

    def pages(after: int, _limit: int) -> list[ListedEvent]:
        if failures:
            raise failures.pop()
        served.subscription.finish(End.SHUTDOWN)
        return [event(1)] if after == 0 else []

    served.pages = pages
    served.subscription.mark_behind()
    assert positions(await served.text()) == [1]


async def test_a_bug_ends_a_stream_with_a_clear_end(served: Served) -> None:
    """A part of the answer is sent already, so a problem cannot follow."""

    def pages(_after: int, _limit: int) -> list[ListedEvent]:
        raise ZeroDivisionError

    served.pages = pages
    served.subscription.mark_behind()
    text = await served.text()
    assert '"reason":"internal_error"' in end_of(text)
    assert text.count("HTTP/1.1") == 1
