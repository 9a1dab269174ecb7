"""The tail of the feed: one reader for all requests of a process that wait for events.

The tail runs only while a request waits. Redis pub/sub is only its bell. The tail reads the new
events from Postgres by one query for all requests. It does so each time the bell rings, and when
the bell has been silent for a second. A lost message of Redis therefore delays an event by about a
second.

* A request that waits for a payment gets a `Wait`. The request first registers and then reads the
  payment. An event of the payment wakes it, and it reads the payment again.
* A stream (`event_stream.py`) gets a `Subscription`: a bounded queue of events in the feed's order.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from uuid import UUID

import structlog

from domain.adapters.postgres.feed import Feed, FeedPlace, ListedEvent
from domain.adapters.redis.cancelling import end_task
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.listening import ring_on_events
from domain.errors import PaymentServiceError
from gateway.cursors import feed_cursor
from gateway.edge.read_queue import ReadQueue

log = structlog.get_logger()

# The tail reads if the bell was silent for this time, because Redis may have lost a message.
_POLL_SECONDS = 1.0
# The pause after each page of events has two uses. If many clients wait, the process gets time for
# its other requests. And events collect during the pause, so that each client gets several in one
# write.
_PAUSE_SECONDS = 0.02
# The pause is longer by this time for each stream or wait that the read woke.
_PAUSE_SECONDS_PER_DELIVERY = 0.0001
# The tail sleeps for this time after a read that failed because Postgres is away. Then it waits
# for the bell.
_RETRY_SECONDS = 0.25
_PAGE_SIZE = 500
# The most events in the queue of a stream. If more come, the stream is cut off, unless it still
# reads pages of the feed (`is_catching_up`). Long queues cost little memory, because all queues
# refer to the same frames.
QUEUE_MAX = 2_000


class End(StrEnum):
    """Why a stream ends."""

    SLOW_READER = "slow_reader"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a reason
    UNKNOWN_EVENT = "unknown_event"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


class Frame:
    """One event of the feed, encoded once for all streams that get it."""

    __slots__ = ("place", "wire")

    def __init__(self, event: ListedEvent) -> None:
        self.place = event.place
        # The body is compact JSON, so it contains no line break.
        self.wire = f"id: {feed_cursor(event.place)}\ndata: {event.body}\n\n".encode()


class Wait:
    """A request that waits for one payment."""

    __slots__ = ("_rung",)

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def next(self, until: float) -> bool:
        """Waits for the next ring, or until the loop's time `until`. Returns whether it rang."""
        try:
            async with asyncio.timeout_at(until):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Subscription:
    """The events that a stream has not sent yet.

    `is_behind`: earlier events may be missing in the queue. The stream must read them from pages of
    the feed before it sends more of the queue.
    `is_catching_up`: the stream reads pages. If the queue overflows now, the stream need not end,
    because the pages have these events too.
    `end`: the stream must end soon, for this reason.
    """

    __slots__ = ("_changed", "_queue", "end", "is_behind", "is_catching_up")

    def __init__(self) -> None:
        self._queue: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self.is_behind = False
        self.is_catching_up = False
        self.end: End | None = None

    def push(self, frames: Sequence[Frame]) -> None:
        if len(self._queue) + len(frames) > QUEUE_MAX:
            self._queue.clear()
            if self.is_catching_up:
                self.is_behind = True  # the pages have these events too
            else:
                self.finish(End.SLOW_READER)
        elif self.end is None:
            self._queue += frames
        self._changed.set()

    def mark_behind(self) -> None:
        self.is_behind = True
        self._changed.set()

    def finish(self, end: End) -> None:
        self.end = self.end or end
        self._changed.set()

    def take(self, after: int) -> list[Frame]:
        """Removes all events from the queue. Returns those after the position `after`."""
        self._changed.clear()
        frames = [frame for frame in self._queue if frame.place.position > after]
        self._queue.clear()
        return frames

    async def changed(self, until: float) -> None:
        """Waits until there is work for the stream, or until the loop's time `until`.

        There is work if the queue has a new event, or if `is_behind` or `end` was set.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return


class EventTail:
    """The tail of one process. Call `stop` when the process drains, and `close` at its end."""

    def __init__(self, feed: Feed, reads: ReadQueue, redis: RedisClient) -> None:
        self._feed = feed
        self._reads = reads
        self._redis = redis
        self._bell = asyncio.Event()
        self._waits: defaultdict[UUID, set[Wait]] = defaultdict(set)
        # The streams by the owner whose events they get. None: all events.
        self._streams: defaultdict[str | None, set[Subscription]] = defaultdict(set)
        # The last event that was read. None: the tail has not begun.
        self._place: FeedPlace | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_stopping = False

    @contextmanager
    def wait_for(self, payment_id: UUID) -> Iterator[Wait]:
        """Gives a `Wait` that rings each time an event of the payment enters the feed."""
        wait = Wait()
        self._waits[payment_id].add(wait)
        self._ensure_running()
        try:
            yield wait
        finally:
            _discard(self._waits, payment_id, wait)
            self._end_if_unused()

    @contextmanager
    def subscribe(self, owner: str | None) -> Iterator[Subscription]:
        """Queues every event of `owner` (None: of all) that enters the feed during the block.

        If the tail has not begun yet, it marks the subscription as behind when it begins.
        """
        subscription = Subscription()
        if self.is_stopping:
            subscription.finish(End.SHUTDOWN)
        self._streams[owner].add(subscription)
        self._ensure_running()
        try:
            yield subscription
        finally:
            _discard(self._streams, owner, subscription)
            self._end_if_unused()

    def stop(self) -> None:
        """Tells every waiting request to answer now, and every stream to end."""
        self.is_stopping = True
        self._wake_all_waits()
        for subscription in self._all_streams():
            subscription.finish(End.SHUTDOWN)

    async def close(self) -> None:
        """Ends the tail."""
        self._waits.clear()
        self._streams.clear()
        self._bell.set()
        if self._task is not None:
            await self._task

    def _is_used(self) -> bool:
        return bool(self._waits or self._streams)

    def _ensure_running(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="event tail")

    def _end_if_unused(self) -> None:
        if not self._is_used():
            self._bell.set()

    async def _run(self) -> None:
        listening = asyncio.create_task(ring_on_events(self._redis, self._bell.set))
        try:
            while self._is_used():
                self._bell.clear()
                await self._read_safely()
                await self._wait_for_bell()
        finally:
            await end_task(listening)
            self._task, self._place = None, None
            if self._is_used():  # a request came while the listener was ending
                self._ensure_running()

    async def _wait_for_bell(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._bell.wait()
        except TimeoutError:
            return

    async def _read_safely(self) -> None:
        """Reads the new events. If Postgres is away, the next read tries again."""
        try:
            await self._read()
        except PaymentServiceError:
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception:
            log.exception("event_tail_failed")
            await asyncio.sleep(_POLL_SECONDS)

    async def _read(self) -> None:
        if self._place is None:
            self._place = await self._reads.run(self._feed.end)
            # An event may have entered the feed after a request registered and before the tail
            # found the feed's end. The tail never reads this event, so each request must look for
            # it.
            self._wake_all_waits()
            for subscription in self._all_streams():
                subscription.mark_behind()
            return
        while self._is_used():
            place = self._place
            events = await self._reads.run(partial(self._feed.page_after, place, limit=_PAGE_SIZE))
            if events is None:
                # A backup was restored, or a standby that lacks commits became the server.
                log.warning("event_tail_restarts", reason="the feed lacks the tail's last event")
                self._place = None
                for subscription in self._all_streams():
                    subscription.finish(End.UNKNOWN_EVENT)
                self._wake_all_waits()
                self._bell.set()
                return
            if events:
                self._place = events[-1].place
            deliveries = self._deliver(events)
            await asyncio.sleep(_PAUSE_SECONDS + deliveries * _PAUSE_SECONDS_PER_DELIVERY)
            if len(events) < _PAGE_SIZE:
                return

    def _deliver(self, events: Sequence[ListedEvent]) -> int:
        """Gives the events to all requests that wait for them. Returns the number of wake-ups."""
        deliveries = 0
        frames_of: defaultdict[str | None, list[Frame]] = defaultdict(list)
        for event in events:
            for wait in self._waits.get(event.payment_id, ()):
                wait.ring()
                deliveries += 1
            owners = {None, event.owner} & self._streams.keys()
            if owners:
                frame = Frame(event)
                for owner in owners:
                    frames_of[owner].append(frame)
        for owner, frames in frames_of.items():
            for subscription in self._streams[owner]:
                subscription.push(frames)
                deliveries += 1
        return deliveries

    def _wake_all_waits(self) -> None:
        for waits in self._waits.values():
            for wait in waits:
                wait.ring()

    def _all_streams(self) -> Iterator[Subscription]:
        for subscriptions in self._streams.values():
            yield from subscriptions


def _discard(registry: defaultdict, key: object, member: object) -> None:  # type: ignore[type-arg]
    members = registry.get(key)
    if members is not None:
        members.discard(member)
        if not members:
            del registry[key]
