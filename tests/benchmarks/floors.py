"""The floors: the same work with the same libraries, but without our code.

`python -m tests.benchmarks.floors DATABASE_URL PORT` serves two of the floors in a separate
process, like the service.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import asyncpg
import uvloop
from aiohttp import web
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio import ConnectionPool

_BODY = b'{"id": "00000000-0000-0000-0000-000000000000", "status": "pending"}'


async def serve(database_url: str, port: int) -> None:
    """Serves `/bare`, which answers 202, and `/insert`, which first commits one durable row."""
    pool = await asyncpg.create_pool(database_url, min_size=10, max_size=10)
    await pool.execute(
        "CREATE TABLE IF NOT EXISTS floor (id bigserial PRIMARY KEY, body text NOT NULL)"
    )

    async def bare(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=_BODY, status=202, content_type="application/json")

    async def insert(request: web.Request) -> web.Response:
        body = await request.text()
        await pool.execute("INSERT INTO floor (body) VALUES ($1)", body)
        return web.Response(body=_BODY, status=202, content_type="application/json")

    app = web.Application()
    app.router.add_post("/bare", bare)
    app.router.add_post("/insert", insert)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def arq_jobs_per_second(redis_url: str, *, jobs: int) -> float:
    """The speed of one arq worker with jobs that return at once."""

    async def nothing(_context: dict[Any, Any]) -> None:
        return None

    redis = ArqRedis(ConnectionPool.from_url(redis_url), default_queue_name="floor")
    for _ in range(jobs):
        await redis.enqueue_job("nothing")
    worker = Worker(
        functions=[func(nothing, name="nothing")],  # type: ignore[arg-type]
        redis_pool=redis,
        queue_name="floor",
        burst=True,
        max_jobs=100,
        poll_delay=0.005,
        keep_result=0,
        handle_signals=False,
        log_results=False,
    )
    began_at = time.monotonic()
    await worker.main()
    elapsed = time.monotonic() - began_at
    await redis.aclose(close_connection_pool=True)
    return jobs / elapsed


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_:
        runner_.run(serve(sys.argv[1], int(sys.argv[2])))
