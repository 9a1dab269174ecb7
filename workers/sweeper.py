"""The sweeper's loop. It is not a job of arq, because it finds payments whose jobs were lost."""

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
    """Sweeps once each interval, until `stopping` is set.

    If a sweep did STEPS_MAX steps of one kind, more may be due, so the next sweep starts at once.
    """
    while not stopping.is_set():
        step_count_max = 0
        try:
            steps = await sweeper.sweep()
            step_count_max = max(steps.values(), default=0)
            for step, count in steps.items():
                observability.sweeps.labels(step=step).inc(count)
        except PaymentServiceError as error:
            log.warning("sweep_postponed", error=type(error).__name__)
        except Exception:
            # A bug must not stop the sweeps of all payments.
            log.exception("sweep_failed")
        if step_count_max < STEPS_MAX:
            try:
                await asyncio.wait_for(stopping.wait(), timeout=interval_seconds)
            except TimeoutError:
                continue
