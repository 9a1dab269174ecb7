"""After SIGTERM a process accepts no new work, finishes the work under way, and exits in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.spec.conftest import a_system
from tests.spec.delivering import deliver
from tests.spec.feed_reader import open_transaction, wait_for_blocked
from tests.spec.system import PATIENCE_SECONDS, System

# The time that every process has between SIGTERM and its exit (rules.md §10).
_DRAIN_SECONDS = 20.0

_PAYMENTS_OF_EACH_KIND = 20
_ACCEPTED_BEFORE_THE_END = 100

_LOCK = "SELECT id FROM mkwanja.payments WHERE id = '{}' FOR UPDATE"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


async def test_a_draining_worker_leaves_no_payment_in_doubt(system: System) -> None:
    """Sixty payments are in flight. The worker exits in time, and each payment is paid once."""
    for api in ("stk", "b2c", "b2b"):
        await system.scenario("slow", params={"seconds": 1}, times=8, api=api)
    kinds = (system.deposit, system.withdrawal, system.bill_payment)
    pays = [pay() for pay in kinds for _ in range(_PAYMENTS_OF_EACH_KIND)]
    payment_ids = list(await asyncio.gather(*pays))
    await system.eventually(
        lambda: system.stage_counts(payment_ids), lambda counts: counts["submitting"]
    )
    assert await system.stack.process("worker").terminate(within_seconds=_DRAIN_SECONDS) == 0
    counts = await system.stage_counts(payment_ids)
    assert set(counts) <= {"accepted", "awaiting_result", "succeeded"}, counts
    assert counts["accepted"], "the worker had finished every payment before its SIGTERM"
    await system.stack.start_process("worker")
    await system.wait_until_paid(payment_ids)
    for payment_id in payment_ids:
        assert "in_doubt" not in await system.stages(payment_id)


async def test_a_draining_ingress_has_stored_every_payment_that_it_accepted(system: System) -> None:
    """Callers that go on sending get a 202 or a refused connection."""
    accepted: list[str] = []
    enough = asyncio.Event()

    async def pay_until_refused() -> None:
        while True:
            try:
                accepted.append(await system.deposit(phone_number="0711000111"))
            except aiohttp.ClientError:
                return
            if len(accepted) >= _ACCEPTED_BEFORE_THE_END:
                enough.set()

    async with asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(pay_until_refused())
        await asyncio.wait_for(enough.wait(), PATIENCE_SECONDS)
        assert await system.stack.process("web").terminate(within_seconds=_DRAIN_SECONDS) == 0
    await system.stack.start_process("web")
    assert (await system.stage_counts(accepted)).total() == len(set(accepted)) == len(accepted)


async def test_a_draining_receiver_answers_a_callback_under_way(system: System) -> None:
    """Daraja sends a callback only once, so the receiver stores it before it exits."""
    await system.scenario("lost_callback", times=1, phone_number="254711000777")
    payment_id = await system.deposit(phone_number="0711000777")
    await system.in_stage(payment_id, "awaiting_result")
    url = await system.callback_url(payment_id, "deposit")
    receiver = system.stack.process("callbacks")
    async with open_transaction(system, _LOCK.format(payment_id)) as holder:
        callback = asyncio.create_task(deliver(system, url, b'{"held": "up"}'))
        await wait_for_blocked(system, holder)
        end = asyncio.create_task(receiver.terminate(within_seconds=_DRAIN_SECONDS))
        await receiver.wait_logged(r'"event":\s*"draining"')
    assert (await callback).status == 200
    assert await end == 0
    await system.stack.start_process("callbacks")
    [stored] = await system.callbacks(payment_id)
    assert stored["body"] == b'{"held": "up"}'
