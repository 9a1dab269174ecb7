"""Puts stale and repeated jobs into Redis, in the form that arq reads."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from tests.spec.system import System

_QUEUE = "arq:queue:{arq:abort}"


async def queue_job(
    redis: Redis, *arguments: Any, function: str = "take_next_step", late_ms: int = 0
) -> None:
    """Queue one job."""
    due_ms, job_id = int(time.time() * 1000) - late_ms, uuid4().hex
    job: dict[str, Any] = {"t": None, "f": function, "a": list(arguments), "k": {}, "et": due_ms}
    await redis.set(f"arq:job:{job_id}", json.dumps(job), ex=600)
    await redis.zadd(_QUEUE, {job_id: due_ms})


async def wait_until_all_jobs_ended(system: System, redis: Redis) -> None:
    """Wait until the workers have taken and ended every job."""
    await system.eventually(lambda: redis.zcard(_QUEUE), lambda length: length == 0)
    await system.eventually(lambda: redis.keys("arq:in-progress:*"), lambda keys: not keys)
