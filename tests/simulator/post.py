"""Sends one POST on a connection of its own, and reads the answer's status.

Callbacks are as many as payments, and the simulator shares the machine with what it tests. A full
HTTP client would cost more than all the rest of a payment here.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import cast
from urllib.parse import quote, urlsplit

from aiohttp.http import SERVER_SOFTWARE

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send `body`, and return the status after the whole answer arrived.

    Follows no redirect. Raises OSError, or ValueError if the answer is no HTTP.
    """
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    lines = [
        f"POST {path}{f'?{parts.query}' if parts.query else ''} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Accept: */*",
        f"User-Agent: {SERVER_SOFTWARE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    request = "\r\n".join(lines).encode() + HEAD_END + body
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    transport, exchange = await asyncio.get_running_loop().create_connection(
        lambda: _Exchange(request),
        host,
        parts.port or PORTS[parts.scheme],
        ssl=True if is_tls else None,
        server_hostname=host if is_tls else None,
    )
    try:
        return await exchange.status
    finally:
        transport.close()


class _Exchange(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport inherits from no public class.
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._finish(is_over=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(is_over=error is None)
        if not self.status.done():
            self.status.set_exception(ConnectionError("the connection ended before the answer"))

    def _finish(self, *, is_over: bool) -> None:
        """Set the status if the whole answer is here. `is_over`: nothing more will come."""
        while not self.status.done() and (end := self._received.find(HEAD_END)) >= 0:
            head, end = self._received[:end], end + len(HEAD_END)
            status = head.split(b" ", 2)[1] if head.startswith(b"HTTP/1.") else b""
            if not status.isdigit():
                self.status.set_exception(ValueError("the answer is no HTTP"))
            elif status.startswith(b"1"):
                self._received = self._received[end:]  # the answer follows
                continue
            elif (length := LENGTH.search(head)) is None:
                if is_over:
                    self.status.set_result(int(status))
            elif len(self._received) >= end + int(length[1]):
                self.status.set_result(int(status))
            return
