"""Open connections: how many there may be, and how long the server waits for each client.

Each client has a limited time to send a head or a body, to read an answer, or to stay idle. When
that time is over, the process closes the connection. The process never closes a connection while it
works on the connection's request.

If the maximum number of connections is open, the process closes those of slow clients, which have
used up at least a tenth of their time. The slowest go first. Many silent connections therefore
cannot lock out other clients. If no client is so slow, new connections wait in the kernel's queue,
and each answer ends its connection, so that a connection that waits gets its turn. A client that is
not slow is never cut off to make room.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter

import orjson
from aiohttp import web

from domain.adapters import observability
from domain.errors import Overloaded
from gateway.edge.aiohttp_internals import Awaited, ServerConnection, UnroutedResponse
from gateway.edge.answers import AccessLog
from gateway.edge.http_faults import FIELD_BYTES_MAX, HEADERS_MAX, HttpFault, find_fault
from gateway.edge.problems import HTTP_PROBLEMS, problem_body

# A head is one or two packets. Even the slowest phone sends the second packet within one or two
# retransmissions of the first.
HEAD_SECONDS = 10.0
# Longer than the usual 60 s of load balancers, because a load balancer should close an idle
# connection first.
IDLE_SECONDS = 75.0
# 16 KiB in 20 s is the speed of the worst mobile network. After BODY_SECONDS, `read_bytes` answers
# 408. The client can read that answer until BODY_CUT_SECONDS.
BODY_SECONDS = 20.0
BODY_CUT_SECONDS = BODY_SECONDS + 10
# Enough time to read the longest answer, a page of a hundred payments, at 5 KiB/s.
ANSWER_SECONDS = 30.0
# After an early answer, the server reads and drops the rest of the body for this long. Otherwise
# the client may get a reset before it reads the answer.
LINGER_SECONDS = 5.0
# While the process stops, it waits only this long for a client.
DRAIN_SECONDS = 3.0

# More than the requests that the ingress works on (INGRESS_PLACES_MAX), because many connections
# are idle or slow.
CONNECTIONS_MAX = 4096
# Connections whose requests only wait (for a final payment, or for events) are not among these.
# They cost memory and no work. Two thousand streams and as many waits of one caller have room: one
# caller gets at most half (waiting_places.py).
WAITING_MAX = 8192
# If there is no room for a new connection, the process closes an old one, but not before its client
# had this part of its time: 1 s of the time for a head, 3 s of that for a body.
_CUT_FROM_PART = 0.1
# This many are closed together, because each search for the connections to close scans all of them.
_CUT_AT_ONCE = 256

# The limit for all bytes of a request, including chunk sizes, chunk extensions and trailers. The
# limit of a body does not count those.
WIRE_BYTES_MAX = 1024 * 1024
_BUFFER_BYTES = 16 * 1024

_CHECK_INTERVAL_SECONDS = 1.0

# The bodies are composed once, because the answer to malformed HTTP should cost little.
_BODY_BY_FAULT = {
    fault: orjson.dumps(problem_body(HTTP_PROBLEMS[fault.status], fault.value))
    for fault in HttpFault
}


class Connections:
    """All connections of a process.

    At most `at_most` of them may be open, besides at most `waiting_max` whose requests only wait.
    `is_draining`: the process is stopping. `is_full`: new connections wait until others end.
    `when_one_ends` is called when a connection ends.
    """

    def __init__(self, at_most: int = CONNECTIONS_MAX, waiting_max: int = WAITING_MAX) -> None:
        self.at_most = at_most
        self.waiting_max = waiting_max
        self.is_draining = False
        self.is_full = False
        self.when_one_ends: Callable[[], None] | None = None
        self._open: set[Connection] = set()
        self._waiting_requests: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def has_room(self, opening: int = 0) -> bool:
        """Whether one more connection may be open, besides `opening` ones that open right now."""
        return len(self._open) + opening < self.at_most

    def make_room(self, now: float) -> bool:
        """Returns whether one more connection may be open.

        If too many are open, first closes connections of slow clients.
        """
        if not self.has_room():
            # Order by the fraction of the time limit that is used up. Connections with unfinished
            # heads are then closed before idle connections of a load balancer.
            slow = sorted(
                (
                    (part, connection)
                    for connection, patience in self._waiting()
                    if (part := (now - connection.since) / patience) >= _CUT_FROM_PART
                ),
                key=itemgetter(0),
                reverse=True,
            )
            for _, connection in slow[:_CUT_AT_ONCE]:
                connection.cut("no_room", now)
        return self.has_room()

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._waiting_requests.discard(connection)
        if self.is_full and self.when_one_ends is not None:
            self.when_one_ends()

    def set_aside(self, connection: Connection) -> None:
        """Makes room for another connection, because this one's request only waits.

        Raises Overloaded if too many requests wait.
        """
        if len(self._waiting_requests) >= self.waiting_max:
            observability.shed.labels(reason="overloaded").inc()
            raise Overloaded
        self.discard(connection)
        self._waiting_requests.add(connection)

    def take_back(self, connection: Connection) -> None:
        """Counts the connection again. There may then be more than `at_most` for a moment."""
        if connection in self._waiting_requests:
            self._waiting_requests.discard(connection)
            self._open.add(connection)

    async def watch(self) -> None:
        """Closes each connection whose client's time is over, until this task is cancelled."""
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in self._late(now):
                connection.cut("slow_peer", now)

    def _late(self, now: float) -> list[Connection]:
        at_most = DRAIN_SECONDS if self.is_draining else math.inf
        return [
            connection
            for connection, patience in self._waiting()
            if now - connection.since > min(patience, at_most)
        ]

    def _waiting(self) -> Iterator[tuple[Connection, float]]:
        """Each connection that waits for its client, and the seconds that the client may take."""
        for connection in self._open:
            patience = connection.patience_seconds()
            if patience is not None:
                yield connection, patience


class Connection(ServerConnection):
    """One connection: counted, limited in bytes, and closed when its client's time is over.

    `methods`: the value of the header Allow in the answer to an unknown method.
    """

    def __init__(
        self,
        server: web.Server,
        connections: Connections,
        *,
        loop: asyncio.AbstractEventLoop,
        methods: str,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            idle_seconds=IDLE_SECONDS,
            linger_seconds=LINGER_SECONDS,
            headers_max=HEADERS_MAX,
            field_bytes_max=FIELD_BYTES_MAX,
            buffer_bytes=_BUFFER_BYTES,
            wire_bytes_max=WIRE_BYTES_MAX,
            access_log_class=AccessLog,
        )
        self._connections = connections
        self._methods = methods

    def patience_seconds(self) -> float | None:
        """How long the client may take for its next action. None while the server works."""
        match self.awaited():
            case Awaited.HEAD:
                return HEAD_SECONDS
            case Awaited.NEXT_REQUEST:
                return IDLE_SECONDS
            case Awaited.BODY:
                return BODY_CUT_SECONDS
            case Awaited.READING:
                return ANSWER_SECONDS
            case None:
                return None

    def cut(self, reason: str, now: float) -> None:
        """Closes the connection at once, and drops the bytes that the client has not read."""
        self.since = now
        self._connections.discard(self)
        if self.is_open():
            observability.shed.labels(reason=reason).inc()
            self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def ends_after_answer(self) -> bool:
        """While other connections wait for room, each answer ends its connection."""
        return self._connections.is_full or len(self._connections) > self._connections.at_most

    @contextmanager
    def only_waiting(self) -> Iterator[None]:
        """Counts the connection apart during the block, because its request only waits.

        Raises Overloaded if too many requests wait.
        """
        self._connections.set_aside(self)
        try:
            yield
        finally:
            self._connections.take_back(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)

    def reject_excess_bytes(self) -> None:
        self.cut("too_many_bytes", asyncio.get_running_loop().time())

    def failure_response(self, status: int, error: BaseException | None) -> web.Response:
        """The answer to malformed HTTP, and to an exception that our middlewares did not catch.

        The answer contains no detail of the request or of the exception.
        """
        if status == 400:
            fault = find_fault(error)
            observability.refused.labels(code=HTTP_PROBLEMS[fault.status].code).inc()
            response = UnroutedResponse(
                body=_BODY_BY_FAULT[fault],
                status=fault.status,
                content_type="application/problem+json",
            )
            if fault.status == 405:
                response.headers["Allow"] = self._methods
            return response
        self.logger.error("not answered: %s", type(error).__name__, exc_info=error)
        return UnroutedResponse(status=status)
