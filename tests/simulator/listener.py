"""Daraja's own door: a listener that can close with all its connections and open again on the same
port.

A connection is cut with a reset and not with an orderly end, because that is what a client sees
when the other side dies: it cannot tell whether the request had its effect.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

from aiohttp import web

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no seconds: closing sends RST
BIND_TRIES_MAX = 50
BIND_PAUSE_SECONDS = 0.02


def cut(transport: asyncio.BaseTransport | None) -> None:
    """Reset one connection now; nothing more is sent on it."""
    if transport is None:
        return
    known = transport.get_extra_info("socket")
    if known is not None:
        # The loop's own socket object may not take options (uvloop's does not), so a copy of its
        # number does.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(known.fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    abort: Callable[[], None] = getattr(transport, "abort")  # noqa: B009 - uvloop's transports do not inherit it
    abort()


class Listener:
    """One application on one port."""

    def __init__(self, app: web.Application, *, host: str, port: int) -> None:
        self._host = host
        self.port = port
        # Nothing here outlives a shutdown, so nothing is waited for.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._reopen_task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether connections are taken."""
        return self._server is not None

    async def start(self) -> None:
        """Set up and open; port 0 becomes a real one, and stays that."""
        await self._runner.setup()
        await self.open(tries=1)

    async def open(self, *, tries: int = BIND_TRIES_MAX) -> None:
        """Take connections, on the same port as before."""
        self._forget_reopening()
        while self._server is None:
            tries -= 1
            assert self._runner.server is not None
            try:
                self._server = await asyncio.get_running_loop().create_server(
                    self._runner.server, self._host, self.port, backlog=1024, reuse_address=True
                )
            except OSError:
                if tries <= 0:
                    raise
                await asyncio.sleep(BIND_PAUSE_SECONDS)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self, *, seconds: float | None, spare: asyncio.BaseTransport | None = None) -> None:
        """Refuse connections and cut the existing ones; open again after so many real seconds, if
        given.

        One connection may be spared so that whoever asked for this still gets an answer.
        """
        self._forget_reopening()
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut_all(spare=spare)
        if seconds is not None:
            self._reopening = asyncio.get_running_loop().call_later(seconds, self._reopen)

    def cut_all(self, *, spare: asyncio.BaseTransport | None = None) -> None:
        """Reset all connections, idle ones too."""
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not spare:
                cut(connection.transport)

    async def stop(self) -> None:
        """Close for good."""
        self.close(seconds=None)
        await self._runner.cleanup()

    def _reopen(self) -> None:
        self._reopening = None
        self._reopen_task = asyncio.get_running_loop().create_task(self.open())

    def _forget_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._reopen_task is not None and self._reopen_task is not asyncio.current_task():
            self._reopen_task.cancel()
            self._reopen_task = None
