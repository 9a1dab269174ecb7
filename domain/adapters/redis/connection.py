"""One connection pool to Redis, with short waits: nothing that a caller waits for may hang on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from arq.connections import ArqRedis
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from domain.errors import QueueUnavailable

_CONNECT_SECONDS = 1
_ANSWER_SECONDS = 2
_POOL_SIZE = 50
_POOL_WAIT_SECONDS = 2


def connect(url: str, *, client_name: str) -> ArqRedis:
    """A client that connects when first used, and again after Redis was away."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_POOL_SIZE,
        timeout=_POOL_WAIT_SECONDS,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        client_name=client_name,
    )
    return ArqRedis(pool)


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Turns what redis-py raises into `QueueUnavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise QueueUnavailable from error
