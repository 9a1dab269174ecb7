"""One stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

The events are in the feed's order, none is skipped, and none comes twice: the stream sends only
events after its last position. The first block has no event, but an `id`. A client that loses the
connection before its first event continues from this `id`.

If the service ends the stream, its last event has the type `end`, and says why and what to do.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import orjson
import structlog
from aiohttp import web

from domain.adapters import observability
from domain.adapters.postgres.feed import FeedPlace, ListedEvent
from domain.errors import PaymentServiceError, StoreUnavailable
from gateway.cursors import feed_cursor
from gateway.edge.requests import EVENT_STREAM
from gateway.tail import End, Frame, Subscription

log = structlog.get_logger()

# A comment after this time keeps proxies from closing the connection. At the same time the token
# is checked again, so that a stream ends if its key is withdrawn.
HEARTBEAT_SECONDS = 15.0
_HEARTBEAT = b": heartbeat\n\n"

# A client that does not read for this long is cut off.
READ_SECONDS_MAX = 20.0
# A connection whose client acknowledges no byte for this long is gone. It is longer than a client's
# time to read the end of its stream (READ_SECONDS_MAX and ANSWER_SECONDS).
_UNACKNOWLEDGED_MS_MAX = 60_000
PAGE_SIZE = 100
_RETRY_SECONDS = 1.0  # while Postgres is away

# How many bytes wait for a slow client in the process: one chunk, and this much in the transport.
_CHUNK_BYTES = 16 * 1024

# After the end, each client returns after another time, so that they do not all come at once.
_RETURN_MS = (1_000, 5_000)

STREAM_HEADERS = {
    "Content-Type": EVENT_STREAM,
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}

_CONTINUE = "Connect again with the header Last-Event-ID set to the last id you received."
_DETAILS = {
    End.SLOW_READER: f"You read too slowly. No event is lost. {_CONTINUE}",
    End.TOKEN_EXPIRED: f"The token has expired. Get a new token. {_CONTINUE}",
    End.TOKEN_REFUSED: f"The token is not valid any more. Get a new token. {_CONTINUE}",
    End.UNKNOWN_EVENT: (
        "The database was restored, or a failover lost its last commits. Read GET /v1/events again "
        "without a cursor, and skip the events whose ids you already have."
    ),
    End.SHUTDOWN: f"This process stops. {_CONTINUE}",
    End.INTERNAL_ERROR: f"Something went wrong on our side. {_CONTINUE}",
}

ReadPage = Callable[[int, int], Awaitable[Sequence[ListedEvent]]]


class EventStream:
    """Sends the events after `place`: first from pages of the feed, then from the subscription.

    `read_page` returns the caller's events after a position, up to a number of them.
    `expires_at`: when the token expires (Unix seconds).
    """

    def __init__(
        self,
        subscription: Subscription,
        place: FeedPlace,
        *,
        read_page: ReadPage,
        reauthenticate: Callable[[], Awaitable[object]],
        expires_at: float,
    ) -> None:
        self._subscription = subscription
        self._place = place
        self._read_page = read_page
        self._reauthenticate = reauthenticate
        self._expires_at = expires_at
        self._response = web.StreamResponse(headers=STREAM_HEADERS)
        self._response.force_close()

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Sends the stream until its end. A client that disconnects cancels this method."""
        self._writer = request.writer
        _limit_waiting_bytes(request.transport)
        await self._response.prepare(request)
        try:
            retry_ms = random.randint(*_RETURN_MS)  # noqa: S311 - no secret
            await self._write(f"retry: {retry_ms}\nid: {feed_cursor(self._place)}\n\n".encode())
            end = await self._follow()
        except _SlowReader:
            end = End.SLOW_READER
        except ConnectionError:
            return self._response  # the client is gone
        except Exception:
            # A part of the answer is sent, so no problem can follow.
            log.exception("event_stream_failed")
            end = End.INTERNAL_ERROR
        observability.streams_ended.labels(reason=end.value).inc()
        body = orjson.dumps({"reason": end.value, "detail": _DETAILS[end]}).decode()
        # The client may not read. The bytes wait in the transport until it does, or until
        # `Connections.watch` closes the connection.
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0):
                await self._response.write(f"event: end\ndata: {body}\n\n".encode())
        return self._response

    async def _follow(self) -> End:
        """Sends events and heartbeats until the stream must end. Returns why."""
        loop = asyncio.get_running_loop()
        subscription = self._subscription
        # The clock of the token's expiry may be set, but the loop's clock never jumps.
        expires_at = loop.time() + self._expires_at - time.time()
        heartbeat_at = loop.time() + HEARTBEAT_SECONDS
        while True:
            if subscription.is_behind:
                await self._catch_up()
            else:
                await self._write_frames(subscription.take(self._place.position))
            if subscription.end is not None:
                return subscription.end
            now = loop.time()
            if now >= expires_at:
                return End.TOKEN_EXPIRED
            if now >= heartbeat_at:
                if not await self._is_token_valid():
                    return End.TOKEN_REFUSED
                await self._write(_HEARTBEAT)
                heartbeat_at = max(heartbeat_at + HEARTBEAT_SECONDS, loop.time())
            if not subscription.is_behind:
                await subscription.changed(min(expires_at, heartbeat_at))

    async def _catch_up(self) -> None:
        """Sends one page of the feed.

        A page that is not full ends at the end of the feed. The subscription has all later events,
        unless it was marked as behind while the page was read.
        """
        subscription = self._subscription
        subscription.is_behind, subscription.is_catching_up = False, True
        try:
            events = await self._read_page(self._place.position, PAGE_SIZE)
        except StoreUnavailable:
            subscription.is_behind = True
            await asyncio.sleep(_RETRY_SECONDS)
            return
        await self._write_frames([Frame(event) for event in events])
        if len(events) == PAGE_SIZE:
            subscription.is_behind = True
        else:
            subscription.is_catching_up = False

    async def _is_token_valid(self) -> bool:
        try:
            await self._reauthenticate()
        except PaymentServiceError:
            return False
        return True

    async def _write_frames(self, frames: Sequence[Frame]) -> None:
        chunk: list[bytes] = []
        size = 0
        for frame in frames:
            chunk.append(frame.wire)
            size += len(frame.wire)
            if size >= _CHUNK_BYTES:
                await self._write(b"".join(chunk))
                chunk, size = [], 0
        if chunk:
            await self._write(b"".join(chunk))
        if frames:
            self._place = frames[-1].place

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                await self._response.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise _SlowReader from None


class _SlowReader(Exception):
    """The client did not read for too long."""


def _limit_waiting_bytes(transport: asyncio.Transport | None) -> None:
    """Limits what waits for a slow client, and detects a client that is gone."""
    if transport is None:
        return
    transport.set_write_buffer_limits(high=_CHUNK_BYTES)
    connected = transport.get_extra_info("socket")
    if connected is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):
            connected.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS_MAX
            )
