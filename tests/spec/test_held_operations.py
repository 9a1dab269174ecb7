"""An app that lacks a product: its payments wait, each probe is one of them, and nothing else
notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.conftest import a_system
from tests.spec.operating import operate
from tests.spec.system import System

# Questions and probes come soon; nothing of Daraja's own or of ours limits how many.
_ENV: dict[str, str | None] = {
    "OPERATION_COOL_DOWN_SECONDS": "1.5",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}
_B2C, _STATUS, _QUERY = (
    "/mpesa/b2c/v3/paymentrequest",
    "/mpesa/transactionstatus/v1/query",
    "/mpesa/stkpushquery/v1/query",
)
_WITHDRAWALS, _DEPOSITS = 80, 60

# The form of issue reports: a refused token by its words, and the same token works for every other
# operation.
_LIKE_A_TOKEN = {"form": "empty_token"}


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=_ENV) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system with nothing held and the simulator as new; what other tests left open is not
    asked about.
    """
    await running_system.forget_open_payments()
    await running_system.control("POST", "/reset", {})
    await running_system.release_brakes()
    await running_system.control(
        "POST", "/switches", {"time_scale": 0.02, "token_policy": "invalidate_previous"}
    )
    yield running_system
    await running_system.control("POST", "/reset", {})
    await running_system.release_brakes()


async def _count(system: System, path: str) -> int:
    return int((await system.control("GET", f"/requests?path={path}&last=1"))["count"])


async def _brake(system: System, name: str = "b2c") -> Any:
    [row] = await system.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", name)
    return row


async def _held(system: System, name: str = "b2c") -> Any:
    return await system.eventually(
        lambda: _brake(system, name), lambda row: row["is_engaged"], "a held operation"
    )


async def _attempts(system: System, payment_ids: list[str]) -> dict[str, int]:
    """How often each payment was claimed."""
    sql = "SELECT payment_id, count(*) AS count FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[]) GROUP BY 1"
    return {str(row["payment_id"]): row["count"] for row in await system.rows(sql, payment_ids)}


async def _all_paid_once(system: System, payment_ids: list[str]) -> None:
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
    await system.assert_money_agrees(payment_ids)


async def _switch_on(system: System) -> None:
    await system.control("DELETE", "/scenarios")
    await system.control("POST", "/switches", {"missing_products": []})


@pytest.mark.whole
async def test_eighty_withdrawals_wait_for_a_missing_product_while_deposits_go_on(
    system: System,
) -> None:
    """Few calls, two tokens, no deposit notices; when the product works again each withdrawal is
    paid once.
    """
    await system.scenario("product_missing", api="b2c", params=_LIKE_A_TOKEN)
    first = await system.withdrawal()
    await _held(system)
    tokens = await _count(system, "/oauth")
    withdrawals = [
        first,
        *await asyncio.gather(*(system.withdrawal() for _ in range(_WITHDRAWALS - 1))),
    ]
    deposits = [await system.deposit() for _ in range(_DEPOSITS)]
    await _all_paid_once(system, deposits)
    # Until it was probed twice more, and found missing.
    await system.eventually(lambda: _brake(system), lambda row: row["probes"] >= 2, "two probes")
    await system.eventually(  # but for the moment in which one of them is a probe
        lambda: system.stage_counts(withdrawals),
        lambda counts: counts == {"accepted": _WITHDRAWALS},
    )
    probes = (await _brake(system))["probes"]
    # The first was refused under two tokens. Each probe is one call, and fetches no token.
    assert await _count(system, _B2C) <= 2 + probes + 1
    assert await _count(system, "/oauth") == tokens <= 2
    assert sum((await _attempts(system, withdrawals)).values()) <= 1 + probes + 1
    await _switch_on(system)
    await _all_paid_once(system, withdrawals)
    assert not (await _brake(system))["is_engaged"]


async def test_withdrawals_claimed_together_are_refused_once_and_then_wait(
    system: System,
) -> None:
    """However many were claimed before the first refusal was on record, none is claimed after it
    but as a probe.
    """
    await system.scenario("product_missing", api="b2c", params=_LIKE_A_TOKEN)
    withdrawals = await asyncio.gather(*(system.withdrawal() for _ in range(_WITHDRAWALS)))
    await system.eventually(lambda: _brake(system), lambda row: row["probes"] >= 2, "two probes")
    attempts = await _attempts(system, withdrawals)
    assert max(attempts.values(), default=0) <= 2
    assert await _count(system, "/oauth") <= 2
    await _switch_on(system)
    await _all_paid_once(system, withdrawals)


@pytest.mark.parametrize("api", ["stk", "b2b"])
@pytest.mark.sampled(1)
async def test_deposits_and_bill_payments_are_held_in_the_same_way(
    system: System, api: str
) -> None:
    """The form of each refusal is drawn by the simulator's seed."""
    name, pay = {"stk": ("stk_push", system.deposit), "b2b": ("b2b", system.bill_payment)}[api]
    await system.control("POST", "/switches", {"missing_products": [api], "seed": 3})
    waiting = [await pay() for _ in range(5)]
    await _held(system, name)
    other = await system.withdrawal()
    await _all_paid_once(system, [other])
    await _switch_on(system)
    await _all_paid_once(system, waiting)


@pytest.mark.parametrize("kind", ["deposit", "withdrawal"])
@pytest.mark.sampled(1)
async def test_payments_stay_open_while_daraja_refuses_inquiries(system: System, kind: str) -> None:
    """Their callbacks are lost, so that only a question can tell."""
    api, path, name = {
        "deposit": ("stk", _QUERY, "stk_query"),
        "withdrawal": ("b2c", _STATUS, "status"),
    }[kind]
    await system.control("POST", "/switches", {"missing_products": [name]})
    await system.scenario("lost_callback", api=api)
    payment_ids = [
        await (system.deposit() if kind == "deposit" else system.withdrawal()) for _ in range(6)
    ]
    await system.eventually(
        lambda: _brake(system, name), lambda row: row["probes"] >= 2, "two probes"
    )
    assert await system.stage_counts(payment_ids) == {"awaiting_result": len(payment_ids)}
    assert (
        await _count(system, path)
        <= len(payment_ids) * 2 + (await _brake(system, name))["probes"] + 1
    )
    await system.control("POST", "/switches", {"missing_products": []})
    await _all_paid_once(system, payment_ids)


@pytest.mark.whole
async def test_refusals_of_our_settings_fail_a_few_payments_and_hold_the_rest(
    system: System,
) -> None:
    await system.scenario("invalid_request", api="b2c", params={"field": "ResultURL"})
    failed = []
    for _ in range(3):
        failed.append(await system.withdrawal())
        assert (await system.settled(failed[-1]))["failure"]["reason"] == "configuration"
    await _held(system)
    waiting = [await system.withdrawal() for _ in range(20)]
    await system.eventually(lambda: _brake(system), lambda row: row["probes"] >= 2, "two probes")
    probes = (await _brake(system))["probes"]
    counts = await system.stage_counts(waiting)
    assert counts["failed"] <= probes
    assert counts["accepted"] >= len(waiting) - probes - 1
    await _switch_on(system)
    for payment_id in waiting:
        await system.settled(payment_id)
    await system.assert_money_agrees([*failed, *waiting])
    assert (await system.stage_counts(waiting))["failed"] <= 1 + (await _brake(system))[
        "probes"
    ] + probes


async def test_an_operator_sees_a_held_operation_and_releases_it(system: System) -> None:
    """What waits goes out at once, with a new token where the old one does not know the product."""
    await system.control("POST", "/switches", {"missing_products": ["b2c"]})
    waiting = [await system.withdrawal() for _ in range(4)]
    await _held(system)
    await system.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() + interval '15 minutes' WHERE name = 'b2c'"
    )
    result = (await operate(system, "operations", "status")).expect(0)
    [line] = [
        line
        for line in result.lines
        if line.startswith("b2c: HELD, Daraja refuses the operation to our app")
    ]
    assert line.endswith(", 4 waiting")
    assert "stk_push: free, 0 waiting" in result.lines
    result = (await operate(system, "payouts", "status")).expect(0)
    assert [line.partition(":")[0] for line in result.lines] == ["breaker", "kill_switch"]
    metrics = await _metrics(system)
    assert 'mkwanja_brake_engaged{name="b2c"} 1.0' in metrics
    await _switch_on(system)
    (
        await operate(system, "operations", "release", "b2c", "--reason", "the product was added")
    ).expect(0)
    await _all_paid_once(system, waiting)
    sql = "SELECT reason FROM mkwanja.brake_history WHERE name = 'b2c' AND NOT is_engaged ORDER BY changed_at DESC LIMIT 1"
    assert [row["reason"] for row in await system.rows(sql)] == ["the product was added"]
    result = (
        await operate(system, "operations", "release", "b2c", "--reason", "once more")
    ).expect(0)
    assert result.lines[0] == "b2c: was not held"


async def _metrics(system: System) -> str:
    async with system.http.get(f"{system.stack.web_url}/metrics") as answer:
        return str(await answer.text())
