"""The sweeper's loop, beside arq rather than in its queue: it watches for what that queue
forgets.
"""

from __future__ import annotations

import asyncio

import structlog

from domain.adapters import observability
from domain.errors import PaymentServiceError
from domain.lifecycle.reconcile import STEPS_MAX, Sweeper

log = structlog.get_logger()


async def sweep_until(
    stopping: asyncio.Event, sweeper: Sweeper, *, interval_seconds: float
) -> None:
    """Sweeps at every interval, and again at once while a sweep finds more than its share."""
    while not stopping.is_set():
        taken = 0
        try:
            steps = await sweeper.sweep()
            taken = max(steps.values(), default=0)
            for step, count in steps.items():
                observability.sweeps.labels(step=step).inc(count)
        except PaymentServiceError as error:
            log.warning("sweep_postponed", error=type(error).__name__)
        except Exception:
            log.exception(
                "sweep_failed"
            )  # a bug in one step must not end the watch over all payments
        if taken < STEPS_MAX:
            try:
                await asyncio.wait_for(stopping.wait(), timeout=interval_seconds)
            except TimeoutError:
                continue
