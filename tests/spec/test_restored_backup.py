"""A backup that is restored into an empty server pays nothing again.

Payments go on after the backup, so the simulator has already paid what the restored database calls
unsent, in doubt, or unknown. The simulator's ledger is the judge.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import INQUIRE_SOON, a_system
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    history_facts,
    inquiries,
    wait_for_inquiries,
)
from tests.spec.operating import operate, start, stop
from tests.spec.playing import Api, begin, count_sends
from tests.spec.queueing import queue_job, wait_until_all_jobs_ended
from tests.spec.requesting import WITHDRAWAL
from tests.spec.system import System
from tests.stack import databases
from tests.stack.backups import back_up
from tests.stack.servers import PostgresServer

# The age of the payments does not protect them: their backup is younger than the limits.
_ENV: dict[str, str | None] = {
    **INQUIRE_SOON,
    "DEPOSIT_EXPIRES_AFTER_SECONDS": "3600",
    "BILL_EXPIRES_AFTER_SECONDS": "3600",
}
_APIS: tuple[Api, ...] = ("b2c", "b2b")
_PROCESSES = ("web", "callbacks", "worker")


@dataclass(frozen=True, slots=True)
class Payments:
    """The payments of the backup by their state in it, and those that it does not have."""

    settled: list[str]
    sent: list[str]  # on the wire, in doubt, or without a result
    bill_on_the_wire: str  # no inquiry can name it
    unsent: list[str]
    lost_key: str  # of a withdrawal that was accepted after the backup

    @property
    def all(self) -> list[str]:
        return [*self.settled, *self.sent, self.bill_on_the_wire, *self.unsent]


async def _begin_payments(system: System) -> Payments:
    """Make payments in every state. Afterwards the worker is frozen, and nothing moves."""
    settled = [await system.deposit(), await system.withdrawal()]
    await system.wait_until_paid(settled)
    in_doubt = await begin_in_doubt(
        system, "b2c", "answer_and_callback_lost", InquiryRule("lost_callback")
    )
    await system.wait_for_stage(in_doubt, "in_doubt")
    await system.control("POST", "/switches", {"hold_callbacks": True})
    awaited = await system.deposit()
    await system.wait_for_stage(awaited, "awaiting_result")
    on_the_wire = [await begin(system, api, "slow", seconds=600) for api in _APIS]
    for payment_id in on_the_wire:
        await system.eventually(partial(system.provider_requests, payment_id), awaited="a request")
    system.stack.process("worker").freeze()
    assert await system.stage_counts(on_the_wire) == {"submitting": 2}
    unsent = await asyncio.gather(
        system.deposit(), system.withdrawal(), system.bill_payment(), system.pochi_payment()
    )
    withdrawal, bill = on_the_wire
    return Payments(settled, [in_doubt, awaited, withdrawal], bill, list(unsent), str(uuid4()))


async def _go_on(system: System, payments: Payments) -> None:
    """Let the payments of the backup be paid, and one more. Then end all processes."""
    system.stack.process("worker").thaw()
    await system.control("DELETE", "/scenarios")
    await system.control("POST", "/switches", {"hold_callbacks": False})
    await system.control("POST", "/callbacks/release", {"order": "in_order"})
    await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=payments.lost_key)
    await system.wait_until_paid(payments.all)
    for name in _PROCESSES:
        await system.stack.stop_process(name)


async def _movements(system: System) -> dict[str, int]:
    """How often each payment moved money, by the address of its result."""
    ledger = await system.control("GET", "/ledger")
    urls = [item["result_url"] for item in ledger["items"]]
    return {url: urls.count(url) for url in urls}


@asynccontextmanager
async def _restored(
    system: System, url: str, *, old_jobs: Sequence[str] = ()
) -> AsyncIterator[System]:
    """The system on another database, which the release has migrated.

    The worker first ends jobs from before the restore. Their payments are too old to be sent.
    """
    assert (await databases.alembic("upgrade", "head", url=url))[0] == 0
    system.stack.database_url = url
    async with System(system.stack) as restored, Redis.from_url(system.stack.redis_url) as redis:
        too_old = "UPDATE mkwanja.payments SET expires_at = now() WHERE id = ANY($1::uuid[])"
        await restored.execute(too_old, list(old_jobs))
        for payment_id in old_jobs:
            await queue_job(redis, payment_id)
        for name in _PROCESSES:
            await system.stack.start_process(name, env={"DATABASE_URL": url})
        if old_jobs:
            await wait_until_all_jobs_ended(restored, redis)
        yield restored


async def _settle_by_statement(system: System, payment_id: str) -> None:
    """Do what a person does with a flagged payment that is on M-PESA's statement."""
    [movement] = await system.movements(payment_id)
    paid = ("resolve", payment_id, "paid", "--receipt", movement["receipt"])
    (await operate(system, *paid, "--reason", "on the statement")).expect(0)


@pytest.mark.skipif(bool(os.environ.get("THROUGH_POOLER")), reason="it starts its own servers")
async def test_a_restored_backup_pays_nothing_again(tmp_path: Path) -> None:
    """The worker goes on with what was sent, and a person decides about the rest.

    Redis still has jobs from before the restore. They end no payment, although each is too old.
    """
    async with (
        PostgresServer() as first,
        PostgresServer() as second,
        a_system(postgres=first, env=_ENV) as system,
    ):
        payments = await _begin_payments(system)
        url = system.stack.database_url
        (await back_up("save", tmp_path / "backup", url=url)).expect(0)
        await _go_on(system, payments)
        await first.stop()
        new = await second.create_database()
        said = (await back_up("restore", tmp_path / "backup", url=new)).expect(0)
        before = await _movements(system)
        async with _restored(system, new, old_jobs=payments.unsent) as restored:
            await _assert_nothing_is_paid_again(restored, payments)
            assert (await _movements(restored)).items() >= before.items()
            for payment_id in (payments.bill_on_the_wire, *payments.unsent):
                await _settle_by_statement(restored, payment_id)
            await start(restored)
            newer = [await restored.withdrawal(), await restored.bill_payment()]
            await restored.wait_until_paid(newer)
            await restored.assert_money_agrees([*payments.all, *newer])
        assert all(payment_id in said.output for payment_id in payments.unsent), said.output


@pytest.mark.whole
@pytest.mark.skipif(bool(os.environ.get("THROUGH_POOLER")), reason="it starts its own servers")
async def test_answers_from_before_a_restore_permit_no_resend(tmp_path: Path) -> None:
    """The backup has two trusted answers "not found", and lacks the resend that paid.

    The worker inquires, and an answer settles the withdrawal.
    """
    async with PostgresServer() as server, a_system(postgres=server, env=_ENV) as system:
        silence = InquiryRule("lost_callback")
        payment_id = await begin_in_doubt(system, "b2c", "cut_before_acting", silence, times=1)
        await system.wait_for_stage(payment_id, "in_doubt")
        worker = system.stack.process("worker")
        worker.freeze()  # while a command runs, it would inquire too often and flag the payment
        await stop(system)
        await system.control("DELETE", "/scenarios")
        worker.thaw()
        await system.eventually(
            partial(_trusted_answers, system, payment_id),
            lambda answers: len(answers) >= 2,
            awaited="two answers that permit a resend",
        )
        worker.freeze()
        (await back_up("save", tmp_path / "backup", url=system.stack.database_url)).expect(0)
        await start(system)
        worker.thaw()
        await system.wait_until_paid([payment_id])
        for name in _PROCESSES:
            await system.stack.stop_process(name)
        sends = await count_sends(system, payment_id)
        new = await server.create_database()
        (await back_up("restore", tmp_path / "backup", url=new)).expect(0)
        await system.scenario("lost_callback", api="status", url_contains=payment_id)
        async with _restored(system, new) as restored:
            await start(restored)
            await restored.wait_until_paid([await restored.withdrawal()])  # the worker pays
            asked = len(await inquiries(restored, payment_id))
            await wait_for_inquiries(restored, payment_id, asked + 2)
            assert await count_sends(restored, payment_id) == sends
            await restored.control("DELETE", "/scenarios")
            await restored.wait_until_paid([payment_id])
            assert "restored" in await history_facts(restored, payment_id)
            await restored.assert_money_agrees([payment_id])


async def _trusted_answers(system: System, payment_id: str) -> list[Any]:
    return await system.rows(
        "SELECT inquiry.number FROM mkwanja.inquiries AS inquiry"
        " JOIN mkwanja.attempts AS attempt USING (payment_id)"
        " WHERE payment_id = $1::uuid AND verdict = 'not_found'"
        " AND asked_at >= ended_at + interval '1 second'",
        payment_id,
    )


async def _assert_nothing_is_paid_again(system: System, payments: Payments) -> None:
    lost = await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=payments.lost_key)
    assert not lost.expect(202).was_replayed
    await system.wait_until_paid([*payments.sent, *payments.settled])
    await system.wait_until_paid([await system.deposit()])  # the worker works
    await system.wait_for_stage(payments.bill_on_the_wire, "in_doubt")
    assert [len(await system.movements(payment_id)) for payment_id in payments.all] == [1] * 10
    for payment_id in payments.unsent:
        assert _seen(await system.payment(payment_id)) == ("accepted", True)
        (await system.backend.pay(f"/v1/payments/{payment_id}/cancel", {})).expect(409)
        assert len(await system.provider_requests(payment_id)) == 1
    # Payouts are stopped, so the backend's repetition is not paid, and can be cancelled.
    repeated = lost.json()["id"]
    assert _seen(await system.payment(repeated)) == ("accepted", False)
    (await system.backend.pay(f"/v1/payments/{repeated}/cancel", {})).expect(200)
    assert await system.movements(repeated) == []


def _seen(payment: Any) -> tuple[str, bool]:
    return payment["stage"], payment["needs_review"]
