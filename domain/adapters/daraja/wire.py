"""Sends one request to Daraja on a connection of its own, with a fence before its first byte.

The class of every error depends on whether the first byte was written. If a request has a body,
aiohttp calls `on_request_chunk_sent` just before the first byte, because our bodies are one chunk
and the headers leave with it. If a request has no body, aiohttp calls `on_request_headers_sent`
just before the first byte. aiohttp does not promise this order, so tests count the bytes.

If bytes arrive before our first byte has left, they cannot be the answer to our request. The
connection is then aborted.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import select
import sys
import termios
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog
from aiohttp.client_proto import ResponseHandler

from domain.adapters.aiohttp_version import require_tested_aiohttp
from domain.errors import OutcomeUnknown, Unreachable
from domain.fence import Fence

log = structlog.get_logger()

# The event loop gets at least `_LOOP_TURNS_MIN` and at most `_LOOP_TURNS_MAX` turns to read bytes
# that arrived before our request. These bytes may be messages of TLS. If bytes are still unread
# after the last turn, they count as an early answer.
_LOOP_TURNS_MIN = 3
_LOOP_TURNS_MAX = 20


def daraja_session(*, connections_max: int) -> aiohttp.ClientSession:
    """Return the HTTP session for Daraja. It calls the fence, and uses no proxies and no cookies.

    Each request has a connection of its own, which is cheap at our rates. Daraja may have closed a
    connection that was used before. If we noticed this only by writing, a payment without a resend
    key would become in doubt (rules.md §13). Bytes that arrived on an idle connection would also be
    read as the answer to the next payment.
    """
    connector = aiohttp.TCPConnector(limit=connections_max, force_close=True)
    _watch_connections(connector)
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[_build_trace_config()],
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _build_trace_config() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_check_before_headers)
    trace.on_request_chunk_sent.append(_check_before_body)
    return trace


async def request_once(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    bytes_max: int,
    fence: Fence | None = None,
    **options: Any,
) -> tuple[int, bytes]:
    """Send one request by a `daraja_session`. Returns the status and the body of its own answer.

    Raises Unreachable if nothing was written. Raises OutcomeUnknown if bytes were written and the
    request got no answer of its own.
    """
    request = _Request(fence)
    context_token = _REQUEST.set(request)
    try:
        async with session.request(
            method,
            url,
            # aiohttp would turn a 302 into a GET, and hide that Daraja may have acted
            allow_redirects=False,
            trace_request_ctx=request,
            **options,
        ) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > bytes_max:
                    break
    finally:
        _REQUEST.reset(context_token)
    request.check_answer()
    if len(answer) > bytes_max:
        raise OutcomeUnknown("the answer is longer than any answer of Daraja")
    return response.status, bytes(answer)


class _Request:
    """The state of one request: its fence, its connection, whether its first byte was written."""

    def __init__(self, fence: Fence | None) -> None:
        self.connection: _Connection | None = None
        self._fence = fence
        self._is_written = False

    async def pass_first_byte(self) -> None:
        """Make the last checks before the first byte. Raises if the byte must not be written."""
        if self._is_written:
            return
        for turn in range(_LOOP_TURNS_MAX):
            if turn >= _LOOP_TURNS_MIN and not (
                self.connection is not None and self.connection.has_unread_bytes()
            ):
                break
            await asyncio.sleep(0)  # the loop reads bytes that have arrived
        if self._fence is not None:
            self._fence.pass_first_byte()
        # No other code runs between here and the write. The connection is checked last, because the
        # fence reads a clock, which takes time.
        if self.connection is None or self.connection.is_unusable():
            if self._fence is not None:
                self._fence.begin_send()
            if self.connection is not None:
                # An early answer may announce a body. aiohttp must not wait for that body.
                self.connection.abort_transport()
            raise Unreachable("the server sent bytes or closed the connection before our request")
        self._is_written = True

    def check_answer(self) -> None:
        """Raise unless the answer can belong to this request."""
        if (
            self._is_written
            and self.connection is not None
            and not self.connection.has_early_answer
        ):
            return
        log.warning("answer_before_request", was_written=self._is_written)
        if self._is_written:
            raise OutcomeUnknown("the server sent its answer before our request had arrived")
        raise Unreachable("the server sent an answer before our request, which was not sent")


_REQUEST: ContextVar[_Request | None] = ContextVar("request", default=None)


async def _check_before_headers(
    _session: aiohttp.ClientSession, context: SimpleNamespace, sent: Any
) -> None:
    if isinstance(context.trace_request_ctx, _Request) and sent.method == "GET":
        await context.trace_request_ctx.pass_first_byte()


async def _check_before_body(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any
) -> None:
    if isinstance(context.trace_request_ctx, _Request):
        await context.trace_request_ctx.pass_first_byte()


class _Connection(ResponseHandler):
    """A connection that records whether its first bytes arrived too early."""

    def __init__(self, loop: asyncio.AbstractEventLoop, request: _Request | None) -> None:
        super().__init__(loop)
        self._has_received = False
        self.has_early_answer = False
        if request is not None:
            request.connection = self

    def data_received(self, data: bytes) -> None:
        if data and not self._has_received:
            self._has_received = True
            # The packet of a true answer also acknowledges the bytes of the request. If bytes of
            # ours are still unacknowledged, the server sent its bytes before our request arrived.
            self.has_early_answer = _count_unacknowledged_bytes(self._find_socket_number()) > 0
        super().data_received(data)

    def is_unusable(self) -> bool:
        """Whether bytes arrived, or the server closed the connection, before our first byte."""
        return self._has_received or not self.is_connected() or self.has_unread_bytes()

    def abort_transport(self) -> None:
        """Close the connection at once and discard unread bytes."""
        if self.transport is not None:
            self.transport.abort()

    def has_unread_bytes(self) -> bool:
        """Whether bytes or the end of the connection have arrived and are still unread."""
        socket_number = self._find_socket_number()
        if socket_number is None:
            return False
        poll = select.poll()
        poll.register(socket_number, select.POLLIN)
        return bool(poll.poll(0))

    def _find_socket_number(self) -> int | None:
        transport = self.transport
        socket = transport.get_extra_info("socket") if transport is not None else None
        number = socket.fileno() if socket is not None else -1
        return number if number >= 0 else None


def _count_unacknowledged_bytes(socket_number: int | None) -> int:
    """Return how many bytes of ours the server's kernel has not acknowledged.

    Returns 0 if this system does not report it.
    """
    if socket_number is None or sys.platform != "linux":
        return 0
    count = array.array("i", [0])
    try:
        fcntl.ioctl(socket_number, termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]


def _watch_connections(connector: aiohttp.TCPConnector) -> None:
    """Make the connector create `_Connection` objects.

    aiohttp has no public way for this, so its private attribute is replaced.
    """
    require_tested_aiohttp()
    if not hasattr(connector, "_factory"):
        raise RuntimeError(
            "this version of aiohttp creates connections differently:"
            " adapt domain/adapters/daraja/wire.py"
        )
    loop = asyncio.get_running_loop()

    def create_connection() -> _Connection:
        return _Connection(loop, _REQUEST.get())

    connector._factory = create_connection  # type: ignore[assignment]  # noqa: SLF001
