"""Looks up names in threads of our own.

The lookups of Daraja's name use the few threads of the event loop. A name server that never answers
for an endpoint's name must not occupy these few threads.

Nor may it delay other endpoints. A name has one lookup at a time, whose thread may hang for longer
than an attempt takes. A name whose lookup hung is *slow* for a while, and the lookups of all slow
names together get only a few threads. Many more are left than a worker serves endpoints at the same
time, so other names get one, unless more than a hundred new names hang at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence

from domain.webhooks.addresses import Address, parse_address

_AT_ONCE_MAX = 256
_SLOW_AT_ONCE_MAX = 32

# A name whose lookup takes longer than this is slow, for so long after the end of the lookup.
_SLOW_AFTER_SECONDS = 3.0
_SLOW_FOR_SECONDS = 900.0

# The most slow names that are remembered. The oldest is forgotten first.
_SLOW_NAMES_MAX = 1_000


class NameNotResolved(Exception):
    """The name has no address, or too many lookups are waiting already."""


class Lookups:
    """Finds the addresses of names. One lookup of a name at a time, which its askers share."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, asyncio.Future[Sequence[Address]]] = {}
        # When the lookup of each running name began, and until when each name is slow.
        self._began: dict[str, float] = {}
        self._slow_until: dict[str, float] = {}

    async def find(self, host: str) -> Sequence[Address]:
        """The addresses of `host`, in the order of the system. Raises NameNotResolved."""
        literal = parse_address(host)
        if literal is not None:
            return [literal]
        if not host.isascii():
            # Python would encode it by an older standard, perhaps to the name of another owner.
            raise NameNotResolved
        lookup = self._running.get(host)
        if lookup is None:
            if not self._has_thread(host):
                raise NameNotResolved
            lookup = self._start(host)
        return await asyncio.shield(lookup)

    def _has_thread(self, host: str) -> bool:
        """Whether a lookup of `host` may begin."""
        if len(self._running) >= _AT_ONCE_MAX:
            return False
        if not self._is_slow(host):
            return True
        return sum(map(self._is_slow, self._running)) < _SLOW_AT_ONCE_MAX

    def _is_slow(self, host: str) -> bool:
        """Whether the last lookup of `host` took long. A lookup that still runs counts at once."""
        now = self._clock()
        began = self._began.get(host)
        takes_long = began is not None and now - began > _SLOW_AFTER_SECONDS
        return takes_long or self._slow_until.get(host, now) > now

    def _note_end(self, host: str) -> None:
        """Remembers whether the lookup of `host` took long."""
        now = self._clock()
        took_seconds = now - self._began.pop(host)
        self._slow_until.pop(host, None)
        if took_seconds > _SLOW_AFTER_SECONDS:
            self._slow_until[host] = now + _SLOW_FOR_SECONDS
            if len(self._slow_until) > _SLOW_NAMES_MAX:
                del self._slow_until[next(iter(self._slow_until))]

    def _start(self, host: str) -> asyncio.Future[Sequence[Address]]:
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[Sequence[Address]] = loop.create_future()
        self._running[host] = lookup
        self._began[host] = self._clock()

        def finish(addresses: Sequence[Address]) -> None:
            del self._running[host]
            self._note_end(host)
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
