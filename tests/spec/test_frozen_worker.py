"""A worker that stops between its claim and its first byte never pays twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.proof.failpoints.starting import reached, start_armed
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.processes import Process

_FREEZE = "claimed_before_first_byte:freeze"
_KILL = "claimed_before_first_byte:kill"

# A worker with a failpoint sweeps only once, at its start. Later sweeps are another worker's.
_RARELY = {"SWEEP_INTERVAL_SECONDS": "60"}

_FIRST_SEND_LOST = ["accepted", "submitting", "in_doubt"]
_RELEASED = [*_FIRST_SEND_LOST, "accepted"]
# Without "awaiting_result", because the result may overtake the acknowledgement.
_PAID_LATER = [*_RELEASED, "submitting", "succeeded"]


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(
        processes=("web", "callbacks"), env={"SUBMITTING_LEASE_SECONDS": "3"}
    ) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system without a worker: each test starts its own, and the fixture ends them."""
    yield running_system
    workers = [
        running_system.stack.process(name)
        for name in running_system.stack.names
        if name.startswith("worker")
    ]
    await asyncio.gather(*(worker.kill() for worker in workers if worker.is_running))


async def _stop_with_one_of_each_kind(
    system: System, failpoint: str, *, without: str = ""
) -> tuple[list[Process], list[str]]:
    """Start three workers that stop at the failpoint, each with a claim of another kind."""
    workers, payment_ids = [], []
    for number, pay in enumerate((system.deposit, system.withdrawal, system.bill_payment), start=1):
        worker = await start_armed(
            system.stack, f"worker.{number}", failpoint, without=without, env=_RARELY
        )
        payment_id = await pay()
        await reached(worker, failpoint)
        assert (await system.stages(payment_id))[:2] == ["accepted", "submitting"]
        workers.append(worker)
        payment_ids.append(payment_id)
    return workers, payment_ids


async def _wait_past_leases(system: System, payment_ids: list[str]) -> None:
    """Wait until another worker's sweeper ends the leases; that worker then exits."""
    await system.stack.start_process("worker.4")
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "in_doubt")
        assert await system.stages(payment_id) == _FIRST_SEND_LOST
        assert await system.provider_requests(payment_id) == []
    assert await system.stack.stop_process("worker.4") == 0


async def test_a_worker_frozen_past_its_lease_sends_nothing(system: System) -> None:
    """It finds that its deadline has passed and releases the payment, which is then paid once."""
    workers, payment_ids = await _stop_with_one_of_each_kind(system, _FREEZE)
    await _wait_past_leases(system, payment_ids)
    for worker in workers:
        worker.thaw()
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "accepted")
        assert await system.stages(payment_id) == _RELEASED
        assert await system.provider_requests(payment_id) == []
        assert await system.movements(payment_id) == []
    await system.stack.start_process("worker.4")
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
        assert [
            stage for stage in await system.stages(payment_id) if stage != "awaiting_result"
        ] == _PAID_LATER
        assert len(await system.provider_requests(payment_id)) == 1
    await system.assert_money_agrees(payment_ids)


async def test_a_frozen_worker_without_the_fence_sends_after_its_lease(system: System) -> None:
    """This proves that the test before can fail."""
    workers, payment_ids = await _stop_with_one_of_each_kind(system, _FREEZE, without="fence_check")
    await _wait_past_leases(system, payment_ids)
    for worker in workers:
        worker.thaw()
    for payment_id in payment_ids:
        await system.eventually(partial(system.provider_requests, payment_id), awaited="a request")


async def test_a_worker_killed_before_its_first_byte_leaves_its_payment_in_doubt(
    system: System,
) -> None:
    """No one can prove that no byte was sent, so the payment is not sent again."""
    _, payment_ids = await _stop_with_one_of_each_kind(system, _KILL)
    await _wait_past_leases(system, payment_ids)
    await system.stack.start_process("worker.4")
    later = await system.deposit()
    assert (await system.settled(later))["status"] == "success"
    for payment_id in payment_ids:
        assert await system.stages(payment_id) == _FIRST_SEND_LOST
        assert await system.provider_requests(payment_id) == []
    await system.assert_money_agrees([*payment_ids, later])
