"""The bell: publishes each event (an end, a correction, a late receipt) on Redis pub/sub.

The record of the events is in Postgres.
"""

from __future__ import annotations

from collections.abc import Sequence

from domain.adapters.redis.connection import RedisClient, record_use
from domain.lifecycle.announce import OutboxEvent

CHANNEL = "payment-events"

# Publishes a batch in one call, because redis-py needs as much time for one answer as for a call.
# ARGV: the channel of all events; then the payment's id and the body of each event.
_PUBLISH = """
for i = 2, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[1], ARGV[i + 1])
  redis.call('PUBLISH', ARGV[1] .. ':' .. ARGV[i], ARGV[i + 1])
end
"""


class RedisBell:
    """Satisfies `domain.lifecycle.announce.Bell`."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._publish = redis.register_script(_PUBLISH)

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        """See `domain.lifecycle.announce.Bell.ring`."""
        arguments = [CHANNEL]
        for event in events:
            arguments += [str(event.payment_id), event.body]
        async with record_use(self._redis, "bell", is_write=False):
            await self._publish(keys=[], args=arguments)
