"""A proxy before PostgreSQL that breaks the connection around COMMIT."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit, urlunsplit

from tests.integration.raw_server import RawServer

# The functions that are transactions of their own, and the message that executes a statement.
_COMMITTING = re.compile(rb"mkwanja\.(accept|claim|read)_payments_")
_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"


class Proxy(RawServer):
    """Cuts the next COMMIT's connection, before or after PostgreSQL receives it (see `cut`).

    The call of a function that is a transaction of its own counts as a COMMIT.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = urlsplit(upstream)
        self.cut: str | None = None
        self.has_cut = asyncio.Event()
        self.is_open = asyncio.Event()  # while clear, new connections wait
        self.is_open.set()
        self._is_refusing = False

    def refuse(self) -> None:
        """Cut all open connections, and from now on every new connection."""
        self._is_refusing = True
        for task in self._tasks:
            task.cancel()

    @property
    def url(self) -> str:
        """The same database through this proxy, without TLS, so that the proxy sees each COMMIT."""
        credentials = self._upstream.netloc.rpartition("@")[0]
        parts = self._upstream._replace(
            netloc=f"{credentials}@127.0.0.1:{self.port}", query="sslmode=disable"
        )
        return urlunsplit(parts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self.is_open.wait()
            if not self._is_refusing:
                await self._forward(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio would log a cancelled connection as an error
        finally:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._upstream.hostname, self._upstream.port or 5432
        there_reader, there = await asyncio.open_connection(host, port)
        answers = asyncio.create_task(_pump(there_reader, writer))
        try:
            while data := await reader.read(65536):
                if self.cut is not None and _commits(data):
                    how, self.cut = self.cut, None
                    if how == "after":
                        answers.cancel()  # the client gets no part of the answer
                        await asyncio.gather(answers, return_exceptions=True)
                        there.write(data)
                        await there_reader.read(65536)
                    self.has_cut.set()
                    return
                there.write(data)
        except OSError:
            pass
        finally:
            answers.cancel()
            there.transport.abort()


def _commits(data: bytes) -> bool:
    return b"COMMIT" in data or (_EXECUTE in data and _COMMITTING.search(data) is not None)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.transport.abort()
