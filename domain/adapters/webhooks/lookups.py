"""Looks up names in threads of our own.

The lookups of Daraja's name use the few threads of the event loop. A name server that never answers
for an endpoint's name must not occupy these few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence

from domain.webhooks.addresses import Address, parse_address

_AT_ONCE_MAX = 32


class NameNotResolved(Exception):
    """The name has no address, or too many lookups are waiting already."""


class Lookups:
    """Finds the addresses of names. One lookup of a name at a time, which its askers share."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[Sequence[Address]]] = {}

    async def find(self, host: str) -> Sequence[Address]:
        """The addresses of `host`, in the order of the system. Raises NameNotResolved."""
        literal = parse_address(host)
        if literal is not None:
            return [literal]
        lookup = self._running.get(host)
        if lookup is None:
            if len(self._running) >= _AT_ONCE_MAX:
                raise NameNotResolved
            lookup = self._start(host)
        return await asyncio.shield(lookup)

    def _start(self, host: str) -> asyncio.Future[Sequence[Address]]:
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[Sequence[Address]] = loop.create_future()
        self._running[host] = lookup

        def finish(addresses: Sequence[Address]) -> None:
            del self._running[host]
            if lookup.cancelled():
                return
            if addresses:
                lookup.set_result(addresses)
            else:
                lookup.set_exception(NameNotResolved())
                lookup.exception()  # all askers may have left

        def look_up() -> None:
            addresses = _look_up(host)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(finish, addresses)

        # A daemon thread does not delay the end of the process.
        threading.Thread(target=look_up, name="webhook-lookup", daemon=True).start()
        return lookup


def _look_up(host: str) -> Sequence[Address]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    texts = dict.fromkeys(str(info[4][0]) for info in infos)
    return [address for address in map(parse_address, texts) if address is not None]
