"""The processes run as a database role that may not change what happened.

Only the release runs as the owner.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.service_role import as_service, create_service_role
from tests.spec.conftest import INQUIRE_SOON, a_system
from tests.spec.in_doubt import begin_in_doubt, inquiries
from tests.spec.operating import operate
from tests.spec.system import System
from tests.stack.external import postgres_server
from tests.stack.install import temporary_folder


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    folder = temporary_folder()
    async with postgres_server(folder.path) as server:
        password = await create_service_role(server)
        url = await server.create_database()
        where = {"DATABASE_URL": as_service(url, password)}
        roles = dict.fromkeys(("web", "callbacks", "worker"), where)
        async with a_system(
            env=INQUIRE_SOON, process_env=roles, postgres=server, database_url=url
        ) as system:
            yield system
        await server.drop_database(url)
    folder.remove()


def _assert_nothing_was_refused(system: System) -> None:
    logs = system.stack.logs()
    for name in system.stack.names:
        assert "42501" not in logs[name], name
    assert "permission denied" not in "".join(logs.values())


async def test_the_service_role_may_pay_read_list_and_announce(system: System) -> None:
    ids = [await system.deposit(), await system.withdrawal(), await system.bill_payment()]
    for payment_id in ids:
        assert (await system.settled(payment_id))["status"] == "success"
        assert (await system.stages(payment_id))[-1] == "succeeded"
    await system.assert_money_agrees(ids)
    feed = (await system.backend.get("/v1/events")).expect(200).json()
    assert {event["subject"] for event in feed["items"]} == set(ids)
    assert (await system.backend.get("/v1/payments")).expect(200).json()["items"]
    _assert_nothing_was_refused(system)


async def test_the_service_role_may_settle_payments_in_doubt(system: System) -> None:
    """The sweeper, the inquiries and their answers work."""
    lost = await begin_in_doubt(system, "b2c", "answer_and_callback_lost")
    refused = await begin_in_doubt(system, "stk", "cut_before_acting", times=1)
    assert (await system.settled(lost))["status"] == "success"
    assert [inquiry["verdict"] for inquiry in await inquiries(system, lost)][-1] == "paid"
    assert (await system.settled(refused))["failure"]["reason"] == "no_result_confirmed"
    _assert_nothing_was_refused(system)


async def test_the_service_role_may_engage_and_release_brakes(system: System) -> None:
    """The worker opens the breaker. An operator's command uses the kill switch."""
    service = {"DATABASE_URL": system.stack.env("worker")["DATABASE_URL"]}
    (await operate(system, "payouts", "stop", "--reason", "a test", env=service)).expect(0)
    held = await system.withdrawal()
    assert (await system.payment(held))["stage"] == "accepted"
    assert (await system.settled(await system.deposit()))["status"] == "success"
    (await operate(system, "payouts", "start", "--reason", "a test", env=service)).expect(0)
    assert (await system.settled(held))["status"] == "success"
    await system.scenario("credential_refused", times=1, api="b2c", amount=777)
    await system.settled(await system.withdrawal(amount=777))
    (
        await operate(system, "payouts", "start", "--breaker", "--reason", "a test", env=service)
    ).expect(0)
    assert (await system.settled(await system.withdrawal()))["status"] == "success"
    changes = await system.rows(
        "SELECT name, is_engaged FROM mkwanja.brake_history ORDER BY changed_at"
    )
    assert [tuple(row.values()) for row in changes[:3]] == [
        ("kill_switch", True), ("kill_switch", False), ("breaker", True),
    ]  # fmt: skip
    _assert_nothing_was_refused(system)


async def test_the_service_role_may_sweep_and_cancel_payments(system: System) -> None:
    """A payment without a wake-up is swept. Another is cancelled by its caller before that."""
    await system.stack.process("worker").kill()
    waiting, given_up = await system.deposit(), await system.withdrawal()
    answer = await system.backend.pay(f"/v1/payments/{given_up}/cancel", {})
    assert answer.expect(200).json()["failure"]["reason"] == "cancelled_by_caller"
    await system.stack.start_process("worker")
    assert (await system.settled(waiting))["status"] == "success"
    _assert_nothing_was_refused(system)
