"""Postgres is away, or has lost a commit, when Daraja answers a send: no answer is lost, and
nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system
from tests.spec.in_doubt import begin_in_doubt, wait_until_observed
from tests.spec.playing import PAID, Api, count_sends
from tests.spec.system import System

# Asked soon; a send has its usual lease, so that no answer is late.
_ASKED_SOON: dict[str, str | None] = {
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}

# For so long answers were once tried to be recorded; then they were dropped.
_ONCE_TRIED_SECONDS = 11.8

_LOSE_CLAIM = """
ALTER TABLE mkwanja.payment_history DISABLE TRIGGER USER;
DELETE FROM mkwanja.payment_history WHERE payment_id = '{0}' AND attempt_id IS NOT NULL;
ALTER TABLE mkwanja.payment_history ENABLE TRIGGER USER;
DELETE FROM mkwanja.attempts WHERE payment_id = '{0}';
UPDATE mkwanja.payments SET stage = 'accepted', attempt_id = NULL, lease_until = NULL, next_step = 'submit', sequence = 1,
    next_step_at = now() + interval '20 seconds' WHERE id = '{0}';
"""


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with a_system(env=_ASKED_SOON) as system:
        if not system.stack.postgres.can_be_stopped:
            pytest.skip("the server was given; it is not ours to stop")
        yield system


async def _sent(system: System, *apis: Api, answered_after: float) -> dict[str, str]:
    """Payments that Daraja has made, whose results never come and whose answers come later;
    their ids.
    """
    await system.control("POST", "/switches", {"hold_callbacks": True})
    ids = {api: await begin_in_doubt(system, api, "slow", seconds=answered_after) for api in apis}
    await system.eventually(
        lambda: system.control("GET", ""), lambda state: state["held"] == len(apis)
    )
    await system.control(
        "POST", "/switches", {"hold_callbacks": False}
    )  # what is held already stays so
    assert [await count_sends(system, payment_id) for payment_id in ids.values()] == [1] * len(apis)
    return {str(api): payment_id for api, payment_id in ids.items()}


async def test_an_acknowledgement_that_comes_while_postgres_is_away_is_recorded_when_it_is_back(
    system: System,
) -> None:
    """However long that takes: the deposit has its ids and is asked about, and the bill is not
    for a person.
    """
    ids = await _sent(system, "stk", "b2b", "b2c", answered_after=5)
    await system.stack.postgres.stop()
    await asyncio.sleep(5 + _ONCE_TRIED_SECONDS + 2)
    await system.stack.postgres.start()
    await wait_until_observed(system, dict.fromkeys(ids, PAID), ids)
    for payment_id in ids.values():
        assert "acknowledged" in [
            entry["what"] for entry in await system.backend.history(payment_id)
        ]
    await system.assert_money_agrees(list(ids.values()))


async def test_a_worker_that_must_end_before_postgres_is_back_says_what_it_knew(
    system: System,
) -> None:
    """It ends within its time, and its last line has everything that a person needs to find the
    payment at Daraja.
    """
    payment_id = (await _sent(system, "b2b", answered_after=3))["b2b"]
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


@pytest.mark.parametrize("api", ["stk", "b2b", "b2c"])
async def test_a_payment_whose_claim_the_database_lost_is_in_doubt_by_its_answer_and_not_sent_again(
    system: System, api: Api
) -> None:
    payment_id = (await _sent(system, api, answered_after=4))[api]
    await system.execute(_LOSE_CLAIM.format(payment_id))
    await wait_until_observed(system, {"it": PAID}, {"it": payment_id})
    stages = [(entry["what"], entry["stage"]) for entry in await system.backend.history(payment_id)]
    assert stages[:2] == [("accepted", "accepted"), ("claim_lost", "in_doubt")]
    await system.assert_money_agrees([payment_id])
