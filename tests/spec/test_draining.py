"""After SIGTERM a process accepts no new work, finishes the work under way, and exits in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import aiohttp
import asyncpg
import pytest

from tests.spec.conftest import a_system
from tests.spec.feed_reader import wait_for_blocked
from tests.spec.system import PATIENCE_SECONDS, System

# The time that every process has between SIGTERM and its exit (rules.md §10).
_DRAIN_SECONDS = 20.0

_PAYMENTS = 60
_ACCEPTED_BEFORE_THE_END = 100

_LOCK = "SELECT id FROM mkwanja.payments WHERE id = CAST($1::text AS uuid) FOR UPDATE"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


def _make_sixty_payments(system: System) -> list[Awaitable[str]]:
    third = _PAYMENTS // 3
    return [
        *(system.deposit(phone_number=f"07110002{n:02}") for n in range(third)),
        *(system.withdrawal(phone_number=f"07220002{n:02}") for n in range(third)),
        *(system.bill_payment() for _ in range(third)),
    ]


async def test_a_draining_worker_leaves_no_payment_in_doubt(system: System) -> None:
    """Sixty payments are in flight. It exits with 0 in time, and each payment is paid once."""
    for api in ("stk", "b2c", "b2b"):
        await system.scenario("slow", params={"seconds": 1}, times=8, api=api)
    payment_ids = list(await asyncio.gather(*_make_sixty_payments(system)))
    await system.eventually(
        lambda: system.stage_counts(payment_ids), lambda counts: counts["submitting"]
    )
    assert await system.stack.process("worker").terminate(within_seconds=_DRAIN_SECONDS) == 0
    counts = await system.stage_counts(payment_ids)
    assert set(counts) <= {"accepted", "awaiting_result", "succeeded"}, counts
    assert counts["accepted"], "the worker had finished every payment before its SIGTERM"
    assert counts.total() == _PAYMENTS
    await system.stack.start_process("worker")
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
        assert "in_doubt" not in await system.stages(payment_id)
    await system.assert_money_agrees(payment_ids)


async def test_a_draining_ingress_has_stored_every_payment_that_it_accepted(system: System) -> None:
    """Callers that go on sending get a 202 or a refused connection."""
    accepted: list[str] = []
    other_statuses: list[int] = []
    enough = asyncio.Event()

    async def keep_paying() -> None:
        while True:
            try:
                answer = await system.user.pay(
                    "/v1/deposits", {"amount": 11, "phone_number": "0711000111"}
                )
            except aiohttp.ClientError:
                return
            if answer.status == 202:
                accepted.append(answer.json()["id"])
            else:
                other_statuses.append(answer.status)
            if len(accepted) >= _ACCEPTED_BEFORE_THE_END:
                enough.set()

    callers = [asyncio.create_task(keep_paying()) for _ in range(8)]
    await asyncio.wait_for(enough.wait(), PATIENCE_SECONDS)
    assert await system.stack.process("web").terminate(within_seconds=_DRAIN_SECONDS) == 0
    await asyncio.gather(*callers)
    await system.stack.start_process("web")
    assert other_statuses == []
    assert (await system.stage_counts(accepted)).total() == len(set(accepted)) == len(accepted)


async def test_a_draining_receiver_answers_a_callback_under_way(system: System) -> None:
    """Daraja sends a callback only once, so the receiver stores it before it exits."""
    await system.scenario("lost_callback", times=1, phone_number="254711000777")
    payment_id = await system.deposit(phone_number="0711000777")
    await system.in_stage(payment_id, "awaiting_result")
    url = await system.callback_url(payment_id, "deposit")
    receiver = system.stack.process("callbacks")
    holder = await asyncpg.connect(system.stack.database_url, statement_cache_size=0)
    try:
        async with holder.transaction():  # the callback must wait for this payment's row
            await holder.execute(_LOCK, payment_id)
            callback = asyncio.create_task(_post(url, b'{"held": "up"}'))
            await wait_for_blocked(system, holder)
            end = asyncio.create_task(receiver.terminate(within_seconds=_DRAIN_SECONDS))
            await receiver.wait_logged(r'"event":\s*"draining"')
    finally:
        await holder.close()
    assert await callback == 200
    assert await end == 0
    await system.stack.start_process("callbacks")
    [stored] = await system.callbacks(payment_id)
    assert stored["body"] == b'{"held": "up"}'


async def _post(url: str, body: bytes) -> int:
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.post(url, data=body) as answer,
    ):
        return answer.status
