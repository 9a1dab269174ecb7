"""One connection pool to Redis, with short waits: nothing that a caller waits for may hang on
it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as redis_py
import structlog
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.utils import str_if_bytes

from domain.adapters.redis.address import SentinelAddress, TlsVerify, redis_address
from domain.adapters.redis.faults import Faults, PrimaryUnknown, WrongProtocol, fault_of
from domain.errors import QueueUnavailable

log = structlog.get_logger()

_CONNECT_SECONDS = 1
_ANSWER_SECONDS = 2
_POOL_SIZE = 50
_POOL_WAIT_SECONDS = 2

# How long a start waits for Redis, which need not be there.
_START_SECONDS = 2.0

# A server that is going down hangs up on a few; one that expects TLS, on all.
_HUNG_UP_MAX = 5


class Sentinels:
    """Knows which server is the primary now."""

    def __init__(self, address: SentinelAddress) -> None:
        self._name = address.primary_name
        self._clients = deque(
            redis_py.Redis(
                host=host,
                port=port,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_CONNECT_SECONDS,
                **address.connection,
            )
            for host, port in address.hosts
        )

    async def primary(self) -> tuple[str, int]:
        """Its host and port. Raises what the most telling of the Sentinels' failures was."""
        failure: Exception = PrimaryUnknown()
        for _ in range(len(self._clients)):
            # Behind the others before it is asked: if it hangs and we are cancelled, the next call
            # asks another one.
            client = self._clients[0]
            self._clients.rotate(-1)
            try:
                found = await client.sentinel_get_master_addr_by_name(self._name)  # type: ignore[no-untyped-call]
            except (RedisError, OSError, TimeoutError) as error:
                if isinstance(failure, PrimaryUnknown) or fault_of(error) is not None:
                    failure = error
                continue
            if found is not None:
                self._clients.remove(client)
                self._clients.appendleft(client)
                return str_if_bytes(found[0]), int(found[1])
        raise failure

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)


class _Known:
    """What the connections of one client found out together."""

    def __init__(self) -> None:
        self.hung_up = 0  # times running, before a first answer
        self.primary: tuple[str, int] | None = (
            None  # of a cluster, where it is not at the URL's own address
        )


# What a replica in cluster mode answers; without a host it means the host that was asked.
_MOVED = re.compile(r"MOVED \d+ (.*):(\d+)")


class _Primary(Connection):
    """A connection to the server that takes writes: asks the Sentinels where it is, and leaves a
    replica.
    """

    def __init__(self, *, sentinels: Sentinels | None, known: _Known, **options: Any) -> None:
        super().__init__(**options)
        self._own_address = (self.host, self.port)
        self._sentinels = sentinels
        self._known = known
        self._is_replica = False

    async def connect(self) -> None:
        if self._is_replica or self._known.primary not in (None, (self.host, self.port)):
            self._is_replica = False
            await self.disconnect(nowait=True)
        if not self.is_connected:
            self.host, self.port = await self._address()
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except (redis_py.ConnectionError, redis_py.TimeoutError):
            self._known.primary = None  # the next one asks at the URL's own address
            raise

    async def _address(self) -> tuple[str, int]:
        if self._sentinels is not None:
            return await self._sentinels.primary()
        return self._known.primary or self._own_address

    async def on_connect(self) -> None:
        try:
            await super().on_connect()
        except redis_py.ConnectionError as error:
            if fault_of(error) is None:
                self._known.hung_up += 1
                if self._known.hung_up >= _HUNG_UP_MAX:
                    raise WrongProtocol from error
            raise
        self._known.hung_up = 0

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            # A replica, or the primary that became one: before its next use we connect to where the
            # primary is now.
            moved = _MOVED.match(str(error))
            if moved is not None and self._sentinels is None:
                self._known.primary = (moved[1] or self.host, int(moved[2]))
            self._is_replica = moved is not None or isinstance(error, ReadOnlyError)
            raise


class _TlsPrimary(_Primary, SSLConnection):
    """The same by TLS."""

    async def connect(self) -> None:
        try:
            await super().connect()
        except redis_py.TimeoutError as error:
            # A Redis without TLS waits for the end of our greeting, so it looks as if it were away.
            if await _speaks_without_tls(self.host, self.port):
                raise WrongProtocol from error
            raise


async def _speaks_without_tls(host: str, port: int) -> bool:
    """Whether a plain PING is answered there, be it by an error."""
    writer = None
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"PING\r\n")
            return await reader.read(1) in (b"+", b"-")
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()


class RedisClient(redis_py.Redis):
    """A client that knows what Redis refuses it."""

    def __init__(
        self, pool: BlockingConnectionPool, known: _Known, sentinels: Sentinels | None
    ) -> None:
        super().__init__(connection_pool=pool)
        self._known = known
        self.faults = Faults()
        self._sentinels = sentinels

    async def shards(self) -> int:
        """How many shards the cluster has that answers; 0 if it is no cluster, or if that cannot
        be found out now.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                said = await self.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                hello = await self.execute_command("HELLO")  # type: ignore[no-untyped-call]
            # The address of each range's primary; those of its replicas come behind it.
            primaries = {(str_if_bytes(part[2][0] or b""), int(part[2][1])) for part in said}
            role = dict(zip(hello[::2], hello[1::2], strict=False)).get(b"role")
        except (RedisError, OSError, TimeoutError, TypeError, IndexError, ValueError):
            return 0  # each use of Redis will name what is wrong
        if len(primaries) == 1 and role == b"replica" and self._known.primary is None:
            (self._known.primary,) = primaries if all(host for host, _ in primaries) else (None,)
        return len(primaries)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self._sentinels is not None:
            await self._sentinels.aclose()


def connect(
    url: str, *, client_name: str, ca_file: Path | None = None, verify: TlsVerify | None = None
) -> RedisClient:
    """A client that connects when first used, and again after Redis was away."""
    address = redis_address(url, ca_file=ca_file, verify=verify)
    if not address.is_verified:
        log.warning(
            "redis_certificate_not_checked",
            what="Who can reach our traffic to Redis can read and change it.",
        )
    sentinels = Sentinels(address.sentinels) if address.sentinels else None
    known = _Known()
    options: dict[str, Any] = {
        "max_connections": _POOL_SIZE,
        "timeout": _POOL_WAIT_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _ANSWER_SECONDS,
        "client_name": client_name,
        "connection_class": _TlsPrimary if address.is_tls else _Primary,
        "sentinels": sentinels,
        "known": known,
    }
    return RedisClient(BlockingConnectionPool(**(options | address.connection)), known, sentinels)


@asynccontextmanager
async def available(redis: RedisClient, use: str, *, writes: bool = True) -> AsyncIterator[None]:
    """Turns what redis-py raises into `QueueUnavailable`, and notes what Redis refuses.

    `use`: what it is used for. `writes`: whether its success proves that Redis takes writes, also
    when it is full.
    """
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        redis.faults.failed(use, error)
        raise QueueUnavailable from error
    redis.faults.answered(use, writes=writes)
