"""Listens for events on Redis pub/sub. A message is only a bell: the record is in Postgres.

Redis may lose a message, and redis-py loses every message while it is not connected. A caller of
this module must therefore also look by itself from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from redis.exceptions import RedisError

from domain.adapters.redis.bell import CHANNEL
from domain.adapters.redis.connection import RedisClient, record_use
from domain.errors import QueueUnavailable

_RECONNECT_AFTER_SECONDS = 1.0
# After so long without a message, a PING shows whether Redis is still there. A connection to a
# server that vanished would otherwise stay silent for ever.
_SILENT_SECONDS = 5.0


async def ring_on_events(redis: RedisClient, ring: Callable[[], None]) -> NoReturn:
    """Calls `ring` for each event that is published, until the task is cancelled.

    Subscribes again if the connection is lost. End its task by `end_task`.
    """
    while True:
        with suppress(QueueUnavailable):
            await listen(redis, ring)
        await asyncio.sleep(_RECONNECT_AFTER_SECONDS)


async def listen(redis: RedisClient, ring: Callable[[], None]) -> NoReturn:
    """Subscribes, and calls `ring` then and for each event. Uses one connection of the pool.

    Raises QueueUnavailable if Redis refuses the subscription or the connection is lost.
    """
    subscriber: Any = redis.pubsub()
    try:
        async with record_use(redis, "listen", is_write=False):
            await subscriber.subscribe(CHANNEL)
        ring()  # events may have been published before the subscription
        async with record_use(redis, "listen", is_write=False):
            await _listen(subscriber, ring)
    finally:
        with suppress(RedisError, OSError, TimeoutError):
            await subscriber.aclose()


async def _listen(subscriber: Any, ring: Callable[[], None]) -> NoReturn:
    has_pinged = False
    while True:
        message = await subscriber.get_message(timeout=_SILENT_SECONDS)
        if message is not None:
            has_pinged = False
            if message["type"] == "message":
                ring()
        elif has_pinged:
            raise TimeoutError
        else:
            has_pinged = True
            await subscriber.ping()
