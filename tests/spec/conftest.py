"""Running systems: tests share `system`, and stop or kill processes only in `a_system`."""

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

# The sweeper runs often, and the limits are so high that no test reaches them. Every other setting
# has its default.
BRISK: dict[str, str | None] = {
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "DARAJA_REQUESTS_PER_SECOND": "500",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
TIME_SCALE = 0.02


# `Lending` lends no stack with one of these options. A test that needs such a stack starts its own.
_OWN_STACK_OPTIONS = {"starter", "postgres", "database_url", "release"}

_lending: Lending | None = None


@pytest.fixture(scope="session", autouse=True)
def _set_lending(lending: Lending) -> Iterator[None]:
    """Store the `Lending` for `a_system`, because `a_system` is a function and not a fixture."""
    global _lending  # noqa: PLW0603 - one for each test process
    _lending = lending
    yield
    _lending = None


@asynccontextmanager
async def a_system(
    *, env: Mapping[str, str | None] | None = None, **options: Any
) -> AsyncIterator[System]:
    """A system in the state of a fresh start. The test may stop, kill and freeze its processes."""
    options = {"time_scale": TIME_SCALE, **options, "env": {**BRISK, **(env or {})}}
    async with _a_stack(options) as stack, System(stack) as system:
        yield system


def _a_stack(options: dict[str, Any]) -> AbstractAsyncContextManager[Stack]:
    if _lending is None or options.keys() & _OWN_STACK_OPTIONS:
        return Stack(**{"starter": Starter.of_this_process, **options})
    return _lending.stack(Shape(**options))


@asynccontextmanager
async def a_used_system(lending: Lending) -> AsyncIterator[System]:
    """A system that other tests have used, with the simulator reset and the brakes released."""
    shape = Shape(env=BRISK, time_scale=TIME_SCALE)
    async with lending.used_stack(shape) as stack, System(stack) as system:
        await system.release_brakes()
        await system.finish_sends()
        await reset(system)
        yield system


async def reset(system: System) -> None:
    """Release the brakes, reset the simulator, and postpone inquiries about open payments."""
    await system.release_brakes()
    await system.forget_open_payments()
    await system.control("POST", "/reset", {})
    await system.control("POST", "/switches", {"time_scale": TIME_SCALE})


@pytest.fixture
async def system(lending: Lending, request: pytest.FixtureRequest) -> AsyncIterator[System]:
    """A running system with default settings. Other tests have used it."""
    async with a_used_system(lending) as system:
        yield system
        await _stop_workers_at_end(system, request)


async def _stop_workers_at_end(system: System, request: pytest.FixtureRequest) -> None:
    """Stop the workers after a file's last test, because they would go on sweeping."""
    if request.node.stash.get(ENDS_FILE, False):
        await system.stack.stop_workers()


# These times are about 60 times shorter than the defaults. The first inquiry comes after half a
# second, and later inquiries come about a second apart. A lease and a deposit's result window last
# three seconds.
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
    """A system that soon inquires about its open payments.

    Other tests have used it. The simulator is not reset: it knows every earlier payment.
    """
    shape = Shape(env={**BRISK, **INQUIRE_SOON}, time_scale=TIME_SCALE)
    async with lending.used_stack(shape) as stack, System(stack) as system:
        await system.forget_open_payments()
        yield system
        await _stop_workers_at_end(system, request)
