"""Telling subscribers what the record already holds.

Postgres is the record, Redis pub/sub the bell. The event was fixed in the commit that made it; here
it is only repeated, at least once, and the publication recorded. Whatever is lost on the way (Redis
away, this process killed) the sweeper finds.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from domain.changes import Announcement, ChangeResult
from domain.errors import PaymentServiceError

log = structlog.get_logger()


class Bell(Protocol):
    """Redis pub/sub: a hint, at most once by itself."""

    async def ring(self, announcement: Announcement) -> None:
        """Publishes on the channel of all payments and on the payment's own.

        Raises QueueUnavailable.
        """
        ...


class AnnouncementStore(Protocol):
    """Where it is recorded that subscribers were told."""

    async def record_announced(self, announcement: Announcement) -> None:
        """Records a publication, and clears the payment's due event with its last."""
        ...


class Announcer:
    """Publishes beside the work that made the fact, so that nobody waits for it."""

    def __init__(self, store: AnnouncementStore, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._tasks: set[asyncio.Task[bool]] = set()

    def announce_soon(self, result: ChangeResult) -> None:
        """Publishes what `result` owes, if it owes anything."""
        if result.announcement is not None:
            task = asyncio.create_task(self.announce(result.announcement))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def announce(self, announcement: Announcement) -> bool:
        """Publishes, then records it; whether both were done. A failure is left to the sweeper."""
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
        """Waits for what was begun."""
        while self._tasks:
            await asyncio.wait(self._tasks)
