"""Answers /healthz, /readyz and /metrics.

Any stranger can request these routes as often as it likes. Therefore requests share the checks of
Postgres and Redis: one check runs at a time, and its result answers all requests of the next one
or two seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog
from aiohttp import web

from domain.adapters import observability
from domain.errors import PaymentServiceError
from domain.stages import Stage, Step
from gateway.resources import Resources

log = structlog.get_logger()

_CHECK_FRESH_SECONDS = 1.0
_GAUGES_FRESH_SECONDS = 2.0

Result = TypeVar("Result")

HealthHandler = Callable[[web.Request], Awaitable[web.Response]]
Finish = Callable[[Callable[[], Awaitable[web.Response]]], Awaitable[web.Response]]


class SharedCheck(Generic[Result]):
    """Runs `check` once for all requests, and reuses its result for `fresh_seconds`.

    At most one check runs at a time. A request that is cancelled does not cancel the check.
    """

    def __init__(self, check: Callable[[], Awaitable[Result]], *, fresh_seconds: float) -> None:
        self._check = check
        self._fresh_seconds = fresh_seconds
        self._fresh_until = 0.0
        self._running: asyncio.Task[Result] | None = None

    async def result(self) -> Result:
        """The result of the newest check. If the check raised an error, raises this error."""
        running = self._running
        if running is None or (running.done() and time.monotonic() >= self._fresh_until):
            running = self._running = asyncio.create_task(self._run())
        return await asyncio.shield(running)

    async def _run(self) -> Result:
        try:
            return await self._check()
        finally:
            self._fresh_until = time.monotonic() + self._fresh_seconds


class Health:
    """The three health routes of one process."""

    def __init__(
        self,
        resources: Resources,
        *,
        has_keys: Callable[[], bool] | None = None,
        finish: Finish | None = None,
        is_one_of_many: bool = False,
    ) -> None:
        """`finish` runs the work of a request to its end, also if its client disconnects.

        `is_one_of_many`: other processes serve the same port, and each scrape may reach another
        one. Then /metrics leaves out what it cannot show for all processes together.
        """
        self._resources = resources
        self._is_one_of_many = is_one_of_many
        self._finish = finish
        self._has_keys = has_keys
        self._checks = SharedCheck(self._check, fresh_seconds=_CHECK_FRESH_SECONDS)
        self._gauges = SharedCheck(self._refresh_gauges, fresh_seconds=_GAUGES_FRESH_SECONDS)

    def add_routes(self, app: web.Application) -> None:
        for path, handler in {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
        }.items():
            app.router.add_get(path, self._finished(handler))

    def _finished(self, handler: HealthHandler) -> HealthHandler:
        finish = self._finish
        if finish is None:
            return handler

        async def get(request: web.Request) -> web.Response:
            return await finish(lambda: handler(request))

        return get

    async def healthz(self, _request: web.Request) -> web.Response:
        """GET /healthz"""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """GET /readyz. Redis is reported but not required: payments are accepted without it."""
        required, postgres_report, redis_report = await self._checks.result()
        if self._has_keys is not None:
            required = required | {"keys": self._has_keys()}
        is_ready = all(required.values())
        body = {
            "status": "ready" if is_ready else "not ready",
            "checks": required | {"redis": redis_report == "ok"},
            "postgres": postgres_report,
            "redis": redis_report,
        }
        return web.json_response(body, status=200 if is_ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """GET /metrics"""
        await self._gauges.result()
        body, content_type = observability.metrics_text(only_ours=self._is_one_of_many)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _check(self) -> tuple[dict[str, bool], str, str]:
        """Checks Postgres and Redis at the same time."""
        postgres, redis_report = await asyncio.gather(
            self._check_postgres(), self._resources.redis_report()
        )
        return *postgres, redis_report

    async def _check_postgres(self) -> tuple[dict[str, bool], str]:
        """The checks that Postgres must pass, and the report on Postgres for the answer."""
        reading = self._resources.reading
        try:
            is_writable, is_migrated = await reading.is_writable(), await reading.is_migrated()
        except PaymentServiceError:
            return {"postgres": False, "migrated": False}, "away"
        except Exception:  # noqa: BLE001 - Postgres is reachable, but has no schema yet
            log.warning("not_migrated")
            return {"postgres": True, "migrated": False}, "not migrated"
        report = "read-only" if not is_writable else "ok" if is_migrated else "not migrated"
        return {"postgres": is_writable, "migrated": is_migrated}, report

    async def _refresh_gauges(self) -> None:
        """Sets the gauges from Postgres. If Postgres is away, the gauges keep their values."""
        try:
            situation = await self._resources.reading.situation()
        except Exception as error:  # noqa: BLE001
            # The counters are useful even if Postgres is away or not migrated.
            log.warning("gauges_not_refreshed", error=type(error).__name__)
            return
        for name, is_engaged in situation.brakes.items():
            observability.brake_engaged.labels(name=name).set(is_engaged)
        for stage in Stage:
            if not stage.is_final:
                observability.open_payments.labels(stage=stage).set(
                    situation.open_by_stage.get(stage, 0)
                )
        for step in Step:
            observability.overdue_seconds.labels(step=step).set(
                situation.overdue_seconds_by_step.get(step, 0)
            )
        observability.needing_review.set(situation.needing_review)
        observability.unpublished.set(situation.unpublished)
        observability.event_lag_seconds.set(situation.event_lag_seconds)
        observability.webhook_lag_seconds.set(situation.delivery_lag_seconds)
        observability.paused_endpoints.set(situation.paused_endpoints)
