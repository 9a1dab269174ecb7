"""Thousands of clients that read streams of events, as cheaply as one process can hold them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from tests.stack.processes import Process


class CrowdStream(asyncio.Protocol):
    """One stream. It sends its request at once, and keeps the ids of what it receives.

    The request is HTTP/1.0, so the answer has no chunks.
    """

    def __init__(self, token: str, owner: str | None) -> None:
        self._request = (
            "GET /v1/events HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
        self.owner = owner
        self._rest = b""
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cursors: list[str] = []
        self.ids: list[str] = []
        self.end = b""
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self.begun.done():
            head, separator, rest = self._rest.partition(b"\r\n\r\n")
            if not separator or b"\n\n" not in rest:
                return
            self._rest = rest.partition(b"\n\n")[2]
            if head.startswith(b"HTTP/1.0 200 "):
                self.begun.set_result(None)
            else:
                self.begun.set_exception(AssertionError(head + rest))
        *blocks, self._rest = self._rest.split(b"\n\n")
        for block in blocks:
            if block.startswith(b"id: "):
                cursor, _, body = block.partition(b"\ndata: ")
                self.cursors.append(cursor[4:].decode())
                self.ids.append(json.loads(body)["id"])
            elif not block.startswith(b":"):
                self.end += block

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionError())

    def close(self) -> None:
        self._transport.abort()


async def open_streams(
    url: str, tokens: list[tuple[str, str | None]], *, at_once: int = 100
) -> list[CrowdStream]:
    """Opens a stream for each pair of a token and the owner of its events (None: all)."""
    loop = asyncio.get_running_loop()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
    places = asyncio.Semaphore(at_once)

    async def open_one(token: str, owner: str | None) -> CrowdStream:
        async with places:
            _, stream = await loop.create_connection(lambda: CrowdStream(token, owner), host, port)
            await stream.begun
            return stream

    return await asyncio.gather(*(open_one(token, owner) for token, owner in tokens))


def memory_bytes(process: Process) -> int:
    """The resident memory of a process."""
    [line] = [
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) * 1024
