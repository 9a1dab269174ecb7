"""What our figures are compared with: the same work with the same libraries, without our code.

* bare: aiohttp that answers 202 and does nothing. This is the floor of accepts.
* plain: a service with a signed token, a key and one durable insert for each request.
* arq: one worker with jobs that do nothing. This is the floor of lives.
* publish: one durable commit, then one PUBLISH that a subscriber receives. This is the floor of the
  way from a callback to a subscriber.

`python -m tests.benchmarks.peers DATABASE_URL PORT KEYS_URL ISSUER` serves the first two in a
process of their own, like the service.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import uvloop
from aiohttp import web
from arq.connections import ArqRedis
from arq.worker import Worker, func
from jose import jwt
from redis.asyncio import ConnectionPool, Redis

from tests.benchmarks.loading import percentile
from tests.benchmarks.subject import DurablePostgres
from tests.benchmarks.subscriber import Subscriber
from tests.paths import ROOT
from tests.stack.environment import bare as bare_environment
from tests.stack.identity import Issuer
from tests.stack.install import temporary_folder
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process
from tests.stack.servers import RedisServer

_BODY = b'{"id": "00000000-0000-0000-0000-000000000000", "status": "pending"}'
_TABLE = """
CREATE TABLE IF NOT EXISTS plain_payments (
  id uuid PRIMARY KEY, caller text NOT NULL, key text NOT NULL, body jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (caller, key))
"""
_INSERT = """
INSERT INTO plain_payments (id, caller, key, body) VALUES ($1, $2, $3, $4)
ON CONFLICT (caller, key) DO UPDATE SET key = excluded.key RETURNING id
"""


class Peers:
    """A running PostgreSQL, Redis and process of peers: `async with Peers() as peers:`."""

    def __init__(self) -> None:
        self._closing = AsyncExitStack()
        self.issuer = Issuer()

    async def __aenter__(self) -> Self:
        enter = self._closing.enter_async_context
        self.postgres = await enter(DurablePostgres())
        self.redis = await enter(RedisServer())
        await enter(self.issuer)
        self.database_url = await self.postgres.create_database()
        self.process = await enter(self._served())
        self.url = self.process.url
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[Process]:
        folder, port = temporary_folder(), reserve_port()
        command = f"python -m tests.benchmarks.peers {self.database_url} {port}"
        process = Process(
            "peers",
            f"{command} {self.issuer.jwks_url} {self.issuer.url}",
            env=bare_environment(),
            log=folder.path / "peers.log",
            cwd=ROOT,
        )
        process.url = f"http://127.0.0.1:{port}"
        try:
            await process.start()
            await process.wait_logged("ready")
            yield process
            await process.terminate()
        finally:
            await process.kill()
            release_port(port)
            folder.remove()


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


async def commit_and_publish_ms(
    database_url: str, redis_url: str, *, per_second: float, seconds: float
) -> tuple[float, float]:
    """The time from before a durable commit until a subscriber has the message: p50 and p99."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS floor (id text PRIMARY KEY)")
    started: dict[str, float] = {}

    async def publish_one(redis: Redis) -> None:
        message = uuid4().hex
        started[message] = time.time()
        await connection.execute("INSERT INTO floor (id) VALUES ($1)", message)
        await redis.publish("floor", message)

    try:
        async with (
            Redis.from_url(redis_url) as redis,
            Subscriber(redis_url, "floor") as events,
        ):
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
                await publish_one(redis)
            await events.wait_until(lambda: len(events.received) == len(started), within_seconds=5)
            delays = sorted((at - started[key]) * 1e3 for key, at in events.received.items())
    finally:
        await connection.close()
    return percentile(delays, 50), percentile(delays, 99)


async def serve(database_url: str, port: int, keys_url: str, issuer: str) -> None:
    """Serves `/bare`, and the paths of payments in the plain way."""
    pool = await asyncpg.create_pool(database_url, min_size=10, max_size=10)
    await pool.execute(_TABLE)
    async with aiohttp.ClientSession() as client, client.get(keys_url) as answer:
        keys = await answer.json()
    callers: dict[str, str] = {}  # each token is verified once, as by every fast service

    def caller_of(request: web.Request) -> str:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if token not in callers:
            claims = jwt.decode(token, keys, "ES256", audience="authenticated", issuer=issuer)
            callers[token] = str(claims["sub"])
        return callers[token]

    async def answer_at_once(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=_BODY, status=202, content_type="application/json")

    async def accept(request: web.Request) -> web.Response:
        caller, key = caller_of(request), request.headers["X-Idempotency-Key"]
        body = await request.text()
        wanted = json.loads(body)
        payment_id: UUID = await pool.fetchval(_INSERT, uuid4(), caller, key, body)
        text = json.dumps({"id": str(payment_id), "status": "pending", **wanted})
        return web.Response(text=text, status=202, content_type="application/json")

    app = web.Application()
    app.router.add_post("/bare", answer_at_once)
    app.router.add_post("/v1/{kind}", accept)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for host in ("127.0.0.1", "127.0.0.2"):  # a load of two processes uses both
        await web.TCPSite(runner, host, port).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_:
        runner_.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
