"""The connection pool to Redis. All its waits are short, so Redis blocks no caller's request."""

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

from domain.adapters.redis.address import SentinelAddress, TlsVerify, parse_redis_url
from domain.adapters.redis.faults import Faults, PrimaryUnknown, WrongProtocol, classify_error
from domain.errors import QueueUnavailable

log = structlog.get_logger()

_CONNECT_SECONDS = 1
_ANSWER_SECONDS = 2
_POOL_SIZE = 50
_POOL_WAIT_SECONDS = 2

# How long a process waits for Redis at its start. After that it starts without Redis.
_START_SECONDS = 2.0

# If a server closes this many connections in a row before its first answer, we assume that it
# expects TLS. A server that shuts down closes fewer.
_EARLY_CLOSES_MAX = 5


class Sentinels:
    """Asks the Sentinels which server is the primary now."""

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

    async def find_primary(self) -> tuple[str, int]:
        """Returns the primary's host and port. Raises the Sentinels' most informative error."""
        failure: Exception = PrimaryUnknown()
        for _ in range(len(self._clients)):
            # Move this Sentinel to the end before we ask it: if it hangs and we are cancelled, the
            # next call asks another Sentinel.
            client = self._clients[0]
            self._clients.rotate(-1)
            get_address: Any = client.sentinel_get_master_addr_by_name
            try:
                address = await get_address(self._name)
            except (RedisError, OSError, TimeoutError) as error:
                if isinstance(failure, PrimaryUnknown) or classify_error(error) is not None:
                    failure = error
                continue
            if address is not None:
                self._clients.remove(client)
                self._clients.appendleft(client)
                return str_if_bytes(address[0]), int(address[1])
        raise failure

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)


class _SharedState:
    """What the connections of one client learned about the server."""

    def __init__(self) -> None:
        # Connections in a row that the server closed before its first answer.
        self.early_closes = 0
        # The primary of a cluster, if it is not at the address in the URL.
        self.primary: tuple[str, int] | None = None


# The answer of a replica in cluster mode. If the answer contains no host, the primary is on the
# host that we asked.
_MOVED = re.compile(r"MOVED \d+ (.*):(\d+)")


class _Primary(Connection):
    """A connection to the primary. It disconnects from a server that became a replica."""

    def __init__(
        self, *, sentinels: Sentinels | None, shared_state: _SharedState, **options: Any
    ) -> None:
        super().__init__(**options)
        self._url_address = (self.host, self.port)
        self._sentinels = sentinels
        self._shared_state = shared_state
        self._is_replica = False

    async def connect(self) -> None:
        if self._is_replica or self._shared_state.primary not in (None, (self.host, self.port)):
            self._is_replica = False
            await self.disconnect(nowait=True)
        if not self.is_connected:
            self.host, self.port = await self._find_address()
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except (redis_py.ConnectionError, redis_py.TimeoutError):
            self._shared_state.primary = None  # the next attempt uses the address in the URL
            raise

    async def _find_address(self) -> tuple[str, int]:
        if self._sentinels is not None:
            return await self._sentinels.find_primary()
        return self._shared_state.primary or self._url_address

    async def on_connect(self) -> None:
        try:
            await super().on_connect()
        except redis_py.ConnectionError as error:
            if classify_error(error) is None:
                self._shared_state.early_closes += 1
                if self._shared_state.early_closes >= _EARLY_CLOSES_MAX:
                    raise WrongProtocol from error
            raise
        self._shared_state.early_closes = 0

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Sends as redis-py does, but without a task for each command.

        redis-py calls `asyncio.wait_for`, which makes a task before Python 3.12. That is a fifth of
        the time of a command. It also swallows a cancellation that arrives when the task ends.
        """
        is_list = not isinstance(command, (bytes, str))
        if not self.is_connected or self.health_check_interval or not is_list:
            await super().send_packed_command(command, check_health)
            return
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command(command)
        except BaseException as error:
            # A part of the command may be sent, so the connection is of no more use.
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise redis_py.TimeoutError("Timeout writing to socket") from error
            if isinstance(error, OSError):
                raise redis_py.ConnectionError(f"Error while writing to socket: {error}") from error
            raise

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            # The server is a replica now. Before the next use of this connection we connect to the
            # current primary.
            moved = _MOVED.match(str(error))
            if moved is not None and self._sentinels is None:
                self._shared_state.primary = (moved[1] or self.host, int(moved[2]))
            self._is_replica = moved is not None or isinstance(error, ReadOnlyError)
            raise


class _TlsPrimary(_Primary, SSLConnection):
    """A connection to the primary over TLS."""

    async def connect(self) -> None:
        try:
            await super().connect()
        except redis_py.TimeoutError as error:
            # A Redis without TLS waits for more bytes of our TLS greeting, so the connection times
            # out as if Redis were away.
            if await _answers_without_tls(self.host, self.port):
                raise WrongProtocol from error
            raise


async def _answers_without_tls(host: str, port: int) -> bool:
    """Returns whether the server answers a plain PING, even with an error."""
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
    """A client of Redis that records the faults of Redis."""

    def __init__(
        self, pool: BlockingConnectionPool, shared_state: _SharedState, sentinels: Sentinels | None
    ) -> None:
        super().__init__(connection_pool=pool)
        self._shared_state = shared_state
        self.faults = Faults()
        self._sentinels = sentinels

    async def count_shards(self) -> int:
        """Returns the number of the cluster's shards.

        Returns 0 if Redis is no cluster, or if we cannot find out now.
        """
        execute: Any = self.execute_command
        try:
            async with asyncio.timeout(_START_SECONDS):
                slot_ranges = await execute("CLUSTER", "SLOTS")
                hello = await execute("HELLO")
            # The third item of each range is its primary; its replicas follow.
            primaries = {(str_if_bytes(item[2][0] or b""), int(item[2][1])) for item in slot_ranges}
            role = dict(zip(hello[::2], hello[1::2], strict=False)).get(b"role")
        except (RedisError, OSError, TimeoutError, TypeError, IndexError, ValueError):
            return 0  # the first use of Redis logs the cause
        if len(primaries) == 1 and role == b"replica" and self._shared_state.primary is None:
            [primary] = primaries
            self._shared_state.primary = primary if primary[0] else None
        return len(primaries)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self._sentinels is not None:
            await self._sentinels.aclose()


def connect(
    url: str, *, client_name: str, ca_file: Path | None = None, verify: TlsVerify | None = None
) -> RedisClient:
    """Returns a client that connects at its first use, and reconnects after Redis was away."""
    address = parse_redis_url(url, ca_file=ca_file, verify=verify)
    if not address.is_verified:
        log.warning(
            "redis_certificate_not_checked",
            problem="The certificate of Redis is not verified (REDIS_TLS_VERIFY or REDIS_URL). "
            "A host between us and Redis can read and change our traffic.",
            remedy="Set REDIS_TLS_VERIFY=full, and REDIS_CA_FILE to the certificate of the signer.",
        )
    sentinels = Sentinels(address.sentinels) if address.sentinels else None
    shared_state = _SharedState()
    options: dict[str, Any] = {
        "max_connections": _POOL_SIZE,
        "timeout": _POOL_WAIT_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _ANSWER_SECONDS,
        "client_name": client_name,
        "connection_class": _TlsPrimary if address.is_tls else _Primary,
        "sentinels": sentinels,
        "shared_state": shared_state,
    }
    pool = BlockingConnectionPool(**(options | address.connection))
    return RedisClient(pool, shared_state, sentinels)


@asynccontextmanager
async def record_use(redis: RedisClient, use: str, *, is_write: bool = True) -> AsyncIterator[None]:
    """Turns errors of redis-py into `QueueUnavailable`, and records success and failure of a use.

    `use` names the use of Redis in the log. `is_write` is true if success proves that Redis accepts
    writes and is not full.
    """
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        redis.faults.record_failure(use, error)
        raise QueueUnavailable from error
    redis.faults.record_success(use, is_write=is_write)
