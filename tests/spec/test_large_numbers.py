"""Hundreds of payments in doubt at once: each is paid once, within the inquiry budget.

With `LARGE_NUMBERS=1` (`make proof`) the tests make all payments, and in `make test-all` a tenth of
them. Most waiting times are much shorter than the defaults.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.spec.conftest import a_system
from tests.spec.system import System

_IS_FULL = os.environ.get("LARGE_NUMBERS", "") not in ("", "0")
_THOUSAND = 1000 if _IS_FULL else 100
_FIVE_HUNDRED = 500 if _IS_FULL else 50

_AT_ONCE = 50  # how many requests the callers make at a time
_PATIENCE_SECONDS = 240.0

_STK_QUERY, _STATUS = "/mpesa/stkpushquery/v1/query", "/mpesa/transactionstatus/v1/query"

_QUICK: dict[str, str | None] = {
    "DARAJA_REQUESTS_PER_SECOND": "10000",
    "DARAJA_INQUIRIES_PER_MINUTE": "15000",
    "INQUIRY_FIRST_AFTER_SECONDS": "1",
    "INQUIRY_INTERVAL_MAX_SECONDS": "2",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "3",
}


async def _many(count: int, make: Callable[[int], Awaitable[str]]) -> list[str]:
    """Makes `count` payments in batches of concurrent requests; returns their ids."""
    ids: list[str] = []
    for start in range(0, count, _AT_ONCE):
        ids += await asyncio.gather(
            *(make(number) for number in range(start, min(count, start + _AT_ONCE)))
        )
    return ids


async def _wait_for_stage(system: System, ids: list[str], stage: str) -> None:
    await system.eventually(
        lambda: system.stage_counts(ids),
        lambda counts: counts[stage] == len(ids),
        patience_seconds=_PATIENCE_SECONDS,
        poll_seconds=0.5,  # a count costs more than a payment
    )


async def _assert_each_paid_once(system: System, ids: list[str]) -> None:
    """Check that the ledger has one movement of each payment's amount, and no other.

    The history must have one success of each payment, and no failure.
    """
    ledger = (await system.control("GET", "/ledger"))["items"]
    amounts = "SELECT id, amount_kes FROM mkwanja.payments WHERE id = ANY($1::uuid[])"
    recorded = [(str(row["id"]), row["amount_kes"]) for row in await system.rows(amounts, ids)]
    # Our addresses are `…/results/{id}/{operation}/{token}`.
    moved = [(item["result_url"].rsplit("/", 3)[1], item["amount"]) for item in ledger]
    assert sorted(moved) == sorted(recorded)
    assert len(moved) == len(ids) == len(set(ids))
    ends = (
        "SELECT payment_id, stage FROM mkwanja.payment_history"
        " WHERE payment_id = ANY($1::uuid[]) AND stage IN ('succeeded', 'failed')"
    )
    ended = Counter((str(row["payment_id"]), row["stage"]) for row in await system.rows(ends, ids))
    assert ended == Counter((payment_id, "succeeded") for payment_id in ids)


async def _count_sends(system: System) -> Counter[str]:
    """How often each withdrawal was sent, by its id."""
    requests = (await system.control("GET", "/requests?path=/mpesa/b2c/"))["items"]
    return Counter(request["body"]["OriginatorConversationID"] for request in requests)


async def _assert_within_budget(
    system: System, path: str, *, since: datetime, per_second: float
) -> int:
    """Check that the budget, counted from `since`, allowed every inquiry; return their number.

    The budget allows the inquiries of one second at once.
    """
    requests = (await system.control("GET", f"/requests?path={path}"))["items"]
    for number, request in enumerate(requests, start=1):
        passed = datetime.fromisoformat(request["at"]) - since
        assert number <= per_second * (1 + passed.total_seconds()), (number, passed)
    return len(requests)


async def _now(system: System) -> Any:
    [row] = await system.rows("SELECT now() AS now")
    return row["now"]


@pytest.mark.whole
async def test_payouts_whose_answers_are_all_lost_are_each_made_once() -> None:
    """Half of the results are also lost. Each withdrawal has one send and one success."""
    async with a_system(env=_QUICK) as system:
        await system.scenario("answer_lost_after_acting", api="b2c", amount=1000)
        await system.scenario("answer_and_callback_lost", api="b2c", amount=1001)
        ids = await _many(_THOUSAND, lambda number: system.withdrawal(amount=1000 + number % 2))
        await _wait_for_stage(system, ids, "succeeded")
        await _assert_each_paid_once(system, ids)
        assert await _count_sends(system) == Counter(ids)
        found = "SELECT DISTINCT payment_id FROM mkwanja.inquiries WHERE verdict = 'paid'"
        assert len(await system.rows(found)) >= _THOUSAND / 2


@pytest.mark.whole
async def test_payouts_that_were_cut_before_daraja_acted_are_each_made_once() -> None:
    """The service cannot know whether Daraja acted, so it inquires twice before a resend."""
    async with a_system(env=_QUICK) as system:
        cut_once = "254700000021"  # the simulator cuts the first call of its payments
        ids = await _many(_THOUSAND, lambda _: system.withdrawal(amount=120, phone_number=cut_once))
        await _wait_for_stage(system, ids, "succeeded")
        await _assert_each_paid_once(system, ids)
        assert await _count_sends(system) == Counter(ids * 2)
        not_found = "SELECT payment_id FROM mkwanja.inquiries WHERE verdict = 'not_found'"
        answers = Counter(str(row["payment_id"]) for row in await system.rows(not_found))
        assert set(answers) == set(ids)
        assert min(answers.values()) >= 2


@pytest.mark.whole
async def test_inquiries_settle_deposits_that_are_paid_while_the_receiver_is_down() -> None:
    """No result arrives. The inquiries stay within the budget, and no deposit fails for silence."""
    per_second = _FIVE_HUNDRED / 10
    env: dict[str, str | None] = {**_QUICK, "DARAJA_INQUIRIES_PER_MINUTE": str(per_second * 60)}
    async with a_system(env=env) as system:
        since = await _now(system)
        await system.stack.stop_process("callbacks")
        ids = await _many(_FIVE_HUNDRED, lambda _: system.deposit())
        await _wait_for_stage(system, ids, "succeeded")
        await _assert_each_paid_once(system, ids)
        count = await _assert_within_budget(system, _STK_QUERY, since=since, per_second=per_second)
        assert count >= len(ids)
        assert await system.rows("SELECT id FROM mkwanja.callbacks") == []
        odd = "SELECT id FROM mkwanja.payments WHERE needs_review OR receipt IS NOT NULL"
        assert await system.rows(odd) == []
        await system.stack.start_process("callbacks")
        later = await system.deposit()
        assert (await system.settled(later))["receipt"] is not None


@pytest.mark.whole
async def test_a_worker_that_returns_after_ten_minutes_inquires_in_due_order() -> None:
    """The worker stays within both budgets. The longest overdue payments come first."""
    per_second = _FIVE_HUNDRED / 10
    env: dict[str, str | None] = {
        "DARAJA_REQUESTS_PER_SECOND": "10000",
        "DARAJA_INQUIRIES_PER_MINUTE": str(per_second * 60),
    }
    async with a_system(env=env) as system:
        await system.scenario("lost_callback", api="stk")
        await system.scenario("lost_callback", api="b2c")
        deposits = await _many(_FIVE_HUNDRED, lambda _: system.deposit())
        withdrawals = await _many(_FIVE_HUNDRED, lambda _: system.withdrawal())
        overdue = deposits + withdrawals
        await _wait_for_stage(system, overdue, "awaiting_result")
        await system.stack.kill_workers()
        was_due_at = await _make_overdue(system, overdue)
        fresh = await _many(10, lambda _: system.withdrawal())
        since = await _now(system)
        await system.stack.start_workers()
        await _wait_for_stage(system, overdue, "succeeded")
        for payment_ids, path in ((deposits, _STK_QUERY), (withdrawals, _STATUS)):
            await _assert_within_budget(system, path, since=since, per_second=per_second)
            await _assert_in_due_order(
                system, payment_ids, was_due_at, handed_over_at_once=int(per_second)
            )
        await _wait_for_stage(system, fresh, "awaiting_result")
        await system.execute(
            "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = ANY($1::uuid[])", fresh
        )
        await _wait_for_stage(system, fresh, "succeeded")
        await _assert_each_paid_once(system, overdue + fresh)


async def _make_overdue(system: System, ids: list[str]) -> dict[str, datetime]:
    """Makes each payment due at its own time within the last ten minutes, in random order."""
    minutes = [10 * number / len(ids) for number in range(1, len(ids) + 1)]
    random.Random(7).shuffle(minutes)
    change = (
        "UPDATE mkwanja.payments SET next_step_at = now() - wait"
        " FROM unnest($1::uuid[], $2::interval[]) AS due(payment, wait)"
        " WHERE id = payment RETURNING id, next_step_at"
    )
    rows = await system.rows(change, ids, [timedelta(minutes=one) for one in minutes])
    return {str(row["id"]): row["next_step_at"] for row in rows}


async def _assert_in_due_order(
    system: System, ids: list[str], was_due_at: dict[str, datetime], *, handed_over_at_once: int
) -> None:
    """Check that no inquiry is further from its turn than twice `handed_over_at_once`.

    One sweep hands over that many payments at once. The sweep before it handed over as many, and
    some of these may still wait.
    """
    first = (
        "SELECT payment_id, min(asked_at) AS at FROM mkwanja.inquiries"
        " WHERE payment_id = ANY($1::uuid[]) GROUP BY 1"
    )
    asked_at = {str(row["payment_id"]): row["at"] for row in await system.rows(first, ids)}
    assert set(asked_at) == set(ids)
    turns = {one: turn for turn, one in enumerate(sorted(ids, key=was_due_at.__getitem__))}
    asked = sorted(ids, key=lambda one: (asked_at[one], turns[one]))
    for number, payment_id in enumerate(asked):
        turn = turns[payment_id]
        assert abs(number - turn) <= 2 * handed_over_at_once, (number, turn)
