"""Publishes events to subscribers, at least once and in the order of the feed.

The commit that changed a payment also put the event's body into the outbox in PostgreSQL. The
process of that commit then calls `publish_soon`. One process at a time takes a turn as publisher:
it fetches a batch, publishes it on Redis, and records the end of this batch together with the next
fetch. The sweeper calls `publish_soon` too, if events are overdue. This happens if Redis was not
reachable, or if the publisher was killed.

If another process has the turn, this process need not wait: the publisher fetches again after each
batch, and that fetch sees every event that was committed before this process looked
(docs/adr/0025).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from domain.changes import ChangeResult
from domain.errors import PaymentServiceError, QueueUnavailable

log = structlog.get_logger()

# After this time another process may take the turn, because the publisher may be dead.
TURN_SECONDS = 4.0

# The publisher stops publishing a batch after this time, so that it stops before its turn ends.
_PUBLISH_SECONDS_MAX = 2.0
assert 2 * _PUBLISH_SECONDS_MAX <= TURN_SECONDS  # noqa: S101

# After a failure, this process leaves the events to others for this long. Otherwise each commit
# would try again while Redis is not reachable.
_REST_SECONDS = 1.0

# A process that ends publishes until nothing is left, but no longer than this. If events keep
# coming for so long, the next commit of another process finds the turn free.
_DRAIN_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event to publish, always with these bytes. `position` is its position in the feed."""

    position: int
    payment_id: UUID
    body: str


class Outbox(Protocol):
    """The stored events, and the position up to which they are published."""

    async def take_turn(
        self, publisher: UUID, *, published_through: int | None
    ) -> Sequence[OutboxEvent]:
        """Records what this publisher published, and fetches the next events in their order.

        If it returns events, the publisher has the turn for TURN_SECONDS. If it returns none,
        nothing is left to publish, or another publisher has the turn. `published_through` is the
        position of the last event of the previous batch. It is ignored if the publisher has lost
        its turn since. Raises StoreUnavailable.
        """
        ...

    async def end_turn(self, publisher: UUID, *, published_through: int | None) -> None:
        """Records what this publisher published, and lets others take the turn at once."""
        ...


class Bell(Protocol):
    """Redis pub/sub, which delivers a message at most once."""

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        """Publishes each event on the channel of all payments and on the payment's own, in order.

        Raises QueueUnavailable.
        """
        ...


class Announcer:
    """Publishes events in the background, so that the work that made them does not wait."""

    def __init__(self, outbox: Outbox, bell: Bell) -> None:
        self._outbox = outbox
        self._bell = bell
        self._publisher = uuid4()
        self._task: asyncio.Task[None] | None = None
        # Whether an event may have been committed since the last fetch began.
        self._is_wanted = False
        self._drains_until = math.inf
        self._rests_until = 0.0

    def announce_soon(self, result: ChangeResult) -> None:
        """Publishes the event of `result` in the background, if it has one."""
        if result.announcement is not None:
            self.publish_soon()

    def publish_soon(self) -> None:
        """Publishes all events of the outbox in the background."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until:
            return  # the sweeper finds the events
        self._is_wanted = True
        if self._task is None:
            self._task = loop.create_task(self._run())

    async def drain(self) -> None:
        """Publishes until nothing is left, or until events have kept coming for a second.

        Another process may have committed an event, found that this one has the turn, and left. So
        this process must look again before it gives its turn back.
        """
        self._drains_until = asyncio.get_running_loop().time() + _DRAIN_SECONDS_MAX
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                await self._publish_outbox()
        except PaymentServiceError as error:
            self._rest()
            log.warning("announcement_postponed", error=type(error).__name__)
        except Exception:
            self._rest()
            log.exception("announcement_failed")
        finally:
            self._task = None

    async def _publish_outbox(self) -> None:
        """Publishes batch after batch until none is left."""
        published_through = None
        time = asyncio.get_running_loop().time
        while True:
            # Reset the flag before the fetch: the fetch sees all events that were committed before
            # it.
            self._is_wanted = False
            events = await self._outbox.take_turn(
                self._publisher, published_through=published_through
            )
            if not events:
                return
            try:
                await self._publish(events)
            except Exception:
                await self._outbox.end_turn(self._publisher, published_through=None)
                raise
            published_through = events[-1].position
            if time() >= self._drains_until:
                await self._outbox.end_turn(self._publisher, published_through=published_through)
                return

    async def _publish(self, events: Sequence[OutboxEvent]) -> None:
        try:
            async with asyncio.timeout(_PUBLISH_SECONDS_MAX):
                await self._bell.ring(events)
        except TimeoutError as error:
            raise QueueUnavailable from error

    def _rest(self) -> None:
        self._rests_until = asyncio.get_running_loop().time() + _REST_SECONDS
