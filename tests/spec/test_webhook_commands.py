"""An operator sees the webhook endpoints of all backends, and switches them off and on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.conftest import BRISK, TIME_SCALE
from tests.spec.operating import operate
from tests.spec.receiving import LOCAL, Receiver, call, receiving, registered
from tests.spec.system import System
from tests.stack.lending import Lending
from tests.stack.shape import Shape


@pytest.fixture(scope="module")
async def system(lending: Lending) -> AsyncIterator[System]:
    shape = Shape(env={**BRISK, **LOCAL}, time_scale=TIME_SCALE)
    async with lending.used_stack(shape) as stack, System(stack) as system:
        yield system
        await system.stack.stop_workers()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def read(system: System, *arguments: str) -> Any:
    return json.loads((await operate(system, "webhooks", *arguments, "--json")).expect(0).out)


async def test_the_commands_show_endpoints_with_owners_and_their_deliveries(
    system: System, receiver: Receiver
) -> None:
    async with registered(system, receiver) as endpoint:
        (await call(endpoint, "POST", "/test")).expect(202)
        await system.eventually(lambda: receiver.accepted)
        [shown] = [
            item for item in (await read(system, "list"))["endpoints"] if item["id"] == endpoint.id
        ]
        assert (shown["url"], shown["status"]) == (receiver.url, "enabled")
        assert shown["owner"]["subject"]
        [delivery] = await system.eventually(
            lambda: deliveries(system, endpoint.id), lambda items: items[0]["attempts"]
        )
        assert (delivery["cause"], delivery["event_type"]) == ("test", "mkwanja.test")
        assert delivery["attempts"][0]["outcome"] == "delivered"
        table = (await operate(system, "webhooks", "list")).expect(0)
        assert endpoint.secret not in table.out
        [line] = [line for line in table.lines if endpoint.id in line]
        assert line.endswith(receiver.url)
        printed = (await operate(system, "webhooks", "deliveries", endpoint.id)).expect(0)
        assert "delivered (HTTP 204)" in printed.lines[1]


async def deliveries(system: System, endpoint_id: str) -> list[Any]:
    return list((await read(system, "deliveries", endpoint_id))["deliveries"])


async def test_a_disabled_endpoint_gets_what_it_missed_when_it_is_enabled(
    system: System, receiver: Receiver
) -> None:
    """The owner sees that an operator disabled it."""
    async with registered(system, receiver) as endpoint:
        disabled = await read(system, "disable", endpoint.id)
        assert disabled == {"id": endpoint.id, "status": "disabled"}
        assert (await endpoint.read())["status_reason"] == "disabled_by_operator"
        payment_id = await system.deposit()
        await system.settled(payment_id)
        assert receiver.events([payment_id]) == []
        (await operate(system, "webhooks", "enable", endpoint.id)).expect(0)
        await system.eventually(lambda: receiver.events([payment_id]))
        assert (await endpoint.read())["status"] == "enabled"


async def test_an_endpoint_that_does_not_exist_is_refused(system: System) -> None:
    for action in ("deliveries", "enable", "disable"):
        result = (await operate(system, "webhooks", action, str(uuid4()))).expect(1)
        assert result.lines == ["there is no such endpoint; `webhooks list` prints all"]
    assert (await operate(system, "webhooks", "enable", "shop")).expect(2).out == ""
