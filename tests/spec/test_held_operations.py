"""Held operations: Daraja refuses an operation to our app, or refuses our settings for it.

For example, the app lacks a product. The payments of the operation wait. Each probe sends one of
them. Other operations go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system, reset
from tests.spec.operating import operate
from tests.spec.system import System

# Inquiries and probes are sent soon.
_ENV: dict[str, str | None] = {
    "OPERATION_COOL_DOWN_SECONDS": "1.5",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "1",
}
_B2C = "/mpesa/b2c/v3/paymentrequest"
_WITHDRAWALS, _DEPOSITS = 80, 60

# Users of Daraja report this form of refusal: the answer says that the token is invalid, but the
# same token works for every other operation.
_TOKEN_REFUSED = {"form": "empty_token"}


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=_ENV) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    await reset(running_system)
    await running_system.control("POST", "/switches", {"token_policy": "invalidate_previous"})
    yield running_system
    await reset(running_system)


async def _count_requests(system: System, path: str) -> int:
    return int((await system.control("GET", f"/requests?path={path}&last=1"))["count"])


async def _wait_for_two_probes(system: System) -> None:
    await system.eventually(
        lambda: system.brake("b2c"), lambda row: row["probes"] >= 2, "two probes"
    )


async def _count_attempts(system: System, payment_ids: list[str]) -> dict[str, int]:
    """How often each payment was claimed."""
    sql = (
        "SELECT payment_id, count(*) AS count FROM mkwanja.attempts"
        " WHERE payment_id = ANY($1::uuid[]) GROUP BY 1"
    )
    return {str(row["payment_id"]): row["count"] for row in await system.rows(sql, payment_ids)}


async def _add_missing_products(system: System) -> None:
    await system.control("DELETE", "/scenarios")
    await system.control("POST", "/switches", {"missing_products": []})


@pytest.mark.whole
async def test_eighty_withdrawals_wait_for_a_missing_product_while_deposits_go_on(
    system: System,
) -> None:
    """The worker makes few calls to the operation, and fetches two tokens at most.

    Once the app has the product, each withdrawal is paid once.
    """
    await system.scenario("product_missing", api="b2c", params=_TOKEN_REFUSED)
    first = await system.withdrawal()
    await system.wait_until_engaged("b2c")
    tokens = await _count_requests(system, "/oauth")
    withdrawals = [
        first,
        *await asyncio.gather(*(system.withdrawal() for _ in range(_WITHDRAWALS - 1))),
    ]
    deposits = [await system.deposit() for _ in range(_DEPOSITS)]
    await system.wait_until_paid(deposits)
    await _wait_for_two_probes(system)
    await system.eventually(  # for a moment, one withdrawal may be a probe
        lambda: system.stage_counts(withdrawals),
        lambda counts: counts == {"accepted": _WITHDRAWALS},
    )
    probes = (await system.brake("b2c"))["probes"]
    # The first withdrawal was refused under two tokens. A probe is one call, and fetches no token.
    assert await _count_requests(system, _B2C) <= 2 + probes + 1
    assert await _count_requests(system, "/oauth") == tokens <= 2
    assert sum((await _count_attempts(system, withdrawals)).values()) <= 1 + probes + 1
    await _add_missing_products(system)
    await system.wait_until_paid(withdrawals)
    assert not (await system.brake("b2c"))["is_engaged"]


@pytest.mark.whole
async def test_withdrawals_claimed_together_are_refused_once_and_then_wait(
    system: System,
) -> None:
    """Once the first refusal is stored, only probes are claimed."""
    await system.scenario("product_missing", api="b2c", params=_TOKEN_REFUSED)
    withdrawals = await asyncio.gather(*(system.withdrawal() for _ in range(_WITHDRAWALS)))
    await _wait_for_two_probes(system)
    attempts = await _count_attempts(system, withdrawals)
    probes = (await system.brake("b2c"))["probes"]
    assert sum(attempts.values()) <= _WITHDRAWALS + probes + 1
    assert await _count_requests(system, "/oauth") <= 2
    await _add_missing_products(system)
    await system.wait_until_paid(withdrawals)


@pytest.mark.whole
async def test_refusals_of_our_settings_fail_a_few_payments_and_hold_the_rest(
    system: System,
) -> None:
    await system.scenario("invalid_request", api="b2c", params={"field": "ResultURL"})
    failed = []
    for _ in range(3):
        failed.append(await system.withdrawal())
        assert (await system.settled(failed[-1]))["failure"]["reason"] == "configuration"
    await system.wait_until_engaged("b2c")
    waiting = [await system.withdrawal() for _ in range(20)]
    await _wait_for_two_probes(system)
    probes = (await system.brake("b2c"))["probes"]
    counts = await system.stage_counts(waiting)
    assert counts["failed"] <= probes
    assert counts["accepted"] >= len(waiting) - probes - 1
    await _add_missing_products(system)
    for payment_id in waiting:
        await system.settled(payment_id)
    await system.assert_money_agrees([*failed, *waiting])
    later_probes = (await system.brake("b2c"))["probes"]
    assert (await system.stage_counts(waiting))["failed"] <= 1 + probes + later_probes


async def test_an_operator_sees_a_held_operation_and_releases_it(system: System) -> None:
    """After the release, the worker sends the waiting payments, with a new token if necessary."""
    await system.control("POST", "/switches", {"missing_products": ["b2c"]})
    waiting = [await system.withdrawal() for _ in range(4)]
    await system.wait_until_engaged("b2c")
    await system.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() + interval '15 minutes' WHERE name = 'b2c'"
    )
    status = (await operate(system, "operations", "status")).expect(0)
    [line] = [line for line in status.lines if line.startswith("b2c: HELD, ")]
    assert line.startswith("b2c: HELD, Daraja refuses the operation to our app")
    assert line.endswith(", 4 waiting")
    assert "stk_push: free, 0 waiting" in status.lines
    status = (await operate(system, "payouts", "status")).expect(0)
    assert [line.partition(":")[0] for line in status.lines] == ["breaker", "kill_switch"]
    async with system.http.get(f"{system.stack.web_url}/metrics") as answer:
        assert 'mkwanja_brake_engaged{name="b2c"} 1.0' in await answer.text()
    await _add_missing_products(system)
    release = ("operations", "release", "b2c", "--reason")
    (await operate(system, *release, "the product was added")).expect(0)
    await system.wait_until_paid(waiting)
    sql = (
        "SELECT reason FROM mkwanja.brake_history WHERE name = 'b2c' AND NOT is_engaged"
        " ORDER BY changed_at DESC LIMIT 1"
    )
    assert [row["reason"] for row in await system.rows(sql)] == ["the product was added"]
    again = (await operate(system, *release, "once more")).expect(0)
    assert again.lines[0] == "b2c: was not held"
