"""Balances connections over the callback receivers: one port in front of all of them.

If a receiver does not listen, the balancer tries the next receiver. It never repeats a request.
Daraja sends a callback once, so the callbacks that a killed receiver was reading are lost.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import Self
from urllib.parse import urlsplit

from tests.stack.ports import release_port, reserve_port

_CHUNK_BYTES = 65_536
_OPEN_FILES_MAX = 500


class Balancer:
    """`async with Balancer() as balancer:`; Daraja gets `balancer.url`."""

    def __init__(self) -> None:
        self._port = reserve_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._connections: set[asyncio.Task[None]] = set()

    def forward_to(self, urls: list[str]) -> None:
        """Forward to these receivers from now on."""
        self._ports = [urlsplit(url).port for url in urls]
        self._turns = cycle(range(len(urls)))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, backlog=_OPEN_FILES_MAX
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        release_port(self._port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            turn = next(self._turns)
            for port in [*self._ports[turn:], *self._ports[:turn]]:
                with suppress(OSError):
                    back, forth = await asyncio.open_connection("127.0.0.1", port)
                    await asyncio.gather(_copy(reader, forth), _copy(back, writer))
                    return
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until it ends, then close the other side."""
    with suppress(OSError):
        # If the other direction closed the writer, uvloop raises a RuntimeError on write.
        while (data := await reader.read(_CHUNK_BYTES)) and not writer.is_closing():
            writer.write(data)
            await writer.drain()
    writer.close()
