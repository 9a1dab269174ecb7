"""A worker that stops between its claim and its first byte: whatever happens later, it does not
pay twice.
"""

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

# An armed worker sweeps once, at its start: what its payment becomes is then another worker's
# doing.
_RARELY = {"SWEEP_INTERVAL_SECONDS": "60"}

_FIRST_SEND_LOST = ["accepted", "submitting", "in_doubt"]
_NEVER_LEFT = [*_FIRST_SEND_LOST, "accepted"]
_PAID_LATER = [
    *_NEVER_LEFT,
    "submitting",
    "succeeded",
]  # its result may overtake the acknowledgement


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(
        processes=("web", "callbacks"), env={"SUBMITTING_LEASE_SECONDS": "3"}
    ) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system without a worker: each test starts its own, and whatever it leaves of them ends
    here.
    """
    yield running_system
    workers = [
        running_system.stack.process(name)
        for name in running_system.stack.names
        if name.startswith("worker")
    ]
    await asyncio.gather(*(worker.kill() for worker in workers if worker.is_running))


async def _stopped_with_one_of_each_kind(
    system: System, failpoint: str, *, without: str = ""
) -> tuple[list[Process], list[str]]:
    """Three workers that stopped at the point, each holding the claim of a payment of another
    kind.
    """
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


async def _past_their_leases(system: System, payment_ids: list[str]) -> None:
    """Another worker's sweeper finds that the leases are over; that worker then ends."""
    await system.stack.start_process("worker.4")
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "in_doubt")
        assert await system.stages(payment_id) == _FIRST_SEND_LOST
        assert await system.provider_requests(payment_id) == []
    assert await system.stack.stop_process("worker.4") == 0


async def test_a_worker_frozen_past_its_lease_sends_nothing(system: System) -> None:
    """It finds its deadline passed and gives the payment back, which is then sent and paid once,
    of every kind.
    """
    workers, payment_ids = await _stopped_with_one_of_each_kind(system, _FREEZE)
    await _past_their_leases(system, payment_ids)
    for worker in workers:
        worker.thaw()
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "accepted")
        assert await system.stages(payment_id) == _NEVER_LEFT
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
    """The same worker with the check taken away sends after its lease: so the test before this
    one can fail.
    """
    workers, payment_ids = await _stopped_with_one_of_each_kind(
        system, _FREEZE, without="fence_check"
    )
    await _past_their_leases(system, payment_ids)
    for worker in workers:
        worker.thaw()
    for payment_id in payment_ids:
        await system.eventually(partial(system.provider_requests, payment_id), awaited="a request")


async def test_a_worker_killed_before_its_first_byte_leaves_its_payment_in_doubt(
    system: System,
) -> None:
    """Nobody can tell that nothing left, so the payment is in doubt once the lease is over, and
    not sent again.
    """
    _, payment_ids = await _stopped_with_one_of_each_kind(system, _KILL)
    await _past_their_leases(system, payment_ids)
    await system.stack.start_process("worker.4")
    later = await system.deposit()
    assert (await system.settled(later))["status"] == "success"
    for payment_id in payment_ids:
        assert await system.stages(payment_id) == _FIRST_SEND_LOST
        assert await system.provider_requests(payment_id) == []
    await system.assert_money_agrees([*payment_ids, later])
