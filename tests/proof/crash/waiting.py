"""Waiting for what takes a lease, a window and some inquiries to come about, on a machine that
may be busy.
"""

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
    """What `look` returns once `is_so`; fails with the last look when patience ends.

    Says nothing about durations.
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
    """By the record: the ingress may be what stands still."""
    [row] = await system.rows(
        "SELECT stage FROM mkwanja.payments WHERE id = $1::uuid", order.payment_id
    )
    return str(row["stage"])
