"""The bell: publishes each event (an end, a correction, a late receipt) on Redis pub/sub.

The record of the events is in Postgres.
"""

from __future__ import annotations

from collections.abc import Sequence

from domain.adapters.redis.connection import RedisClient, record_use
from domain.lifecycle.announce import OutboxEvent

CHANNEL = "payment-events"


class RedisBell:
    """Satisfies `domain.lifecycle.announce.Bell`."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        """See `domain.lifecycle.announce.Bell.ring`."""
        async with (
            record_use(self._redis, "bell", is_write=False),
            self._redis.pipeline(transaction=False) as pipeline,
        ):
            for event in events:
                pipeline.publish(CHANNEL, event.body)
                pipeline.publish(f"{CHANNEL}:{event.payment_id}", event.body)
            await pipeline.execute()
