"""Hostile answers as bytes on the wire, and a server that sends them in Daraja's place."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Awaitable, Callable
from functools import cache
from socket import SO_LINGER, SOL_SOCKET

from tests.integration.daraja import BODY, body_length, head, whole
from tests.integration.raw_server import RawServer

_PIECE = 65536

Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * 16 * 1024 * 1024, mtime=0)


GZIP = "Content-Encoding: gzip"
CHUNKED = "Transfer-Encoding: chunked"
CHUNK = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# By default the server closes the connection after the answer.
UNUSABLE: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP 0.9": BODY,
    "a status that is no number": head(status="abc OK", length=len(BODY)) + BODY,
    "every byte": bytes(range(256)) * 8,
    "a long header": head("X: " + "y" * 1_000_000, length=len(BODY)) + BODY,
    "NUL in a header": head("X: a\0b", length=len(BODY)) + BODY,
    "two lengths": head("Content-Length: 5", length=len(BODY)) + BODY,
    "a length and chunks": head(CHUNKED, length=5) + b"5\r\n" + BODY[:5],
    "a longer length": head(length=len(BODY) + 1) + BODY,
    "a shorter length": head(length=len(BODY) - 1) + BODY,
    "chunks without an end": head(CHUNKED) + CHUNK,
    "a chunk size that is no number": head(CHUNKED) + b"zz\r\n" + BODY,
    "a long extension": head(CHUNKED) + b"5;" + b"x" * 1_000_000,
    "endless trailers": head(CHUNKED) + CHUNK + b"0\r\n" + b"X: y\r\n" * 100_000,
    "a gzip bomb": whole(_bomb(), GZIP),
    "a bomb in chunks": head(GZIP, CHUNKED) + b"10000\r\n" + _bomb()[:65536] + b"\r\n0\r\n\r\n",
    "a bomb in a bomb": whole(gzip.compress(_bomb(), mtime=0), "Content-Encoding: gzip, gzip"),
    "ten megabytes": whole(b" " * 10_000_000 + BODY),
    "ten megabytes without a length": head() + b" " * 10_000_000 + BODY,
    "a Content-Encoding of gzip without gzip": whole(BODY, GZIP),
    "brotli": whole(BODY, "Content-Encoding: br"),
    "gzip without a Content-Encoding": whole(gzip.compress(BODY, mtime=0)),
    "no content": head(status="204 No Content", length=len(BODY)) + BODY,
    "another protocol": head(
        "Connection: upgrade", "Upgrade: websocket", status="101 Switching Protocols"
    )
    + BODY,
    "only continue": head(status="100 Continue") * 1_000,
    "a redirect": whole(BODY, "Location: //[::bad/", status="302 Found"),
    "a status of 999": whole(status="999 x"),
    "UTF-16": whole(
        BODY.decode().encode("utf-16"), "Content-Type: application/json; charset=utf-16"
    ),
    "a key twice": whole(
        b'{"ResponseCode": "1", "ResultCode": "1032", "access_token": "x",' + BODY[1:]
    ),
}

# Strange but complete answers, which the client must accept. A client that rejected every answer
# would also pass the cases above.
USABLE: dict[str, bytes] = {
    "plain": whole(),
    "chunks": head(CHUNKED) + CHUNK + LAST_CHUNK,
    "gzip": whole(gzip.compress(BODY, mtime=0), GZIP),
    "until closed": head() + BODY,
    "a broken content type": whole(BODY, "Content-Type: ;;;;=\xff"),
    "an unknown charset": whole(BODY, "Content-Type: application/json; charset=" + "x" * 1_000),
    "broken cookies": whole(BODY, 'Set-Cookie: =;;;"\xff=; Expires=never; Max-Age=x; Domain=..'),
    "bytes in a header": whole(BODY, b"X: \xff\xfe\x80"),
    "after a continue": head(status="100 Continue") + whole(),
    "a broken date": whole(BODY, "Date: yesterday", "Keep-Alive: timeout=-1", "Retry-After: x"),
}


class Hostile(RawServer):
    """A server that reads one whole request and then sends bytes.

    The server then calls `then` with the connection, or closes the connection without a `then`.
    """

    def __init__(self, answer: bytes, then: Then | None = None) -> None:
        super().__init__()
        self._answer, self._then = answer, then
        self.requests: list[bytes] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self.read_request(reader):
            return
        # In pieces, each after the client read the last one, so this server buffers little.
        for at in range(0, len(self._answer), _PIECE):
            writer.write(self._answer[at : at + _PIECE])
            await writer.drain()
        if self._then is not None:
            await self._then(reader, writer)

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        """Read and store one whole request, or nothing if the client closed the connection."""
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        request += await reader.readexactly(body_length(request))
        self.requests.append(request)
        return request


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection by a TCP reset, not by a normal close."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte from time to time, for ever."""
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def be_silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Leave the connection open and send nothing more."""
    await asyncio.sleep(3600)
