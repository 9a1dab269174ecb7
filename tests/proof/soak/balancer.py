"""Balances connections over the callback receivers: one port in front of all of them.

Like a load balancer it tries the next receiver if one does not listen. It does not repeat a
request. Daraja sends once, so the requests of a killed receiver are lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
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
        self._backends: list[int] = []
        self._turn = count()
        self._connections: set[asyncio.Task[None]] = set()

    def forward_to(self, urls: Sequence[str]) -> None:
        """Forward to these from now on."""
        self._backends = [urlsplit(url).port or 80 for url in urls]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._take, "127.0.0.1", self._port, backlog=_OPEN_FILES_MAX
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        release_port(self._port)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            backend = await self._connect()
            if backend is not None:
                await asyncio.gather(_copy(reader, backend[1]), _copy(backend[0], writer))
        except asyncio.CancelledError:
            pass  # the run is over
        finally:
            self._connections.discard(task)
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn)
        for number in range(len(self._backends)):
            port = self._backends[(first + number) % len(self._backends)]
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until it ends, then close the other side."""
    with suppress(OSError):
        # If the other direction closed the writer, uvloop raises a RuntimeError on write.
        while (data := await reader.read(_CHUNK_BYTES)) and not writer.is_closing():
            writer.write(data)
            await writer.drain()
    writer.close()
