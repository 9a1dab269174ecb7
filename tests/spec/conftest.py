"""Running systems: tests use `system`, and break `a_system`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.sampling import ENDS_FILE
from tests.spec.system import System
from tests.stack.lending import Lending
from tests.stack.shape import Shape
from tests.stack.stack import Stack
from tests.stack.starter import Starter

# Faster than in life, and without our own limits in the way; everything else is as shipped.
BRISK: dict[str, str | None] = {
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "DARAJA_REQUESTS_PER_SECOND": "500",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
TIME_SCALE = 0.02


# What only a stack that is started for it can have.
_OF_ITS_OWN = {"starter", "postgres", "database_url", "release"}

_lending: Lending | None = None


@pytest.fixture(scope="session", autouse=True)
def _stacks_to_borrow(lending: Lending) -> Iterator[None]:
    """So that `a_system` can be called anywhere in a test."""
    global _lending  # noqa: PLW0603 - one for each test process
    _lending = lending
    yield
    _lending = None


@asynccontextmanager
async def a_system(
    *, env: Mapping[str, str | None] | None = None, **options: Any
) -> AsyncIterator[System]:
    """A system as if just started. The block may stop, kill and freeze what it likes."""
    options = {"time_scale": TIME_SCALE, **options, "env": {**BRISK, **(env or {})}}
    async with _a_stack(options) as stack, System(stack) as system:
        yield system


def _a_stack(options: dict[str, Any]) -> AbstractAsyncContextManager[Stack]:
    if _lending is None or options.keys() & _OF_ITS_OWN:
        return Stack(**{"starter": Starter.of_this_process, **options})
    return _lending.stack(Shape(**options))


@asynccontextmanager
async def a_used_system(lending: Lending) -> AsyncIterator[System]:
    """A system as shipped that others have used. Its simulator is new, its brakes are released."""
    shape = Shape(env=BRISK, time_scale=TIME_SCALE)
    async with lending.used_stack(shape) as stack, System(stack) as system:
        await system.release_brakes()
        await system.finish_sends()
        await system.forget_open_payments()
        await system.control("POST", "/reset", {})
        await system.control("POST", "/switches", {"time_scale": TIME_SCALE})
        yield system


@pytest.fixture
async def system(lending: Lending, request: pytest.FixtureRequest) -> AsyncIterator[System]:
    """As shipped; other tests have used it."""
    async with a_used_system(lending) as system:
        yield system
        await _let_sleep(system, request)


async def _let_sleep(system: System, request: pytest.FixtureRequest) -> None:
    """After the last test of a file: its worker would sweep all the same."""
    if request.node.stash.get(ENDS_FILE, False):
        await system.stack.stop_workers()


# A minute of life is about a second: first question after half a second, then each second, windows
# of a few.
INQUIRE_SOON: dict[str, str | None] = {
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "3",
    "SUBMITTING_LEASE_SECONDS": "3",
    "BREAKER_COOL_DOWN_SECONDS": "1",
    "OPERATION_COOL_DOWN_SECONDS": "1",
}


@pytest.fixture
async def inquiring_system(
    lending: Lending, request: pytest.FixtureRequest
) -> AsyncIterator[System]:
    """A system that soon asks Daraja about what is open.

    Other tests have used it, and it is not reset: Daraja does not forget what was sent to it.
    """
    shape = Shape(env={**BRISK, **INQUIRE_SOON}, time_scale=TIME_SCALE)
    async with lending.used_stack(shape) as stack, System(stack) as system:
        await system.forget_open_payments()
        yield system
        await _let_sleep(system, request)
