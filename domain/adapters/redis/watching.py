"""Looks at what workers share in Redis, without changing it, for the console."""

from __future__ import annotations

from dataclasses import dataclass

from domain.adapters.redis.arq_queue import QUEUE
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.sharing import REQUEST_RATE

_RECOVERY_PER_SECOND = 0.1  # as in `gcra.py`


@dataclass(frozen=True, slots=True)
class SharedState:
    """The queue of jobs, and the limit of requests to Daraja.

    * `jobs`: a job carries one payment or several.
    * `oldest_job_seconds`: how long the first job has waited; None if the queue is empty.
    * `rate_factor`: 1, or less if Daraja lately answered that we send too much.
    * `rate_used`: how much of the burst of one second is used now, from 0 to 1.
    """

    jobs: int
    oldest_job_seconds: float | None
    rate_factor: float
    rate_used: float


async def read_shared_state(redis: RedisClient) -> SharedState:
    """Reads all of it in one round trip. Raises QueueUnavailable."""
    rate = f"{PREFIX}{REQUEST_RATE}"
    async with (
        record_use(redis, "looking at the queue", is_write=False),
        redis.pipeline(transaction=False) as pipeline,
    ):
        pipeline.time()
        pipeline.zcard(QUEUE)
        pipeline.zrange(QUEUE, 0, 0, withscores=True)
        pipeline.get(rate)
        pipeline.hmget(f"{rate}:factor", ["factor", "at"])
        (seconds, microseconds), jobs, first, due, (factor, at) = await pipeline.execute()
    now = seconds * 1_000_000 + microseconds
    recovered = _RECOVERY_PER_SECOND * (now - int(at)) / 1_000_000 if at else 0.0
    return SharedState(
        jobs=int(jobs),
        oldest_job_seconds=max(0.0, now / 1_000_000 - first[0][1] / 1000) if first else None,
        rate_factor=min(1.0, float(factor) + recovered) if factor else 1.0,
        rate_used=min(1.0, max(0.0, (int(due) - now) / 1_000_000)) if due else 0.0,
    )
