"""A subscriber of the events' Redis channels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cloudevents.core.exceptions import CloudEventValidationError
from redis.asyncio import Redis

from tests.cloud_events import parse_event
from tests.spec.system import System

CHANNEL_OF_ALL = "payment-events"


class Listener:
    """Collects all messages that are published from now on.

    Each message must be a CloudEvent by the official package.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.faults: list[str] = []

    def receive(self, channel: str, body: bytes) -> None:
        """Keeps a message, and notes if it is no CloudEvent."""
        self.received.append((channel, body))
        try:
            parse_event(body)
        except (AssertionError, ValueError, CloudEventValidationError) as error:
            self.faults.append(f"{body!r}: {error!r}")

    def of(self, payment_id: str) -> list[tuple[str, bytes]]:
        """The messages about one payment, as channel and body."""
        return [
            (channel, body)
            for channel, body in self.received
            if json.loads(body)["subject"] == payment_id
        ]

    def events(self, payment_id: str) -> list[Any]:
        """The events of one payment on the common channel, in order of arrival."""
        return [
            json.loads(body) for channel, body in self.of(payment_id) if channel == CHANNEL_OF_ALL
        ]


@asynccontextmanager
async def listening(system: System) -> AsyncIterator[Listener]:
    """A subscriber of all channels."""
    redis: Redis = Redis.from_url(system.stack.redis_url)
    subscriber = redis.pubsub()
    await subscriber.psubscribe(f"{CHANNEL_OF_ALL}*")
    listener = Listener()

    async def listen() -> None:
        async for message in subscriber.listen():
            if message["type"] == "pmessage":
                listener.receive(message["channel"].decode(), message["data"])

    task = asyncio.create_task(listen())
    try:
        yield listener
        assert listener.faults == []
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await subscriber.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()
