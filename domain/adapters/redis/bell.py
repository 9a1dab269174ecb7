"""The bell: publishes each event (an end, a correction, a late receipt) on Redis pub/sub.

The record of the events is in Postgres.
"""

from __future__ import annotations

from collections.abc import Sequence

from domain.adapters.batching import Lane
from domain.adapters.redis.connection import RedisClient, record_use
from domain.changes import Announcement

CHANNEL = "payment-events"


class RedisBell:
    """Satisfies `domain.lifecycle.announce.Bell`."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._lane: Lane[Announcement, None] = Lane(self._publish, key=lambda item: item.history_id)

    async def ring(self, announcement: Announcement) -> None:
        """See `domain.lifecycle.announce.Bell.ring`."""
        async with record_use(self._redis, "bell", is_write=False):
            await self._lane.submit(announcement)

    async def _publish(self, announcements: Sequence[Announcement]) -> list[None]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for item in announcements:
                pipeline.publish(CHANNEL, item.body)
                pipeline.publish(f"{CHANNEL}:{item.payment_id}", item.body)
            await pipeline.execute()
        return [None] * len(announcements)
