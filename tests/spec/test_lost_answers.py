"""PostgreSQL is away when Daraja answers a send: no answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system
from tests.spec.in_doubt import begin_in_doubt, history_facts, wait_until_observed
from tests.spec.playing import PAID, Api, count_sends
from tests.spec.system import System

# The service inquires soon. A lease has its default length, so no answer comes after its lease.
_INQUIRE_SOON: dict[str, str | None] = {
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}

# An earlier version retried for this long to store an answer, and then dropped it.
_FORMER_RETRY_SECONDS = 11.8


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with a_system(env=_INQUIRE_SOON) as system:
        if not system.stack.postgres.can_be_stopped:
            pytest.skip("a test must not stop a server that was given to it")
        yield system


async def _begin_sent(system: System, *apis: Api, answered_after: float) -> dict[str, str]:
    """Make payments that Daraja has paid and not yet answered; return their ids by API.

    Daraja answers each send after `answered_after` seconds. It sends no results.
    """
    await system.control("POST", "/switches", {"hold_callbacks": True})
    ids = {api: await begin_in_doubt(system, api, "slow", seconds=answered_after) for api in apis}
    await system.eventually(
        lambda: system.control("GET", ""), lambda state: state["held"] == len(apis)
    )
    # The simulator never sends the results that it held back until now.
    await system.control("POST", "/switches", {"hold_callbacks": False})
    assert [await count_sends(system, payment_id) for payment_id in ids.values()] == [1] * len(apis)
    return {str(api): payment_id for api, payment_id in ids.items()}


async def test_an_acknowledgement_that_comes_while_postgres_is_away_is_stored_later(
    system: System,
) -> None:
    """Even after a long outage, deposits have their ids, and bill payments need no person."""
    ids = await _begin_sent(system, "stk", "b2b", "b2c", answered_after=5)
    await system.stack.postgres.stop()
    await asyncio.sleep(5 + _FORMER_RETRY_SECONDS + 2)
    await system.stack.postgres.start()
    await wait_until_observed(system, dict.fromkeys(ids, PAID), ids)
    for payment_id in ids.values():
        assert "acknowledged" in await history_facts(system, payment_id)
    await system.assert_money_agrees(list(ids.values()))


async def test_a_worker_that_must_end_before_postgres_is_back_logs_the_lost_answer(
    system: System,
) -> None:
    """The worker ends in time. The log line has all ids that a person needs at Daraja."""
    payment_id = (await _begin_sent(system, "b2b", answered_after=3))["b2b"]
    await system.stack.postgres.stop()
    assert await system.stack.stop_process("worker") == 0
    lines = system.stack.logs()["worker.1"].splitlines()
    [line] = [line for line in lines if '"answer_lost"' in line]
    assert all(
        f'"{name}"' in line
        for name in ("attempt_id", "conversation_id", "originator_conversation_id")
    )
    assert payment_id in line
    await system.stack.postgres.start()
