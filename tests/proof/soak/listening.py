"""A subscriber of the events that reconnects to Redis, and knows whether it may have missed any."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.proof.soak.evidence import ReceivedEvent

_CHANNEL = "payment-events"
_LOOK_SECONDS = 0.5
_START_SECONDS = 30.0


class Listener:
    """`async with Listener(url) as listener:`

    A message that comes twice is stored once and counted.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._received: Counter[ReceivedEvent] = Counter()
        self._subscriptions = 0
        self._subscribed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen())
        await asyncio.wait_for(self._subscribed.wait(), _START_SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @property
    def received_events(self) -> list[ReceivedEvent]:
        """Each different message, once."""
        return list(self._received)

    @property
    def repeated(self) -> int:
        """How many messages came again."""
        return self._received.total() - len(self._received)

    @property
    def listened_throughout(self) -> bool:
        """Whether the first subscription still holds."""
        return self._subscriptions == 1

    async def _listen(self) -> None:
        while True:
            # If Redis hung, only a new connection shows that it is back.
            client = Redis.from_url(
                self._url, socket_timeout=5, socket_connect_timeout=2, health_check_interval=2
            )
            try:
                async with client, client.pubsub() as channel:
                    await channel.subscribe(_CHANNEL)
                    self._subscriptions += 1
                    self._subscribed.set()
                    while True:
                        message = await channel.get_message(
                            ignore_subscribe_messages=True, timeout=_LOOK_SECONDS
                        )
                        if message is not None:
                            body = message["data"].decode()
                            event_id = str(json.loads(body)["id"])
                            self._received[ReceivedEvent(event_id=event_id, body=body)] += 1
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.2)
