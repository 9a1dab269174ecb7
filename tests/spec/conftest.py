"""One running system for the tests that only use it; those that break it start their own with `a_system`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.spec.system import System
from tests.stack.stack import Stack

# Faster than in life, and without our own limits in the way; everything else is as shipped.
BRISK = {
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "DARAJA_REQUESTS_PER_SECOND": "500",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
TIME_SCALE = 0.02


@asynccontextmanager
async def a_system(*, env: Mapping[str, str | None] | None = None, **options: Any) -> AsyncIterator[System]:
    """A system of a test's own: it may stop, kill and freeze what it likes."""
    options.setdefault("time_scale", TIME_SCALE)
    async with Stack(env={**BRISK, **(env or {})}, **options) as stack, System(stack) as system:
        yield system


@pytest.fixture(scope="session")
async def shared_system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


@pytest.fixture
async def system(shared_system: System) -> System:
    """The shared system, its simulator as new and its brakes released."""
    await shared_system.control("POST", "/reset", {})
    await shared_system.release_brakes()
    await shared_system.control("POST", "/switches", {"time_scale": TIME_SCALE})
    return shared_system


# A minute of life is about a second: first question after half a second, then each second, windows of a few.
ASKED_SOON: dict[str, str | None] = {
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "3",
    "SUBMITTING_LEASE_SECONDS": "3",
    "BREAKER_COOL_DOWN_SECONDS": "1",
    "OPERATION_COOL_DOWN_SECONDS": "1",
}


@pytest.fixture(scope="session")
async def asking_system() -> AsyncIterator[System]:
    """A system that soon asks Daraja about what is open. It is never reset: Daraja does not forget what was sent to it."""
    async with a_system(env=ASKED_SOON) as system:
        yield system
