"""The IP addresses of Daraja's host: looked up every few seconds, and tried one after another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from domain.adapters.batching import Abandoned, Lane

Connection = TypeVar("Connection")

_LIFETIME_SECONDS = 10.0


class Addresses:
    """Finds the addresses of hosts. Concurrent requests share a lookup."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, Sequence[str]]] = {}  # with the end of their life
        self._working: dict[str, str] = {}
        self._lookups: Lane[str, Sequence[str]] = Lane(
            self._look_up,
            key=lambda host: host,
            shared=lambda host: host,
            abandoned=Abandoned.DROP,
        )

    async def try_each(
        self, host: str, connect: Callable[[str], Awaitable[Connection]], *, seconds_max: float
    ) -> Connection:
        """Call `connect` with one address after another until one works. Raises OSError.

        Each address gets an equal part of the time, so that one that never answers does not use up
        all of it. If an address fails, the one that works is the first to try from now on.
        """
        addresses = await self._find(host)
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(seconds_max / len(addresses)):
                    connection = await connect(address)
            except OSError:  # a TimeoutError is one
                continue
            self._remember(host, address, addresses)
            return connection
        connection = await connect(addresses[-1])
        self._remember(host, addresses[-1], addresses)
        return connection

    def _remember(self, host: str, working: str, addresses: Sequence[str]) -> None:
        if working != addresses[0]:
            self._working[host] = working

    async def _find(self, host: str) -> Sequence[str]:
        ends_at, addresses = self._found.get(host, (0.0, ()))
        if asyncio.get_running_loop().time() >= ends_at or not addresses:
            addresses = await self._lookups.submit(host)
        working = self._working.get(host)
        if working is None or working not in addresses:
            return addresses
        return [working, *(address for address in addresses if address != working)]

    async def _look_up(self, hosts: Sequence[str]) -> list[Sequence[str] | BaseException]:
        return [await self._look_up_one(host) for host in hosts]

    async def _look_up_one(self, host: str) -> Sequence[str] | BaseException:
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            return error
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in infos))
        self._found[host] = (loop.time() + _LIFETIME_SECONDS, addresses)
        return addresses
