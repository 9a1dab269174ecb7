"""Sweeping: several workers give each overdue payment its next step in its turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.conftest import a_system, reset
from tests.spec.in_doubt import history_facts
from tests.spec.playing import begin, count_sends, stopped_payouts
from tests.spec.system import PATIENCE_SECONDS, System

_BRISK: dict[str, str | None] = {
    "INQUIRY_FIRST_AFTER_SECONDS": "1",
    "INQUIRY_INTERVAL_MAX_SECONDS": "2",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "2",
    "DEPOSIT_EXPIRES_AFTER_SECONDS": "3600",
    "PAYOUT_EXPIRES_AFTER_SECONDS": "3600",
}
_WORKERS = ("worker.1", "worker.2", "worker.3")
_STATUS = "/mpesa/transactionstatus/v1/query"
_EVERY_STEP = ("submit", "end_lease", "query", "status", "watch")


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=_BRISK, workers=3) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> System:
    """The running system with its simulator reset, and without due payments of other tests."""
    await reset(running_system)
    await running_system.forget_open_payments(_EVERY_STEP)
    return running_system


async def _inquired_ids(system: System) -> list[str]:
    """The payment ids of the Transaction Status requests, in order of arrival."""
    requests = (await system.control("GET", f"/requests?path={_STATUS}"))["items"]
    return [item["body"]["OriginatorConversationID"] for item in requests]


async def _insert_copies(
    system: System, payment_id: str, count: int, changes: dict[str, Any]
) -> None:
    """Inserts copies of a payment, with some columns changed, for the sweeper to find."""
    copy = (
        "INSERT INTO mkwanja.payments"
        " SELECT (jsonb_populate_record(payment, $3::jsonb || jsonb_build_object("
        "'id', gen_random_uuid(), 'receipt', NULL))).*"
        " FROM mkwanja.payments AS payment, generate_series(1, $2)"
        " WHERE id = $1::uuid"
    )
    await system.execute(copy, payment_id, count, json.dumps(changes))


async def test_the_longest_overdue_payment_is_inquired_about_first(system: System) -> None:
    """Three workers share a budget of one inquiry a second, and keep the order."""
    # Inquiries answer "Pending". Otherwise an inquiry could settle a payment before the workers
    # are killed.
    await system.scenario("status_value", api="status", params={"status": "Pending"})
    payment_ids = await asyncio.gather(*(begin(system, "b2c", "lost_callback") for _ in range(5)))
    for payment_id in payment_ids:
        await system.in_stage(payment_id, "awaiting_result")
    for name in _WORKERS:
        await system.stack.process(name).kill()
    await system.control("DELETE", "/scenarios")
    await system.control("DELETE", "/requests")
    for place, payment_id in enumerate(reversed(payment_ids)):
        due = (
            "UPDATE mkwanja.payments SET next_step_at = now() - (100 - $2) * interval '1 minute'"
            " WHERE id = $1::uuid"
        )
        await system.execute(due, payment_id, place)
    budget = {"DARAJA_INQUIRIES_PER_MINUTE": "60"}
    await asyncio.gather(*(system.stack.start_process(name, env=budget) for name in _WORKERS))
    await system.wait_until_paid(payment_ids)
    assert list(dict.fromkeys(await _inquired_ids(system))) == payment_ids[::-1]
    await asyncio.gather(*(system.stack.restart_process(name, kill=True) for name in _WORKERS))


async def test_a_backlog_of_one_step_delays_no_other_step(system: System) -> None:
    """Payouts are stopped. Hundreds of them wait, and hundreds of payments wait for inquiries.

    Leases still end, a deposit without a result still fails, and deposits are still sent.
    """
    model = await begin(system, "b2c", "approve")
    await system.settled(model)
    waiting = {
        "stage": "accepted",
        "next_step": "submit",
        "next_step_at": "2020-01-01T00:00:00Z",
        "finalized_at": None,
    }
    async with stopped_payouts(system):
        await _insert_copies(system, model, 300, waiting)
        await _insert_copies(
            system, model, 300, waiting | {"stage": "awaiting_result", "next_step": "status"}
        )
        silent = await begin(system, "stk", "answer_and_callback_lost")
        lost = await system.deposit()
        overdue = (
            "UPDATE mkwanja.payments SET next_step_at = now()"
            " WHERE id = $1::uuid AND next_step = 'submit'"
        )
        await system.execute(overdue, lost)
        under_way = await begin(system, "b2b", "approve")
        await system.execute(
            "WITH attempt AS (INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at)"
            " VALUES (gen_random_uuid(), $1::uuid, 1, now()) RETURNING id)"
            " UPDATE mkwanja.payments SET stage = 'submitting',"
            " attempt_id = (SELECT id FROM attempt), next_step = 'end_lease',"
            " lease_until = now(), next_step_at = now() WHERE id = $1::uuid",
            under_way,
        )
        await system.in_stage(under_way, "in_doubt")
        assert (await system.settled(silent))["failure"]["reason"] == "no_result_confirmed"
        assert (await system.settled(lost))["status"] == "success"
        copies = (
            "SELECT count(*) AS held FROM mkwanja.payments WHERE stage = 'accepted'"
            " AND created_at = (SELECT created_at FROM mkwanja.payments WHERE id = $1::uuid)"
        )
        held = await system.rows(copies, model)
        assert held == [{"held": 300}]
        await system.forget_open_payments(_EVERY_STEP)  # otherwise the workers would pay all copies


async def test_an_expired_payment_is_not_sent(system: System) -> None:
    """The payment fails, and its failure says that a retry is safe."""
    age = "UPDATE mkwanja.payments SET expires_at = now(), next_step_at = now() WHERE id = $1::uuid"
    async with stopped_payouts(system):
        for payment_id in (await system.withdrawal(), await system.bill_payment()):
            await system.execute(age, payment_id)
            failure = (await system.settled(payment_id))["failure"]
            assert (failure["reason"], failure["safe_to_retry"]) == ("not_submitted_in_time", True)
            assert await count_sends(system, payment_id) == 0


@pytest.mark.whole
async def test_a_payment_without_progress_is_flagged_once(system: System) -> None:
    """The list of flagged payments contains the payment, and the inquiries go on."""
    payment_id = await begin(system, "b2c", "lost_callback")
    await system.scenario("status_value", api="status", params={"status": "Pending"})
    payment = await system.eventually(  # ten inquiries, two seconds apart
        lambda: system.payment(payment_id),
        lambda payment: payment["needs_review"],
        patience_seconds=2 * PATIENCE_SECONDS,
    )
    assert payment["status"] == "pending"
    facts = await history_facts(system, payment_id)
    assert (facts[-1], facts.count("needs_a_person")) == ("needs_a_person", 1)
    listed = await system.backend.get("/v1/payments", needs_review="true", limit="100")
    assert payment_id in {item["id"] for item in listed.expect(200).json()["items"]}
    await system.control("DELETE", "/scenarios")
    await system.wait_until_paid([payment_id])
