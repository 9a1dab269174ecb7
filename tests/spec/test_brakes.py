"""The brakes of payouts: the operator's kill switch, and the breaker.

The breaker opens by itself if Daraja refuses our initiator's credential.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest

from tests.spec.conftest import a_system, reset
from tests.spec.operating import a_ready_command, operate, operate_all, start, stop
from tests.spec.playing import Api, begin, count_sends, sweep
from tests.spec.system import System

# Inquiries are sent soon, and no test reaches their budget. Other settings have their defaults.
_BRISK: dict[str, str | None] = {
    "BREAKER_COOL_DOWN_SECONDS": "0.4",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "4",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
_PAYERS = 10
_BEFORE_STOP_MAX = 200

_PATHS_WITH_CREDENTIAL = (
    "/mpesa/b2c/v3/paymentrequest",
    "/mpesa/b2b/v1/paymentrequest",
    "/mpesa/transactionstatus/v1/query",
)
_STATUS = _PATHS_WITH_CREDENTIAL[2]

_DUE = "UPDATE mkwanja.payments SET next_step_at = now()"


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=_BRISK) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> System:
    await reset(running_system)
    return running_system


async def _payout_requests(system: System) -> list[Any]:
    """Every payout request that reached the simulator, answered or not."""
    requests = (await system.control("GET", "/requests?path=/mpesa/b2"))["items"]
    return [(request["at"], request["body"]) for request in requests if request["method"] == "POST"]


async def _credential_uses(system: System) -> list[str]:
    """The paths of all requests with a SecurityCredential, in order of arrival at the simulator."""
    requests = (await system.control("GET", "/requests"))["items"]
    return [request["path"] for request in requests if request["path"] in _PATHS_WITH_CREDENTIAL]


async def _breaker_history(system: System) -> list[tuple[bool, str]]:
    """The changes of the breaker, oldest first: true if it opened, and the reason."""
    sql = (
        "SELECT is_engaged, reason FROM mkwanja.brake_history"
        " WHERE name = 'breaker' ORDER BY changed_at"
    )
    return [(row["is_engaged"], row["reason"]) for row in await system.rows(sql)]


async def _assert_held(system: System, payment_ids: list[str]) -> None:
    """Check that a sweep leaves the payments unsent and accepted."""
    await sweep(system, payment_ids)
    assert await system.stage_counts(payment_ids) == {"accepted": len(payment_ids)}
    assert not any([await count_sends(system, payment_id) for payment_id in payment_ids])


# --- the kill switch ------------------------------------------------------------------------------


@pytest.mark.whole
async def test_no_payout_leaves_after_the_stop_command_returns(system: System) -> None:
    """Callers ask for payouts before and after the stop. After the start command, all are paid."""
    for api in ("b2c", "b2b"):
        await system.scenario("slow", api=api, times=10, params={"seconds": 1})
    payment_ids: list[str] = []
    is_stopped, is_over = asyncio.Event(), asyncio.Event()

    async def pay() -> None:
        for n in itertools.count():
            if len(payment_ids) >= _BEFORE_STOP_MAX:
                await is_stopped.wait()  # on a busy machine the command may be slow
            if is_over.is_set():
                return
            payment_ids.append(
                await (system.bill_payment() if n % 10 == 0 else system.withdrawal())
            )

    async with a_ready_command(system, "payouts", "stop", "--reason", "a test") as command:
        payers = [asyncio.create_task(pay()) for _ in range(_PAYERS)]
        await system.eventually(
            lambda: _payout_requests(system), lambda requests: len(requests) >= _PAYERS
        )
        result = (await command.finish()).expect(0)
    sent, accepted = await _payout_requests(system), len(payment_ids)
    is_stopped.set()
    await system.eventually(lambda: len(payment_ids), lambda count: count > accepted + _PAYERS)
    is_over.set()
    await asyncio.gather(*payers)
    deposit = await system.deposit()
    assert (await system.settled(deposit))["status"] == "success"
    waiting = [payment_id for payment_id in payment_ids if payment_id not in str(sent)]
    await _assert_held(system, waiting)
    assert await _payout_requests(system) == sent
    printed = [line for line in result.lines if line.startswith("was being sent: ")]
    assert result.lines[-1].startswith(f"no payout is being sent now; {len(printed)} ")
    assert all(any(payment_id in line for payment_id in payment_ids) for line in printed)
    assert not any("now submitting" in line for line in printed)
    await start(system)
    await system.wait_until_paid([*payment_ids, deposit])


async def test_the_stop_command_waits_for_open_sends_and_prints_them(system: System) -> None:
    """The command prints each payment that was being sent, with its stage after the answer."""
    daraja = system.stack.process("simulator")
    # The worker gets its token now, because a frozen Daraja gives none.
    await system.settled(await system.withdrawal())
    for api in ("b2c", "b2b"):
        await system.scenario("slow_result", api=api, params={"seconds": 600})
    before = len(await _payout_requests(system))
    async with a_ready_command(system, "payouts", "stop", "--reason", "a test") as command:
        daraja.freeze()
        try:
            payment_ids = [
                await system.withdrawal(amount=1500),
                await system.bill_payment(amount=840),
            ]
            await system.eventually(
                lambda: system.stage_counts(payment_ids), lambda counts: counts["submitting"] == 2
            )
            # The command finds the open sends before it prints its first line.
            first_line = await command.begin()
        finally:
            daraja.thaw()
        result = (await command.finish()).expect(0)
    assert len(await _payout_requests(system)) == before + 2
    assert first_line == "payouts are stopped: no more payouts are claimed"
    assert sorted(result.lines) == sorted(
        [
            f"was being sent: withdrawal {payment_ids[0]} of KES 1500, now awaiting_result",
            f"was being sent: bill_payment {payment_ids[1]} of KES 840, now awaiting_result",
            "no payout is being sent now; 2 were when this command began",
        ]
    )
    again = await stop(system)
    assert again.lines == [
        "payouts were stopped already",
        "no payout is being sent now; 0 were when this command began",
    ]


async def test_only_the_start_command_starts_stopped_payouts(system: System) -> None:
    """Payouts stay stopped after a flush or restart of Redis, and after the kill of a worker."""
    await stop(system, "the balance looks wrong")
    payouts = (system.withdrawal, system.bill_payment, system.pochi_payment)
    payment_ids = [await make() for make in payouts]
    stack = system.stack
    await stack.redis.flush()
    await _assert_held(system, payment_ids)
    if stack.redis.can_be_stopped:
        await stack.redis.restart()
        await _assert_held(system, payment_ids)
    await stack.restart_process("worker", kill=True)
    await _assert_held(system, payment_ids)
    deposit = await system.deposit()
    assert (await system.settled(deposit))["status"] == "success"
    later = (await system.withdrawal(), await system.bill_payment(till="556677"))
    status = (await operate(system, "payouts", "status")).expect(0)
    assert status.lines[0].startswith("breaker: released (since ")
    assert status.lines[1].startswith("kill_switch: ENGAGED, the balance looks wrong (since ")
    await _assert_held(system, [*payment_ids, *later])
    started = await start(system)
    assert started.lines[0] == "kill_switch: released"
    await system.wait_until_paid([*payment_ids, *later, deposit])


async def test_a_wrong_command_changes_nothing(system: System) -> None:
    """The exit code is 2 if the action or the reason is missing or wrong."""
    wrong = [
        ("payouts",),
        ("payouts", "stop"),
        ("payouts", "stop", "--reason", "  x "),
        ("payouts", "stop", "--reason", "two\nlines"),
        ("payouts", "pause", "--reason", "a test"),
    ]
    for result in await operate_all(system, wrong):
        assert result.expect(2).err
    assert not (await system.brake("kill_switch"))["is_engaged"]


# --- metrics and log ------------------------------------------------------------------------------


async def test_metrics_and_log_show_an_engaged_brake(system: System) -> None:
    """/metrics of the ingress and of the receiver show 1 for each engaged brake.

    The worker's log names the brake.
    """

    async def metrics() -> dict[str, set[float]]:
        values: dict[str, set[float]] = {"kill_switch": set(), "breaker": set()}
        for process in ("web", "callbacks"):
            async with system.http.get(f"{system.stack.process(process).url}/metrics") as answer:
                text = await answer.text()
            for name, seen in values.items():
                gauge = rf'^mkwanja_brake_engaged{{name="{name}"}} (\S+)$'
                seen |= set(map(float, re.findall(gauge, text, re.MULTILINE)))
        return values

    await system.eventually(metrics, lambda seen: seen == {"kill_switch": {0}, "breaker": {0}})
    await stop(system)
    await system.eventually(metrics, lambda seen: seen == {"kill_switch": {1}, "breaker": {0}})
    logged = system.stack.process("worker").wait_logged
    await logged('"kill_switch".*"brake_engaged"|"brake_engaged".*"kill_switch"')
    await start(system)
    await system.control("POST", "/switches", {"initiator_locked": True})
    await begin(system, "b2c", "approve")
    await system.eventually(metrics, lambda seen: seen == {"kill_switch": {0}, "breaker": {1}})
    await logged('"breaker".*"brake_engaged"|"brake_engaged".*"breaker"')
    await system.control("POST", "/switches", {"initiator_locked": False})
    await system.eventually(metrics, lambda seen: seen == {"kill_switch": {0}, "breaker": {0}})


# --- the breaker ----------------------------------------------------------------------------------


_Refusing = Api | Literal["status"]
_REFUSING: tuple[tuple[_Refusing, int], ...] = (("b2c", 2001), ("b2b", 18), ("status", 20))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("api", "code"), _REFUSING)
async def test_the_first_refusal_of_our_credential_opens_the_breaker(
    system: System, api: _Refusing, code: int
) -> None:
    """The refusal is in a payout's result, or in the answer to an inquiry.

    A successful probe closes the breaker.
    """
    before = len(await _breaker_history(system))
    if api == "status":
        payment_id = await begin(system, "b2c", "lost_callback")
        refusal = {"code": code}
        await system.scenario(
            "result_code", api="status", times=1, url_contains=payment_id, params=refusal
        )
    else:
        payment_id = await begin(system, api, "result_code", times=1, code=code)
    history = await system.eventually(
        lambda: _breaker_history(system), lambda history: len(history) >= before + 2
    )
    assert history[before] == (True, f"result {code} for payment {payment_id}")
    assert [is_open for is_open, _ in history[before:]] == [True, False]
    payment = await system.settled(payment_id)
    assert payment["status"] == ("success" if api == "status" else "failed")
    await system.assert_money_agrees([payment_id])


async def test_a_wrong_pin_of_a_customer_opens_no_breaker(system: System) -> None:
    """In the result of a deposit or in an STK query, 2001 and 8006 are about the customer."""
    before = await _breaker_history(system)
    by_result = await begin(system, "stk", "result_code", code=2001)
    by_query = await begin(system, "stk", "lost_callback", code=8006, moves_money=False)
    for payment_id, code in ((by_result, "2001"), (by_query, "8006")):
        failure = (await system.settled(payment_id))["failure"]
        assert (failure["reason"], failure["provider_code"]) == ("wrong_pin", code)
    assert await _breaker_history(system) == before
    await system.assert_money_agrees([by_result, by_query])


async def test_an_open_breaker_permits_only_probes_that_become_rarer(system: System) -> None:
    """No payout and no other Transaction Status inquiry is sent. Deposits go on.

    Only a probe that Daraja accepts closes the breaker.
    """
    probed = await begin(system, "b2c", "lost_callback")
    await system.in_stage(probed, "awaiting_result")
    await system.execute(f"{_DUE} + interval '1 day' WHERE id = $1::uuid", probed)
    await system.control("POST", "/switches", {"initiator_locked": True})
    opener = await begin(system, "b2c", "approve")
    await system.wait_until_engaged("breaker")
    await system.control("DELETE", "/requests")
    await system.execute(f"{_DUE} WHERE id = $1::uuid", probed)
    waiting = list(
        await asyncio.gather(
            *(system.withdrawal() for _ in range(30)), *(system.bill_payment() for _ in range(5))
        )
    )
    await system.stack.redis.flush()
    await system.stack.restart_process("worker", kill=True)
    deposit = await system.deposit()
    assert (await system.settled(deposit))["status"] == "success"
    await _assert_held(system, waiting)
    brake = await system.eventually(
        lambda: system.brake("breaker"), lambda brake: brake["probes"] >= 3
    )
    assert brake["is_engaged"]
    uses = await _credential_uses(system)
    assert set(uses) == {_STATUS}
    assert brake["probes"] - 1 <= len(uses) <= (await system.brake("breaker"))["probes"]
    await system.control("POST", "/switches", {"initiator_locked": False})
    await system.wait_until_paid([*waiting, probed, deposit])
    assert not (await system.brake("breaker"))["is_engaged"]
    assert (await _breaker_history(system))[-1] == (
        False,
        "Daraja accepted the credential of an inquiry",
    )
    failure = (await system.settled(opener))["failure"]
    assert (failure["reason"], failure["provider_code"]) == ("configuration", "8006")
    await system.assert_money_agrees([opener])


async def test_an_operator_may_close_the_breaker(system: System) -> None:
    """`start` alone leaves the breaker open and prints its reason. `start --breaker` closes it.

    If Daraja still refuses the credential, the breaker opens again.
    """
    await system.control("POST", "/switches", {"initiator_locked": True})
    opener = await begin(system, "b2c", "approve")
    await system.wait_until_engaged("breaker")
    # With 15 probes, the breaker looks as if it had been open for hours.
    await system.execute("UPDATE mkwanja.brakes SET probes = 15 WHERE name = 'breaker'")
    waiting = await system.withdrawal()
    result = await start(system)
    assert result.lines[0].startswith(f"breaker: ENGAGED, result 8006 for payment {opener} (since ")
    await _assert_held(system, [waiting])
    result = await start(system, "--breaker")
    assert result.lines[0] == "breaker: released"
    assert (await system.settled(waiting))["failure"]["provider_code"] == "8006"
    await system.wait_until_engaged("breaker")
    last = [reason for is_open, reason in await _breaker_history(system) if is_open][-1]
    assert last == f"result 8006 for payment {waiting}"
