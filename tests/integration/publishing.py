"""Processes that publish events, and what a test reads of their work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from domain.adapters.redis.bell import CHANNEL
from domain.adapters.redis.connection import RedisClient
from domain.lifecycle.announce import Announcer, OutboxEvent
from tests.integration.conftest import PATIENCE_SECONDS, Store, success


class Bell:
    """Notes the events. Before that, it waits for `may_ring`, or raises `error`."""

    def __init__(self) -> None:
        self.rung: list[OutboxEvent] = []
        self.batches: list[int] = []
        self.is_ringing = asyncio.Event()
        self.may_ring = asyncio.Event()
        self.may_ring.set()
        self.error: Exception | None = None

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        self.is_ringing.set()
        await self.may_ring.wait()
        if self.error is not None:
            raise self.error
        self.rung += events
        self.batches.append(len(events))

    @property
    def bodies(self) -> list[str]:
        return [event.body for event in self.rung]


class Process:
    """A process that publishes: its store, its bell and its announcer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bell = Bell()
        self.announcer = Announcer(store.outbox, self.bell)

    async def finalize(self, payment_id: UUID) -> str:
        """Finalize a payment, as a callback does. Return the event's body."""
        result = await self.store.change(success(payment_id))
        self.announcer.announce_soon(result)
        assert result.announcement is not None
        return result.announcement.body

    async def publish(self) -> None:
        """Publish until this process has nothing to do."""
        self.announcer.publish_soon()
        await self.rest()

    async def rest(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.announcer._task is not None:
                await asyncio.wait([self.announcer._task])


async def event_bodies(store: Store) -> list[str]:
    """The bodies of all events, in the order of the feed."""
    sql = (
        "SELECT event_body FROM mkwanja.events AS event JOIN mkwanja.payment_history AS history"
        " ON history.id = event.history_id ORDER BY position"
    )
    return [row["event_body"] for row in await store.rows(sql)]


async def end_every_turn(store: Store) -> None:
    """Let the time pass after which another process may publish."""
    await store.execute(
        "UPDATE mkwanja.event_publisher SET turn_ends_at = now() - interval '1 ms'"
        " WHERE publisher IS NOT NULL"
    )


async def publisher_row(store: Store) -> dict[str, Any]:
    """The one row that says how far events are published."""
    [row] = await store.rows("SELECT * FROM mkwanja.event_publisher")
    return row


async def published_through(store: Store) -> int:
    return int((await publisher_row(store))["published_through"])


@asynccontextmanager
async def subscribed(redis: RedisClient) -> AsyncIterator[Any]:
    """A subscriber of the events of all payments."""
    async with redis.pubsub() as subscriber:
        await subscriber.subscribe(CHANNEL)

        yield subscriber


async def receive(subscriber: Any, *, count: int) -> list[str]:
    """The next `count` events that the subscriber receives."""
    received: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(received) < count:
            message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)
            received += [message["data"].decode()] if message else []
    return received
