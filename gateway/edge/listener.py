"""Accepts connections while there is room for them. The others wait in the kernel's queue.

asyncio's own servers accept every connection at once, so a process without room could only reset
it. A connection that waits in the queue costs the process nothing, and is served as soon as another
connection has ended.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from domain.adapters.settings.errors import SettingsError
from gateway.edge.connections import Connection, Connections

log = structlog.get_logger()

# The kernel cuts this number to its own limit (net.core.somaxconn, 4096 by default).
BACKLOG = 16_384

# After this many accepts the loop does other work, such as reading the new connections.
_ACCEPTS_AT_ONCE = 16
# While there is no room, the process looks this often for peers that have been slow for too long.
_LOOK_SECONDS = 0.25
# If the process itself stood still, bytes of its peers may have arrived meanwhile. In this time the
# loop reads them, before the process looks for slow peers.
_READ_FIRST_SECONDS = 0.01
# The kernel has no file or memory for the connection. Others may give some back soon.
_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def listening_sockets(port: int) -> list[socket.socket]:
    """Sockets that listen on `port`, for IPv4 and, if the machine has it, for IPv6.

    Raises SettingsError if the kernel refuses the port.
    """
    try:
        return _listening_sockets(port)
    except OSError as error:
        # Python adds the address to the error's text.
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise SettingsError(f"cannot listen on port {port} (PORT): {reason}") from None


def _listening_sockets(port: int) -> list[socket.socket]:
    sockets = [socket.create_server(("", port), family=socket.AF_INET, backlog=BACKLOG)]
    if socket.has_ipv6:
        try:
            # create_server makes a socket for IPv6 alone, so the two do not conflict.
            sockets.append(
                socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG)
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                sockets[0].close()
                raise
    for one in sockets:
        one.setblocking(False)
    return sockets


class Listener:
    """Accepts connections from `sockets` between `start` and `close`."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        make_connection: Callable[[], Connection],
    ) -> None:
        self._sockets = sockets
        self._connections = connections
        self._make_connection = make_connection
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._look: asyncio.TimerHandle | None = None
        self._is_accepting = False

    def start(self) -> None:
        self._connections.when_one_ends = self._resume
        self._resume()

    def close(self) -> None:
        """Accepts no more connections. The kernel resets those that still wait."""
        self._connections.when_one_ends = None
        self._stop()
        for one in self._sockets:
            one.close()

    def _resume(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
            self._connections.is_full = False
            self._cancel_look()
            for one in self._sockets:
                self._loop.add_reader(one, self._accept, one)

    def _stop(self) -> None:
        self._cancel_look()
        if self._is_accepting:
            self._is_accepting = False
            for one in self._sockets:
                self._loop.remove_reader(one)

    def _wait_for_room(self) -> None:
        """Accepts nothing until a connection ends or a slow peer's connection is closed."""
        self._stop()
        self._connections.is_full = True
        self._look = self._loop.call_later(_READ_FIRST_SECONDS, self._make_room)

    def _make_room(self) -> None:
        if self._connections.make_room(self._loop.time()):
            self._resume()
        else:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._make_room_after_reading)

    def _make_room_after_reading(self) -> None:
        self._look = self._loop.call_later(_READ_FIRST_SECONDS, self._make_room)

    def _cancel_look(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if not self._connections.has_room(len(self._opening)):
                self._wait_for_room()
                return
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    log.warning("no_connection_accepted", error=errno.errorcode[error.errno])
                    self._stop()
                    self._look = self._loop.call_later(_LOOK_SECONDS, self._resume)
                    return
                continue  # the peer has gone already
            accepted.setblocking(False)
            opening = self._loop.create_task(self._open(accepted))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_connection, accepted)
        except OSError:
            with suppress(OSError):
                accepted.close()
