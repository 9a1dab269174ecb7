"""The brakes: money out stops when an operator says so, and by itself when Daraja refuses our
credential.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from tests.spec.conftest import a_system
from tests.spec.operating import Command, operate, operate_all, start, stop
from tests.spec.playing import begin, count_sends, stopped_payouts, sweep
from tests.spec.system import System

# Questions come soon and their budget is out of the way; everything else is as shipped.
_BRISK: dict[str, str | None] = {
    "BREAKER_COOL_DOWN_SECONDS": "0.4",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "4",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
_PAYERS = 10
_BEFORE_STOP_MAX = 200

_CREDENTIAL_IN = (
    "/mpesa/b2c/v3/paymentrequest",
    "/mpesa/b2b/v1/paymentrequest",
    "/mpesa/transactionstatus/v1/query",
)
_STATUS = _CREDENTIAL_IN[2]

_DUE = "UPDATE mkwanja.payments SET next_step_at = now()"

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=_BRISK) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system with both brakes released and the simulator as new; what other tests left open
    is not asked about.
    """
    await running_system.forget_open_payments()
    await running_system.control("POST", "/reset", {})
    await running_system.control("POST", "/switches", {"time_scale": 0.02})
    yield running_system
    await running_system.execute("UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL")


async def _paid_out(system: System, *, path: str = "/mpesa/b2") -> list[Any]:
    """Every request to pay out that reached the simulator, whether or not it was answered since."""
    requests = (await system.control("GET", f"/requests?path={path}"))["items"]
    return [(request["at"], request["body"]) for request in requests if request["method"] == "POST"]


async def _credential_uses(system: System) -> list[str]:
    """The paths of all requests with a SecurityCredential that reached the simulator, in order."""
    requests = (await system.control("GET", "/requests"))["items"]
    return [request["path"] for request in requests if request["path"] in _CREDENTIAL_IN]


async def _breaker_story(system: System) -> list[tuple[bool, str]]:
    """When the breaker opened (true) and closed, and why, oldest first."""
    sql = "SELECT is_engaged, reason FROM mkwanja.brake_history WHERE name = 'breaker' ORDER BY changed_at"
    return [(row["is_engaged"], row["reason"]) for row in await system.rows(sql)]


async def _brake(system: System, name: str = "breaker") -> Any:
    [row] = await system.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", name)
    return row


async def _value(value: Any) -> Any:
    return value


async def _assert_held(system: System, payment_ids: list[str]) -> None:
    """However often they are swept, they stay unsent and pending."""
    await sweep(system, payment_ids)
    assert await system.stage_counts(payment_ids) == {"accepted": len(payment_ids)}
    assert [await count_sends(system, payment_id) for payment_id in payment_ids] == [0] * len(
        payment_ids
    )


async def _all_paid(system: System, payment_ids: list[str]) -> None:
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"
    await system.assert_money_agrees(payment_ids)


# --- the kill switch ------------------------------------------------------------------------------


@pytest.mark.whole
async def test_no_payout_leaves_after_the_stop_command_returns(system: System) -> None:
    """While hundreds are being accepted: once the command has returned nothing leaves, and all
    are paid after `start`.
    """
    for api in ("b2c", "b2b"):
        await system.scenario("slow", api=api, times=10, params={"seconds": 1})
    payment_ids: list[str] = []
    is_stopped, is_over = asyncio.Event(), asyncio.Event()

    async def pay() -> None:
        for n in itertools.count():
            if len(payment_ids) >= _BEFORE_STOP_MAX:
                await is_stopped.wait()  # on a busy machine the command takes its time
            if is_over.is_set():
                return
            payment_ids.append(
                await (system.bill_payment() if n % 10 == 0 else system.withdrawal())
            )

    async with Command(
        system, "payouts", "stop", "--reason", "too much is going out"
    ).ready() as run:
        payers = [asyncio.create_task(pay()) for _ in range(_PAYERS)]
        await system.eventually(
            lambda: _paid_out(system), lambda requests: len(requests) >= _PAYERS
        )
        result = (await run()).expect(0)
    sent, accepted = await _paid_out(system), len(payment_ids)
    is_stopped.set()
    await system.eventually(
        lambda: _value(len(payment_ids)), lambda count: count > accepted + _PAYERS
    )
    is_over.set()
    await asyncio.gather(*payers)
    deposit = await system.deposit()
    assert (await system.settled(deposit))["status"] == "success"
    waiting = [payment_id for payment_id in payment_ids if payment_id not in str(sent)]
    await _assert_held(system, waiting)
    assert await _paid_out(system) == sent
    printed = [line for line in result.lines if line.startswith("was being sent: ")]
    assert result.lines[-1].startswith(f"no payout is being sent; {len(printed)} ")
    assert all(any(payment_id in line for payment_id in payment_ids) for line in printed)
    assert not any("now submitting" in line for line in printed)
    await start(system)
    await _all_paid(system, [*payment_ids, deposit])


async def test_the_stop_command_waits_for_open_sends_and_prints_them(system: System) -> None:
    """The command waits for Daraja's answer to what was being sent, and prints each with what
    became of it.
    """
    daraja = system.stack.process("simulator")
    await system.settled(
        await system.withdrawal()
    )  # so the worker has a token, which a frozen Daraja would not give
    for api in ("b2c", "b2b"):
        await system.scenario("slow_result", api=api, params={"seconds": 600})
    before = len(await _paid_out(system))
    async with Command(system, "payouts", "stop", "--reason", "a test").ready() as run:
        daraja.freeze()
        try:
            payment_ids = [
                await system.withdrawal(amount=1500),
                await system.bill_payment(amount=840),
            ]
            await system.eventually(
                lambda: system.stage_counts(payment_ids), lambda counts: counts["submitting"] == 2
            )
            stopping = asyncio.ensure_future(run())
            await system.eventually(
                lambda: _brake(system, "kill_switch"), lambda brake: brake["is_engaged"]
            )
            assert not stopping.done()
        finally:
            daraja.thaw()
        result = (await stopping).expect(0)
    assert len(await _paid_out(system)) == before + 2
    assert sorted(result.lines) == sorted(
        [
            "payouts are stopped: nothing more is claimed",
            f"was being sent: withdrawal {payment_ids[0]} of KES 1500, now awaiting_result",
            f"was being sent: bill_payment {payment_ids[1]} of KES 840, now awaiting_result",
            "no payout is being sent; 2 were",
        ]
    )
    again = await stop(system)
    assert again.lines == ["payouts were stopped already", "no payout is being sent; 0 were"]


async def test_only_the_start_command_starts_stopped_payouts(system: System) -> None:
    """A flush of Redis, its restart, a killed worker: nothing starts them but the command, which
    also says how it stands.
    """
    await stop(system, "the balance looks wrong")
    payment_ids = [await system.withdrawal(), await system.bill_payment()]
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
    await _all_paid(system, [*payment_ids, *later, deposit])


async def test_the_kill_switch_stops_a_resend_too(system: System) -> None:
    """Daraja has said twice that it knows nothing of the payment; while payouts are stopped it
    is asked, and not sent.
    """
    payment_id = await begin(system, "b2c", "html_503", times=1, act=False)
    await system.in_stage(payment_id, "in_doubt")
    async with stopped_payouts(system):
        not_found = "SELECT number FROM mkwanja.inquiries WHERE payment_id = $1::uuid AND verdict = 'not_found'"
        await system.eventually(
            lambda: system.rows(not_found, payment_id), lambda rows: len(rows) >= 4
        )
        assert await count_sends(system, payment_id) == 1
    await _all_paid(system, [payment_id])
    assert await count_sends(system, payment_id) == 2


async def test_a_wrong_command_changes_nothing(system: System) -> None:
    """No action, no reason, none that says anything, an unknown action: exit 2, and both brakes
    are as they were.
    """
    wrong = [
        ("payouts",),
        ("payouts", "stop"),
        ("payouts", "stop", "--reason", "  x "),
        ("payouts", "stop", "--reason", "two\nlines"),
        ("payouts", "pause", "--reason", "a test"),
    ]
    for result in await operate_all(system, wrong):
        assert result.expect(2).err
    assert not (await _brake(system, "kill_switch"))["is_engaged"]


# --- seen from outside ----------------------------------------------------------------------------


async def test_metrics_and_log_show_an_engaged_brake(system: System) -> None:
    """Both processes that listen show each brake as 1 while it is engaged; the worker's log says
    which.
    """

    async def shown() -> dict[str, set[float]]:
        values: dict[str, set[float]] = {"kill_switch": set(), "breaker": set()}
        for process in ("web", "callbacks"):
            async with system.http.get(f"{system.stack.process(process).url}/metrics") as answer:
                text = await answer.text()
            for name, seen in values.items():
                seen |= {
                    float(found)
                    for found in re.findall(
                        rf'^mkwanja_brake_engaged{{name="{name}"}} (\S+)$', text, re.MULTILINE
                    )
                }
        return values

    await system.eventually(shown, lambda seen: seen == {"kill_switch": {0}, "breaker": {0}})
    await stop(system)
    await system.eventually(shown, lambda seen: seen == {"kill_switch": {1}, "breaker": {0}})
    logged = system.stack.process("worker").wait_logged
    await logged('"kill_switch".*"brake_engaged"|"brake_engaged".*"kill_switch"')
    await start(system)
    await system.control("POST", "/switches", {"initiator_locked": True})
    await begin(system, "b2c", "approve")
    await system.eventually(shown, lambda seen: seen == {"kill_switch": {0}, "breaker": {1}})
    await logged('"breaker".*"brake_engaged"|"brake_engaged".*"breaker"')
    await system.control("POST", "/switches", {"initiator_locked": False})
    await system.eventually(shown, lambda seen: seen == {"kill_switch": {0}, "breaker": {0}})


# --- the breaker ----------------------------------------------------------------------------------


def _has_grown_by_two(before: int, story: list[Any]) -> bool:
    return len(story) >= before + 2


async def _refused(system: System, where: str, code: int) -> str:
    """A payout for which Daraja's result, or its answer to our question, says once that our
    credential is refused.
    """
    if where != "status":
        return await begin(
            system, "b2c" if where == "b2c" else "b2b", "result_code", times=1, code=code
        )
    phone_number = f"25470{7_000_000 + next(_numbers)}"
    await system.scenario("lost_callback", api="b2c", phone_number=phone_number)
    await system.scenario(
        "result_code", api="status", times=1, phone_number=phone_number, params={"code": code}
    )
    return await system.withdrawal(phone_number=phone_number)


async def test_the_first_refusal_of_our_credential_opens_the_breaker(system: System) -> None:
    """Each of Daraja's codes for it, in a payout's result or the answer to a question; a probe
    that works closes it.
    """
    table = [
        ("b2c", 2001),
        ("b2c", 8006),
        ("b2b", 18),
        ("b2b", 21),
        ("status", 20),
        ("status", 2001),
        ("b2c", 18),
    ]
    for where, code in table:
        before = len(await _breaker_story(system))
        payment_id = await _refused(system, where, code)
        story = await system.eventually(
            lambda: _breaker_story(system), partial(_has_grown_by_two, before)
        )
        assert story[before] == (True, f"result {code} for payment {payment_id}"), (where, code)
        assert [is_open for is_open, _ in story[before:]] == [True, False], (where, code)
        payment = await system.settled(payment_id)
        assert payment["status"] == ("success" if where == "status" else "failed"), (where, code)
        await system.assert_money_agrees([payment_id])


async def test_a_wrong_pin_of_a_customer_opens_no_breaker(system: System) -> None:
    """2001 and 8006 of a deposit are about who pays: in its result and in the answer to a query
    alike.
    """
    before = await _breaker_story(system)
    told = [await begin(system, "stk", "result_code", code=code) for code in (2001, 8006)]
    asked = []
    for code in (2001, 8006):
        phone_number = f"25470{7_000_000 + next(_numbers)}"
        await system.scenario(
            "result_code", api="stk", phone_number=phone_number, params={"code": code, "seconds": 0}
        )
        await system.scenario(
            "lost_callback",
            api="stk",
            phone_number=phone_number,
            params={"code": code, "moves_money": False},
        )
        asked.append(await system.deposit(phone_number=phone_number))
    for payment_id in (*told, *asked):
        payment = await system.settled(payment_id)
        assert (payment["status"], payment["failure"]["provider_code"]) == (
            "failed",
            payment["failure"]["provider_code"],
        )
        assert payment["failure"]["provider_code"] in ("2001", "8006")
    assert await _breaker_story(system) == before
    await system.assert_money_agrees([*told, *asked])


async def test_an_open_breaker_permits_only_ever_rarer_probes(
    system: System,
) -> None:
    """No payout, bill payment or question but the probe's; deposits go on; nothing closes it but
    Daraja's acceptance.
    """
    asked_about = await begin(system, "b2c", "lost_callback")
    await system.in_stage(asked_about, "awaiting_result")
    await system.execute(f"{_DUE} + interval '1 day' WHERE id = $1::uuid", asked_about)
    await system.control("POST", "/switches", {"initiator_locked": True})
    opener = await begin(system, "b2c", "approve")
    await system.eventually(lambda: _brake(system), lambda brake: brake["is_engaged"])
    await system.control("DELETE", "/requests")
    await system.execute(f"{_DUE} WHERE id = $1::uuid", asked_about)
    waiting = list(
        await asyncio.gather(
            *(system.withdrawal() for _ in range(30)), *(system.bill_payment() for _ in range(5))
        )
    )
    deposit = await system.deposit()
    await system.stack.redis.flush()
    await system.stack.restart_process("worker", kill=True)
    assert (await system.settled(deposit))["status"] == "success"
    await _assert_held(system, waiting)
    brake = await system.eventually(lambda: _brake(system), lambda brake: brake["probes"] >= 3)
    assert brake["is_engaged"]
    uses = await _credential_uses(system)
    assert set(uses) == {_STATUS}
    assert brake["probes"] - 1 <= len(uses) <= (await _brake(system))["probes"]
    await system.control("POST", "/switches", {"initiator_locked": False})
    await _all_paid(system, [*waiting, asked_about, deposit])
    assert not (await _brake(system))["is_engaged"]
    assert (await _breaker_story(system))[-1] == (
        False,
        "Daraja accepted the credential of an inquiry",
    )
    failure = (await system.settled(opener))["failure"]
    assert (failure["reason"], failure["provider_code"]) == ("configuration", "8006")
    await system.assert_money_agrees([opener])


async def test_an_operator_may_close_the_breaker(system: System) -> None:
    """`start` alone leaves it open and says so; with --breaker payouts go at once; if Daraja
    refuses still, it opens again.
    """
    await system.control("POST", "/switches", {"initiator_locked": True})
    opener = await begin(system, "b2c", "approve")
    await system.eventually(lambda: _brake(system), lambda brake: brake["is_engaged"])
    await system.execute(
        "UPDATE mkwanja.brakes SET probes = 15 WHERE name = 'breaker'"
    )  # as after hours of it
    waiting = await system.withdrawal()
    result = await start(system)
    assert result.lines[0].startswith(f"breaker: ENGAGED, result 8006 for payment {opener} (since ")
    await _assert_held(system, [waiting])
    result = await start(system, "--breaker")
    assert result.lines[0] == "breaker: released"
    assert (await system.settled(waiting))["failure"]["provider_code"] == "8006"
    await system.eventually(lambda: _brake(system), lambda brake: brake["is_engaged"])
    last = [reason for is_open, reason in await _breaker_story(system) if is_open][-1]
    assert last == f"result 8006 for payment {waiting}"
