"""Open connections: how many there may be, and how long each may keep us waiting.

aiohttp answers requests; this bounds what comes before and after them. A connection whose request is with us is never cut.
One that waits for its peer (to send a head or a body, to take an answer) is cut when the peer's time is over, and sooner
where there is no room: then those nearest to that end go first, so many silent connections cannot keep others out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import cast

import orjson
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.log import access_logger

from domain.adapters import observability
from gateway.edge.answers import AccessLog, Bare

# A head is one or two packets; the slowest phone sends them within a retransmission or two of each other.
HEAD_SECONDS = 10.0
# Longer than the 60 s after which load balancers usually let go of an idle connection: they should be first.
IDLE_SECONDS = 75.0
# 16 KiB in 20 s is a mobile network at its worst; `read_bytes` answers 408 then, and the rest is for that answer.
BODY_SECONDS = 20.0
BODY_CUT_SECONDS = BODY_SECONDS + 10
# The longest answer, a page of a hundred payments, at 5 KiB/s.
ANSWER_SECONDS = 30.0
# What is left of a body after its answer is read and dropped for so long, that the peer may see the answer.
LINGER_SECONDS = 5.0
# When the process ends: answers are worth its last seconds, silent peers are not.
DRAIN_SECONDS = 3.0

# Far more than may be at hand in the ingress (`load.py`), so that many others may be idle or slow.
CONNECTIONS_MAX = 4096
# How many go at once when there is no room: looking for the oldest costs a pass over all.
_CUT_AT_ONCE = 64

# All bytes of a request: chunk sizes, chunk extensions and trailers are in no limit of a body.
WIRE_BYTES_MAX = 1024 * 1024
HEADERS_MAX = 64
FIELD_BYTES_MAX = 8190  # a token of 7 KiB is the longest of ours
_BUFFER_BYTES = 16 * 1024

_LOOK_EVERY_SECONDS = 1.0

_MALFORMED = orjson.dumps(
    {
        "type": "urn:mkwanja:problem:malformed_http",
        "title": "The request is not HTTP that is read here",
        "status": 400,
        "detail": "The request is not HTTP that is read here.",
        "code": "malformed_http",
        "retryable": False,
    }
)


class Connections:
    """All connections of a process. `at_most` of them may be open; `is_draining`: the process is about to end."""

    def __init__(self, at_most: int = CONNECTIONS_MAX) -> None:
        self.at_most = at_most
        self.is_draining = False
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def has_room(self, now: float) -> bool:
        """Whether one more may be open, after those whose peers have used most of their time were cut if need be."""
        if len(self._open) >= self.at_most:
            # By the share of their time and not by the time: heads that do not come go before idle connections of a load
            # balancer, and whoever arrived just now goes last.
            waiting = sorted(self._waiting(), key=lambda one: (now - one[0].since) / one[1], reverse=True)
            for one, _ in waiting[:_CUT_AT_ONCE]:
                one.cut("no_room", now)
        return len(self._open) < self.at_most

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)

    async def watch(self) -> None:
        """Cuts those whose peers' time is over, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            now = asyncio.get_running_loop().time()
            for one in self._late(now):
                one.cut("slow_peer", now)

    def _late(self, now: float) -> list[Connection]:
        at_most = DRAIN_SECONDS if self.is_draining else math.inf
        return [one for one, patience in self._waiting() if now - one.since > min(patience, at_most)]

    def _waiting(self) -> Iterator[tuple[Connection, float]]:
        """Those that wait for their peers, with the seconds that these have."""
        for one in self._open:
            patience = one.patience_seconds()
            if patience is not None:
                yield one, patience


class Connection(web.RequestHandler):
    """One connection. `since` is the loop's time of the last change of turn: whose move it is, peer's or ours.

    Written for the aiohttp that the lock file names: whose turn it is can be told by its private state alone. The tests of
    slow peers (tests/integration/test_slow_peers.py) fail where that changes.
    """

    def __init__(self, server: web.Server, connections: Connections, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            # Bodies arrive as they were sent: nothing is decompressed, so nothing small becomes large.
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_headers=HEADERS_MAX,
            max_field_size=FIELD_BYTES_MAX,
            read_bufsize=_BUFFER_BYTES,
            access_log=access_logger,
            access_log_class=AccessLog,
        )
        self._connections = connections
        self._wire: asyncio.Transport | None = None
        self._has_head_begun = False
        self._wire_bytes = 0
        self.since = loop.time()

    def patience_seconds(self) -> float | None:
        """How long its peer may take for what it has to do now; None while the next move is ours."""
        if self._wire is None or self._wire.is_closing():
            return ANSWER_SECONDS  # closed by us, and what the peer does not take is not gone yet
        if self._waiter is not None:
            if self._waiter.done():
                return None
            return HEAD_SECONDS if self._has_head_begun or self._request_count == 0 else IDLE_SECONDS
        if self._current_request is not None:
            return None if self._current_request.content.is_eof() else BODY_CUT_SECONDS
        return ANSWER_SECONDS

    def cut(self, reason: str, now: float) -> None:
        """Ends it at once: what the peer did not take is dropped."""
        self.since = now
        self._connections.discard(self)
        if self._wire is not None:
            observability.shed.labels(reason=reason).inc()
            self._wire.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)  # a TCP server's are
        if not self._connections.has_room(self.since):
            self.cut("connections", self.since)
            return
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        count = self._request_count
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._request_count > count:
            self.since, self._has_head_begun = self._loop.time(), False
            self._break_bodies_off()
        elif self._waiter is not None and not self._waiter.done() and data and not self._has_head_begun:
            self.since, self._has_head_begun = self._loop.time(), True
        is_lingering = self._waiter is None and self._current_request is None
        if self._wire_bytes > WIRE_BYTES_MAX and not is_lingering:
            self.cut("too_many_bytes", self._loop.time())

    def _break_bodies_off(self) -> None:
        """After bytes that are no HTTP nothing follows: whoever waits for the rest of a body learns it now."""
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [body for message, body in self._messages if isinstance(message, RawRequestMessage)]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError())
        self._lingering_time = 0.0  # there is no rest to wait for

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self.since = self._loop.time()
        return await super().finish_response(request, resp, start_time)

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        self.since, self._wire_bytes = self._loop.time(), 0
        super().log_access(request, response, time)

    def _refusal(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, and to what went wrong outside our own code. It says nothing of either."""
        if request.writer.output_size > 0:
            raise ConnectionError  # half an answer is out: nothing can follow it
        if status == web.HTTPBadRequest.status_code:
            observability.refused.labels(code="malformed_http").inc()
            response = Bare(body=_MALFORMED, status=status, content_type="application/problem+json")
        else:
            self.logger.error("not answered: %s", type(exc).__name__, exc_info=exc)
            response = Bare(status=status)
        response.force_close()
        return response

    handle_error = _refusal
