"""A worker that is frozen between its claim and its first byte never pays twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.proof.failpoints.starting import reached, start_armed
from tests.spec.conftest import a_system
from tests.spec.system import System

_FREEZE = "claimed_before_first_byte:freeze"

_FIRST_SEND_LOST = ["accepted", "submitting", "in_doubt"]
_RELEASED = [*_FIRST_SEND_LOST, "accepted"]
# The list does not contain "awaiting_result", because a result may overtake the acknowledgement.
_PAID_LATER = [*_RELEASED, "submitting", "succeeded"]


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(
        processes=("web", "callbacks"), env={"SUBMITTING_LEASE_SECONDS": "3"}
    ) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system without workers: each test starts its own, and the fixture kills them."""
    yield running_system
    await running_system.stack.kill_workers()


async def _freeze_past_the_lease(system: System, *, without: str = "") -> list[str]:
    """Make payments. Their workers are frozen until the leases have ended, and then continue."""
    workers, payment_ids = [], []
    # The frozen workers sweep only once, at their start. Worker 4 makes the later sweeps.
    rarely = {"SWEEP_INTERVAL_SECONDS": "60"}
    for number, pay in enumerate((system.deposit, system.withdrawal, system.bill_payment), start=1):
        worker = await start_armed(
            system.stack, f"worker.{number}", _FREEZE, without=without, env=rarely
        )
        payment_ids.append(await pay())
        await reached(worker, _FREEZE)
        workers.append(worker)
    await system.stack.start_process("worker.4")
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "in_doubt")
        assert await system.stages(payment_id) == _FIRST_SEND_LOST
        assert await system.provider_requests(payment_id) == []
    assert await system.stack.stop_process("worker.4") == 0
    for worker in workers:
        worker.thaw()
    return payment_ids


async def test_a_worker_frozen_past_its_lease_sends_nothing(system: System) -> None:
    """The deadline has passed, so the worker releases the payment. The payment is paid once."""
    payment_ids = await _freeze_past_the_lease(system)
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "accepted")
        assert await system.stages(payment_id) == _RELEASED
        assert await system.provider_requests(payment_id) == []
    await system.stack.start_process("worker.4")
    await system.wait_until_paid(payment_ids)
    for payment_id in payment_ids:
        stages = await system.stages(payment_id)
        assert [stage for stage in stages if stage != "awaiting_result"] == _PAID_LATER
        assert len(await system.provider_requests(payment_id)) == 1


async def test_a_frozen_worker_without_the_fence_sends_after_its_lease(system: System) -> None:
    """This proves that the test above can fail."""
    for payment_id in await _freeze_past_the_lease(system, without="fence_check"):
        await system.eventually(partial(system.provider_requests, payment_id), awaited="a request")
