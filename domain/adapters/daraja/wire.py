"""One request to Daraja on a connection of its own: the fence before its first byte, and whose
answer comes back.

The first question about any error is a fact: was the first byte written? aiohttp calls us just
before, in `on_request_chunk_sent` (our bodies are one chunk, and the headers leave with it). A
request without a body is written right after `on_request_headers_sent`. Tests count bytes, because
this rests on aiohttp's order of writing.

Bytes that arrive before our first byte left answer nothing that we asked. Such a connection is
dropped.
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

# So often the event loop may read what has arrived, before it counts as an early answer. TLS has
# messages of its own.
_LOOKS_MIN = 3
_LOOKS_MAX = 20


def daraja_session(*, connections_max: int) -> aiohttp.ClientSession:
    """The HTTP session for Daraja: no proxies from the environment, no cookies, no redirects
    followed, and the fence.

    Each request has a connection of its own; they are cheap at our rates. One that was used before
    may be gone at the other end, and a call without a key (STK, B2B) that finds out by writing to
    it is lost in doubt (rules.md §13). And what came on it while it was idle
    would be taken for the answer to the next payment.
    """
    connector = aiohttp.TCPConnector(limit=connections_max, force_close=True)
    _watch_lines(connector)
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[_tracing()],
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _tracing() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_before_headers)
    trace.on_request_chunk_sent.append(_before_body)
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
    """Sends one request by a `daraja_session`; status and body of its own answer.

    Raises Unreachable if nothing was written, OutcomeUnknown if something was and no answer of its
    own came.
    """
    talk = _Talk(fence)
    mark = _TALK.set(talk)
    try:
        async with session.request(
            method,
            url,
            # aiohttp would turn a 302 into a GET, and hide that Daraja may have acted
            allow_redirects=False,
            trace_request_ctx=talk,
            **options,
        ) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > bytes_max:
                    break
    finally:
        _TALK.reset(mark)
    talk.check_answer()
    if len(answer) > bytes_max:
        raise OutcomeUnknown("the answer is too long to be Daraja's")
    return response.status, bytes(answer)


class _Talk:
    """What is known of one exchange: its fence, its connection, and whether its first byte was
    written.
    """

    def __init__(self, fence: Fence | None) -> None:
        self.line: _Line | None = None
        self._fence = fence
        self._is_written = False

    async def pass_first_byte(self) -> None:
        """The last thing before the first byte is written. Raises where it must not be."""
        if self._is_written:
            return
        for look in range(_LOOKS_MAX):
            if look >= _LOOKS_MIN and not (self.line is not None and self.line.has_unread()):
                break
            await asyncio.sleep(0)  # the loop reads what has arrived
        if self._fence is not None:
            self._fence.pass_first_byte()
        # From here to the write nothing else runs. The connection is looked at last: also the
        # fence's clock takes time.
        if self.line is None or self.line.is_spoilt():
            if self._fence is not None:
                self._fence.begin_send()
            if self.line is not None:
                # an early head may have promised a body, which must not be waited for
                self.line.drop()
            raise Unreachable("the other end spoke, or closed, before our request")
        self._is_written = True

    def check_answer(self) -> None:
        """Raises unless the answer that came can be the one to this request."""
        if self._is_written and self.line is not None and not self.line.has_heard_too_early:
            return
        log.warning("answer_before_request", was_written=self._is_written)
        if self._is_written:
            raise OutcomeUnknown("what was answered was sent before our request had arrived")
        raise Unreachable("there was an answer before our request, which was not sent")


_TALK: ContextVar[_Talk | None] = ContextVar("talk", default=None)


async def _before_headers(
    _session: aiohttp.ClientSession, context: SimpleNamespace, sent: Any
) -> None:
    if isinstance(context.trace_request_ctx, _Talk) and sent.method == "GET":
        await context.trace_request_ctx.pass_first_byte()


async def _before_body(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any
) -> None:
    if isinstance(context.trace_request_ctx, _Talk):
        await context.trace_request_ctx.pass_first_byte()


class _Line(ResponseHandler):
    """A connection that remembers when it heard something first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, talk: _Talk | None) -> None:
        super().__init__(loop)
        self._has_heard = False
        self.has_heard_too_early = False
        if talk is not None:
            talk.line = self

    def data_received(self, data: bytes) -> None:
        if data and not self._has_heard:
            self._has_heard = True
            # An answer carries the acknowledgement of all that it answers. If bytes of ours are
            # still unacknowledged, it was under way before our request arrived.
            self.has_heard_too_early = _unacknowledged_bytes(self._file()) > 0
        super().data_received(data)

    def is_spoilt(self) -> bool:
        """Whether something came, or the other end is gone, before our first byte."""
        return self._has_heard or not self.is_connected() or self.has_unread()

    def drop(self) -> None:
        """Ends the connection at once, and with it what still waits to be read."""
        if self.transport is not None:
            self.transport.abort()

    def has_unread(self) -> bool:
        """Whether bytes, or the connection's end, have arrived and were not read yet."""
        file = self._file()
        if file is None:
            return False
        poll = select.poll()
        poll.register(file, select.POLLIN)
        return bool(poll.poll(0))

    def _file(self) -> int | None:
        transport = self.transport
        socket = transport.get_extra_info("socket") if transport is not None else None
        file = socket.fileno() if socket is not None else -1
        return file if file >= 0 else None


def _unacknowledged_bytes(file: int | None) -> int:
    """How much of what we wrote the other end's kernel has not acknowledged; 0 where the system
    does not tell.
    """
    if file is None or sys.platform != "linux":
        return 0
    count = array.array("i", [0])
    try:
        fcntl.ioctl(file, termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]


def _watch_lines(connector: aiohttp.TCPConnector) -> None:
    """Makes the connector's connections `_Line`s. aiohttp has no public way: its own attribute
    is replaced.
    """
    require_tested_aiohttp()
    if not hasattr(connector, "_factory"):
        raise RuntimeError(
            "this aiohttp makes its connections in another way: domain/adapters/daraja/wire.py must follow"
        )
    loop = asyncio.get_running_loop()
    connector._factory = lambda: _Line(loop, _TALK.get())  # type: ignore[assignment]  # noqa: SLF001
