"""Finds endpoints that have something to send, and wakes a worker for each.

The wake-up is a job of arq that carries only the endpoint's id. If Redis refuses it or is away,
this worker serves the endpoint itself, because everything that a worker needs is in PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.webhook_deliveries import WebhookDeliveries
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.worker import WorkerSettings
from domain.adapters.tracing import MessageSender, TracedWebhooks, Tracer
from domain.adapters.webhooks.sealing import KeySeal
from domain.adapters.webhooks.sender import WebhookSender
from domain.errors import PaymentServiceError, QueueUnavailable
from workers.webhooks.deliverer import Deliverer

log = structlog.get_logger()

# While no endpoint exists, the sweeper looks this many times less often.
_IDLE_FACTOR = 5


class WebhookSweeper:
    """Wakes workers for endpoints. `deliverer` serves those that this worker gets."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        wakeups: RedisWakeups,
        *,
        clock: Callable[[], float],
        tracer: Tracer | None = None,
    ) -> None:
        self._interval_seconds = settings.sweep_interval_seconds
        self._deliveries = WebhookDeliveries(database)
        self._wakeups = wakeups
        sender: MessageSender = WebhookSender(
            allowed=settings.webhook_allowed_networks,
            seconds_max=settings.webhook_timeout_seconds,
        )
        if tracer is not None:
            sender = TracedWebhooks(sender, tracer)
        seal = KeySeal(settings.webhook_secrets_key)
        self.deliverer = Deliverer(self._deliveries, sender, seal, clock=clock)

    def serve(self, endpoint_id: str) -> None:
        """Runs a job of the queue. Redis may hold any text in place of an endpoint's id."""
        try:
            self.deliverer.serve_soon(UUID(str(endpoint_id)))
        except ValueError:
            log.warning("webhook_job_unreadable")

    async def sweep_until(self, stopping: asyncio.Event) -> None:
        """Looks once each interval, until `stopping` is set."""
        while not stopping.is_set():
            wait_seconds = self._interval_seconds
            try:
                endpoint_ids = await self._deliveries.find_due()
                if endpoint_ids is None:
                    wait_seconds *= _IDLE_FACTOR
                else:
                    await self._wake(endpoint_ids)
            except PaymentServiceError as error:
                log.warning("webhook_sweep_postponed", error=type(error).__name__)
            except Exception:
                # A bug must not stop the sweeps.
                log.exception("webhook_sweep_failed")
            try:
                await asyncio.wait_for(stopping.wait(), timeout=wait_seconds)
            except TimeoutError:
                continue

    async def _wake(self, endpoint_ids: Sequence[UUID]) -> None:
        try:
            await self._wakeups.wake_endpoints(endpoint_ids)
        except QueueUnavailable:
            for endpoint_id in endpoint_ids:
                self.deliverer.serve_soon(endpoint_id)
