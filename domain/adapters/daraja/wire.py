"""Sends one request to Daraja on a connection of its own, with a fence before its first byte.

The class of every error depends on whether the first byte was written. Therefore this module writes
the request by itself: the fence, the mark that the request is written, and the one write follow
each other without an `await`. aiohttp only reads the answer.

If bytes arrive before our first byte has left, they cannot be the answer to our request. The
connection is then aborted.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import select
import ssl
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError

from domain.adapters.aiohttp_version import require_tested_aiohttp
from domain.adapters.daraja.addresses import Addresses
from domain.errors import OutcomeUnknown, Unreachable
from domain.fence import Fence

log = structlog.get_logger()

_CONNECT_SECONDS = 5.0

_PORTS = {"http": 80, "https": 443}

# The event loop gets at least `_LOOP_TURNS_MIN` and at most `_LOOP_TURNS_MAX` turns to read bytes
# that arrived before our request. These bytes may be messages of TLS. If bytes are still unread
# after the last turn, they count as an early answer.
_LOOP_TURNS_MIN = 3
_LOOP_TURNS_MAX = 20


class DarajaSession:
    """Sends requests to Daraja, without proxies, cookies and redirects. Each worker has one.

    Each request has a connection of its own, which is cheap at our rates. Daraja may have closed a
    connection that was used before. If we noticed this only by writing, a payment without a resend
    key would become in doubt (rules.md §13). Bytes that arrived on an idle connection would also be
    read as the answer to the next payment.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """By default, `tls` trusts the system's certificate authorities."""
        require_tested_aiohttp()
        self._tls = tls or _build_tls_context()
        self._addresses = Addresses()

    async def request_once(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        fence: Fence | None = None,
        bytes_max: int,
        seconds_max: float,
    ) -> tuple[int, bytes]:
        """Send one request. Returns the status and the body of its own answer.

        Raises Unreachable if nothing was written. Raises OutcomeUnknown if bytes were written and
        the request got no answer of its own. May also raise aiohttp.ClientError and OSError.
        """
        target = _parse(url)
        request = _build_request(method, target, headers, body)
        ends_at = asyncio.get_running_loop().time() + seconds_max
        async with asyncio.timeout(min(_CONNECT_SECONDS, seconds_max)) as limit:
            connection = await self._connect(target)
            try:
                limit.reschedule(ends_at)
                await connection.write_first(request, fence)
                status, answer = await connection.read_answer(bytes_max)
            finally:
                connection.close()
        connection.check_answer()
        if len(answer) > bytes_max:
            raise OutcomeUnknown("the answer is longer than any answer of Daraja")
        return status, answer

    async def _connect(self, target: _Target) -> _Connection:
        loop = asyncio.get_running_loop()

        async def connect_to(address: str) -> _Connection:
            _, connection = await loop.create_connection(
                lambda: _Connection(loop),
                address,
                target.port,
                ssl=self._tls if target.is_tls else None,
                server_hostname=target.host if target.is_tls else None,
            )
            return connection

        return await self._addresses.try_each(target.host, connect_to, seconds_max=_CONNECT_SECONDS)


@dataclass(frozen=True, slots=True)
class _Target:
    """The parts of a URL."""

    host: str
    port: int
    is_tls: bool
    host_header: str
    path: str


@lru_cache(maxsize=64)
def _parse(url: str) -> _Target:
    parts = urlsplit(url)
    usual_port = _PORTS[parts.scheme]
    host, port = parts.hostname or "", parts.port or usual_port
    shown = f"[{host}]" if ":" in host else host
    return _Target(
        host=host,
        port=port,
        is_tls=parts.scheme == "https",
        host_header=shown if port == usual_port else f"{shown}:{port}",
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


def _build_request(method: str, target: _Target, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"{method} {target.path} HTTP/1.1",
        f"Host: {target.host_header}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        f"User-Agent: {SERVER_SOFTWARE}",
        *([f"Content-Length: {len(body)}"] if body else []),
        "Connection: close",
    ]
    head = "\r\n".join(lines)
    if not head.count("\r") == head.count("\n") == len(lines) - 1:
        raise ValueError("a header has a line break")
    return head.encode("ascii") + b"\r\n\r\n" + body


def _build_tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Connection(ResponseHandler):
    """The connection of one request. It records whether its first bytes arrived too early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._has_received = False
        self._has_early_answer = False

    async def write_first(self, request: bytes, fence: Fence | None) -> None:
        """Make the last checks, and write the request in one piece. Raises if it must not leave."""
        for turn in range(_LOOP_TURNS_MAX):
            if turn >= _LOOP_TURNS_MIN and not self._has_unread_bytes():
                break
            await asyncio.sleep(0)  # the loop reads bytes that have arrived
        # No other code runs from here to the write.
        if fence is not None:
            fence.pass_first_byte()
        # The connection is checked last, because the fence reads a clock, which takes time.
        if self._is_unusable():
            if fence is not None:
                fence.begin_send()
            self.abort()
            raise Unreachable("the server sent bytes or closed the connection before our request")
        assert self.transport is not None  # noqa: S101 - it is usable
        self.transport.write(request)

    async def read_answer(self, bytes_max: int) -> tuple[int, bytes]:
        """Read the answer, but not much more than `bytes_max` bytes of its body."""
        self.set_response_params(read_until_eof=True)
        try:
            message, payload = await self.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, payload = await self.read()
        except HttpProcessingError as error:
            raise aiohttp.ClientPayloadError("the answer is no HTTP") from error
        answer = bytearray()
        async for chunk in payload.iter_any():
            answer += chunk
            if len(answer) > bytes_max:
                break
        return message.code, bytes(answer)

    def check_answer(self) -> None:
        """Raise unless the answer can belong to our request."""
        if not self._has_early_answer:
            return
        log.warning("answer_before_request")
        raise OutcomeUnknown("the server sent its answer before our request had arrived")

    def data_received(self, data: bytes) -> None:
        if data and not self._has_received:
            self._has_received = True
            # The packet of a true answer also acknowledges the bytes of the request. If bytes of
            # ours are still unacknowledged, the server sent its bytes before our request arrived.
            self._has_early_answer = _count_unacknowledged_bytes(self._find_socket_number()) > 0
        super().data_received(data)

    def _is_unusable(self) -> bool:
        """Whether bytes arrived, or the server closed the connection, before our first byte."""
        return self._has_received or not self.is_connected() or self._has_unread_bytes()

    def _has_unread_bytes(self) -> bool:
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
