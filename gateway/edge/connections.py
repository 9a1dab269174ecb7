"""Open connections: how many there may be, and how long each may keep us waiting.

aiohttp answers requests; this bounds what comes before and after them. A connection whose request
is with us is never cut. One that waits for its peer (to send a head or a body, to take an answer)
is cut when the peer's time is over, and sooner where there is no room: then those nearest to that
end go first, so many silent connections cannot keep others out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import orjson
from aiohttp import web

from domain.adapters import observability
from domain.errors import BodyBroken
from gateway.edge.aiohttp_internals import Awaited, ServerConnection, UnroutedResponse
from gateway.edge.answers import AccessLog
from gateway.edge.problems import PROBLEMS, problem_body

# A head is one or two packets; the slowest phone sends them within a retransmission or two of each
# other.
HEAD_SECONDS = 10.0
# Longer than the 60 s after which load balancers usually let go of an idle connection: they should
# be first.
IDLE_SECONDS = 75.0
# 16 KiB in 20 s is a mobile network at its worst; `read_bytes` answers 408 then, and the rest is
# for that answer.
BODY_SECONDS = 20.0
BODY_CUT_SECONDS = BODY_SECONDS + 10
# The longest answer, a page of a hundred payments, at 5 KiB/s.
ANSWER_SECONDS = 30.0
# What is left of a body after its answer is read and dropped for so long, that the peer may see the
# answer.
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

_MALFORMED = PROBLEMS[BodyBroken]
_MALFORMED_BODY = orjson.dumps(problem_body(_MALFORMED, f"{_MALFORMED.title}."))


class Connections:
    """All connections of a process.

    `at_most` of them may be open; `is_draining`: the process is about to end.
    """

    def __init__(self, at_most: int = CONNECTIONS_MAX) -> None:
        self.at_most = at_most
        self.is_draining = False
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def has_room(self, now: float) -> bool:
        """Whether one more may be open, after those whose peers have used most of their time
        were cut if need be.
        """
        if len(self._open) >= self.at_most:
            # By the share of their time and not by the time: heads that do not come go before idle
            # connections of a load balancer, and whoever arrived just now goes last.
            waiting = sorted(
                self._waiting(), key=lambda one: (now - one[0].since) / one[1], reverse=True
            )
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
        return [
            one for one, patience in self._waiting() if now - one.since > min(patience, at_most)
        ]

    def _waiting(self) -> Iterator[tuple[Connection, float]]:
        """Those that wait for their peers, with the seconds that these have."""
        for one in self._open:
            patience = one.patience_seconds()
            if patience is not None:
                yield one, patience


class Connection(ServerConnection):
    """One connection: counted, bounded in bytes, and cut when its peer's time is over."""

    def __init__(
        self, server: web.Server, connections: Connections, *, loop: asyncio.AbstractEventLoop
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

    def patience_seconds(self) -> float | None:
        """How long its peer may take for what it has to do now; None while the next move is
        ours.
        """
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
        """Ends it at once: what the peer did not take is dropped."""
        self.since = now
        self._connections.discard(self)
        if self.is_open():
            observability.shed.labels(reason=reason).inc()
            self.abort()

    def is_admitted(self) -> bool:
        if not self._connections.has_room(self.since):
            self.cut("connections", self.since)
            return False
        self._connections.add(self)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)

    def refuse_bytes(self) -> None:
        self.cut("too_many_bytes", asyncio.get_running_loop().time())

    def answer_failure(self, status: int, error: BaseException | None) -> web.Response:
        """The answer to what is no HTTP, and to what went wrong outside our own code.

        It says nothing of either.
        """
        if status == _MALFORMED.status:
            observability.refused.labels(code=_MALFORMED.code).inc()
            return UnroutedResponse(
                body=_MALFORMED_BODY,
                status=_MALFORMED.status,
                content_type="application/problem+json",
            )
        self.logger.error("not answered: %s", type(error).__name__, exc_info=error)
        return UnroutedResponse(status=status)
