"""Publishes events to subscribers.

The commit that changed the payment also stored the event's body in PostgreSQL. This module
publishes that body on Redis pub/sub at least once, and then records the publication. If Redis is
not reachable, or if this process is killed, the sweeper publishes the event.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from domain.changes import Announcement, ChangeResult
from domain.errors import PaymentServiceError

log = structlog.get_logger()


class Bell(Protocol):
    """Redis pub/sub, which delivers a message at most once."""

    async def ring(self, announcement: Announcement) -> None:
        """Publishes on the channel of all payments and on the payment's own.

        Raises QueueUnavailable.
        """
        ...


class AnnouncementStore(Protocol):
    """Stores which events are published."""

    async def record_announced(self, announcement: Announcement) -> None:
        """Records a publication. Clears `event_due` if no event is left to publish."""
        ...


class Announcer:
    """Publishes events in the background, so that the work that made them does not wait."""

    def __init__(self, store: AnnouncementStore, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._tasks: set[asyncio.Task[bool]] = set()

    def announce_soon(self, result: ChangeResult) -> None:
        """Publishes the event of `result` in the background, if it has one."""
        if result.announcement is not None:
            task = asyncio.create_task(self.announce(result.announcement))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def announce(self, announcement: Announcement) -> bool:
        """Publishes the event and records the publication. Returns whether both succeeded.

        If not, the sweeper tries again.
        """
        try:
            await self._bell.ring(announcement)
            await self._store.record_announced(announcement)
        except PaymentServiceError as error:
            log.warning(
                "announcement_postponed",
                payment_id=str(announcement.payment_id),
                error=type(error).__name__,
            )
        except Exception:
            log.exception("announcement_failed", payment_id=str(announcement.payment_id))
        else:
            return True
        return False

    async def drain(self) -> None:
        """Waits for the publications under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
