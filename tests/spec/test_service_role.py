"""The processes run as a database role that may not change the history of payments.

Only the release runs as the owner of the database.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.service_role import as_service, create_service_role
from tests.spec.conftest import INQUIRE_SOON, a_system
from tests.spec.in_doubt import begin_in_doubt, inquiries
from tests.spec.operating import operate
from tests.spec.receiving import LOCAL, accept, answering, call, receiving, registered
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
            env={**INQUIRE_SOON, **LOCAL}, process_env=roles, postgres=server, database_url=url
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


async def test_the_service_role_may_serve_webhook_endpoints(system: System) -> None:
    """Every route of endpoints works, and messages are sent, recorded, and sent again."""
    async with receiving() as receiver:
        receiver.respond = answering(500)
        async with registered(system, receiver) as endpoint:
            await system.settled(await system.deposit())
            await system.eventually(
                endpoint.deliveries, lambda items: items and items[0]["attempts"]
            )
            receiver.respond = accept
            for status in ("disabled", "enabled"):
                (await call(endpoint, "PATCH", "", {"status": status})).expect(200)
            await system.eventually(
                endpoint.deliveries, lambda items: items[0]["status"] == "delivered"
            )
            for action in ("/rotate-secret", "/test", "/deliveries/1/redeliver"):
                assert (await call(endpoint, "POST", action)).status in {200, 202}
            await system.eventually(lambda: len(receiver.accepted) == 3)
    _assert_nothing_was_refused(system)


async def test_the_service_role_may_settle_payments_in_doubt(system: System) -> None:
    """The sweeper, the inquiries and their answers work."""
    lost = await begin_in_doubt(system, "b2c", "answer_and_callback_lost")
    refused = await begin_in_doubt(system, "stk", "cut_before_acting", times=1)
    assert (await system.settled(lost))["status"] == "success"
    assert [inquiry["verdict"] for inquiry in await inquiries(system, lost)][-1] == "paid"
    assert (await system.settled(refused))["failure"]["reason"] == "no_result_confirmed"
    _assert_nothing_was_refused(system)


async def test_doctor_finds_each_right_that_the_role_lacks(system: System) -> None:
    env = system.stack.env("callbacks")

    async def rights() -> Any:
        result = await operate(system, "doctor", "--json", "--process", "callbacks", env=env)
        checks = json.loads(result.out)["checks"]
        [finding] = [finding for finding in checks if finding["check"] == "database rights"]
        return finding

    granted = await rights()
    assert granted["state"] == "ok", granted
    await system.execute("REVOKE INSERT ON mkwanja.payments FROM mkwanja_service")
    await system.execute("REVOKE UPDATE (outcome) ON mkwanja.attempts FROM mkwanja_service")
    lacking = await rights()
    await system.execute("GRANT INSERT ON mkwanja.payments TO mkwanja_service")
    await system.execute("GRANT UPDATE (outcome) ON mkwanja.attempts TO mkwanja_service")
    assert lacking["state"] == "failed"
    assert "UPDATE on attempts.outcome, INSERT on payments" in lacking["text"]
    await system.execute("GRANT DELETE ON mkwanja.payment_history TO mkwanja_service")
    too_much = await rights()
    await system.execute("REVOKE DELETE ON mkwanja.payment_history FROM mkwanja_service")
    assert too_much["state"] == "warning"
    assert "payment_history" in too_much["text"]
