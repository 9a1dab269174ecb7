"""What both gateway processes hold while they run; how they listen is in `edge/serving.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from arq.connections import ArqRedis

from domain.adapters import observability
from domain.adapters.postgres.changing import Changing
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.reading import Reading
from domain.adapters.postgres.sweeping import Sweeping
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import available, connect
from domain.adapters.settings import SharedSettings
from domain.errors import PaymentServiceError, QueueUnavailable
from domain.lifecycle.announce import Announcer
from domain.payment import Stage, Step
from gateway.edge.plain_http import ignore_expectations

log = structlog.get_logger()

# After Redis failed once, it is not asked again for this long: callers should not pay for finding out each time.
_REDIS_REST_SECONDS = 1.0
_REDIS_PATIENCE_SECONDS = 0.5

_GAUGES_FRESH_SECONDS = 2.0

# Asked by whoever watches over the process, also and above all when it has too much to do.
HEALTH_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})


class Resources:
    """Connections and the parts that stand on them. Nothing connects before it is used, so none must be there at start."""

    def __init__(self, settings: SharedSettings, *, process: str) -> None:
        name = f"mkwanja-{process}"
        self.database = Database(settings.database_url, pool_size=settings.database_pool_size, application_name=name)
        self.redis: ArqRedis = connect(settings.redis_url, client_name=name)
        gate = asyncio.Semaphore(1)  # a transaction for few payments costs as much as one for many
        self.changes = Changing(self.database, gate=gate)
        self.reading = Reading(self.database)
        self.sweeping = Sweeping(self.database)
        self.announcer = Announcer(self.sweeping, RedisBell(self.redis))
        self._redis_rests_until = 0.0
        self._gauges_fresh_until = 0.0

    async def close(self) -> None:
        """Finishes what was begun, then disconnects."""
        await self.changes.drain()
        await self.announcer.drain()
        await self.sweeping.drain()
        await self.redis.aclose(close_connection_pool=True)
        await self.database.close()

    async def if_redis_answers(self, ask: Callable[[], Awaitable[object]]) -> object | None:
        """What `ask` returns, or None at once or soon where Redis is away. Nothing that we promise depends on it."""
        if time.monotonic() < self._redis_rests_until:
            return None
        try:
            async with asyncio.timeout(_REDIS_PATIENCE_SECONDS):
                result = await ask()
        except (QueueUnavailable, TimeoutError):
            self._redis_rests_until = time.monotonic() + _REDIS_REST_SECONDS
            observability.queue_available.set(0)
            log.warning("redis_away")
            return None
        observability.queue_available.set(1)
        return result

    async def _ping(self) -> object:
        async with available():
            return await self.redis.ping()

    async def _refresh_gauges(self) -> None:
        """What Postgres knows, looked up at most every few seconds. Away, it leaves them as they were."""
        if time.monotonic() < self._gauges_fresh_until:
            return
        self._gauges_fresh_until = time.monotonic() + _GAUGES_FRESH_SECONDS
        try:
            situation = await self.reading.situation()
        except Exception as error:  # noqa: BLE001 - not migrated, or away: the counters are worth an answer all the same
            log.warning("gauges_not_refreshed", error=type(error).__name__)
            return
        for name, is_engaged in situation.brakes.items():
            observability.brake_engaged.labels(name=name).set(is_engaged)
        for stage in Stage:
            if not stage.is_final:
                observability.open_payments.labels(stage=stage).set(situation.open_by_stage.get(stage, 0))
        for step in Step:
            observability.overdue_seconds.labels(step=step).set(situation.overdue_seconds_by_step.get(step, 0))
        observability.needing_review.set(situation.needing_review)
        observability.unpublished.set(situation.unpublished)

    def add_health_routes(self, app: web.Application, *, has_keys: Callable[[], bool] | None = None) -> None:
        """/healthz, /readyz and /metrics."""

        async def healthz(_request: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        async def readyz(_request: web.Request) -> web.Response:
            checks = {"postgres": True, "migrated": False}
            try:
                checks["migrated"] = await self.reading.is_migrated()
            except PaymentServiceError:
                checks["postgres"] = False
            except Exception:  # noqa: BLE001 - no schema yet: reachable, and not ready
                log.warning("not_migrated")
            if has_keys is not None:
                checks["keys"] = has_keys()
            is_ready = all(checks.values())
            # Redis is told, not required: payments are accepted without it.
            checks["redis"] = await self.if_redis_answers(self._ping) is not None
            body = {"status": "ready" if is_ready else "not ready", "checks": checks}
            return web.json_response(body, status=200 if is_ready else 503)

        async def metrics(_request: web.Request) -> web.Response:
            await self._refresh_gauges()
            body, content_type = observability.metrics_text()
            return web.Response(body=body, headers={"Content-Type": content_type})

        app.router.add_get("/healthz", healthz, expect_handler=ignore_expectations)
        app.router.add_get("/readyz", readyz, expect_handler=ignore_expectations)
        app.router.add_get("/metrics", metrics, expect_handler=ignore_expectations)
