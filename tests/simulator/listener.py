"""A listener that can close with all its connections, and open again on the same port.

The listener cuts a connection by a reset. The client sees the same if a server dies, and does not
know whether its request had an effect.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

from aiohttp import web

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on with 0 seconds: closing sends RST
BIND_TRIES_MAX = 50
BIND_PAUSE_SECONDS = 0.02


def cut(transport: asyncio.BaseTransport | None) -> None:
    """Reset one connection now. Nothing more is sent on it."""
    if transport is None:
        return
    loop_socket = transport.get_extra_info("socket")
    if loop_socket is not None:
        # The event loop's socket object may not accept options (uvloop's does not). Therefore the
        # option is set on a socket with a copy of its file descriptor.
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(loop_socket.fileno())) as copy,
        ):
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    # uvloop's transports have `abort`, but do not inherit it from a public class.
    abort: Callable[[], None] = getattr(transport, "abort")  # noqa: B009
    abort()


class Listener:
    """One application on one port."""

    def __init__(self, app: web.Application, *, host: str, port: int) -> None:
        self._host = host
        self.port = port
        # A shutdown does not wait, because nothing here has to finish.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._reopen_task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the listener accepts connections."""
        return self._server is not None

    async def start(self) -> None:
        """Set up and open. Port 0 is replaced by a free port, which stays the same."""
        await self._runner.setup()
        await self.open(tries=1)

    async def open(self, *, tries: int = BIND_TRIES_MAX) -> None:
        """Accept connections, on the same port as before."""
        self._cancel_reopening()
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
        """Refuse connections and cut the existing ones. Opens again after `seconds` real seconds.

        The connection `spare` stays, so that the client that asked for this gets its answer.
        """
        self._cancel_reopening()
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut_all(spare=spare)
        if seconds is not None:
            self._reopening = asyncio.get_running_loop().call_later(seconds, self._reopen)

    def cut_all(self, *, spare: asyncio.BaseTransport | None = None) -> None:
        """Reset all connections, idle ones too, except `spare`."""
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

    def _cancel_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._reopen_task is not None and self._reopen_task is not asyncio.current_task():
            self._reopen_task.cancel()
            self._reopen_task = None
