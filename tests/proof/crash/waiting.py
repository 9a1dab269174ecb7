"""Waits for conditions that take a lease, a window and some inquiries, on a busy machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.proof.crash.ordering import PaymentOrder
from tests.spec.system import System

PATIENCE_SECONDS = 90.0


async def wait_until(
    look: Callable[[], Awaitable[Any]],
    is_so: Callable[[Any], object] = bool,
    what: str = "",
    *,
    seconds: float = PATIENCE_SECONDS,
) -> Any:
    """Repeat `look` until `is_so`, and return what it saw. Fails at the time limit.

    Asserts nothing about durations.
    """
    seen: Any = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = await look()
                if is_so(seen):
                    return seen
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"did not come about: {what}; last seen: {seen}") from None


async def stage_of(system: System, order: PaymentOrder) -> str:
    """The stage by the record, because the ingress may be the process that is frozen."""
    [row] = await system.rows(
        "SELECT stage FROM mkwanja.payments WHERE id = $1::uuid", order.payment_id
    )
    return str(row["stage"])
