"""Before a worker claims a payment, it gets a token, then a slot, then a turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from domain.adapters.redis.sharing import RequestClass
from domain.errors import Throttled, Unreachable
from domain.kinds import RULES, Kind
from workers.daraja_access import INQUIRIES, PAYOUTS, PUSHES, DarajaAccess, Slots, Turns

FEW = {kind: rules.at_once_max for kind, rules in RULES.items() if rules.at_once_max is not None}


class Outside:
    """Replaces Daraja's client and the rate of all workers. Records the calls to both."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.token_error: Exception | None = None
        self.wait_seconds = 0.0
        anything: Any = self
        self.slots = Slots(10)
        self.access = DarajaAccess(anything, self.slots, Turns(anything))

    async def ensure_token(self) -> None:
        self.calls.append("token")
        if self.token_error is not None:
            raise self.token_error

    async def charge(self, turn: RequestClass) -> float:
        self.calls.append(turn.name)
        return self.wait_seconds


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_send_has_its_token_before_its_turn_and_prompts_go_after_payouts(
    outside: Outside, kind: Kind
) -> None:
    async with outside.access.prepare_send(kind):
        assert outside.calls == ["token", (PUSHES if RULES[kind].is_prompt else PAYOUTS).name]


async def test_an_inquiry_has_its_token_before_its_turn(outside: Outside) -> None:
    async with outside.access.prepare_inquiry():
        assert outside.calls == ["token", INQUIRIES.name]


async def test_a_send_without_a_token_takes_no_turn(outside: Outside) -> None:
    outside.token_error = Unreachable()
    with pytest.raises(Unreachable):
        await outside.access.prepare_send(Kind.DEPOSIT).__aenter__()
    assert outside.calls == ["token"]


async def test_a_worker_without_a_free_slot_waits_and_takes_no_turn(outside: Outside) -> None:
    """A turn cannot be returned, so a worker takes it last."""
    async with AsyncExitStack() as held:
        for _ in range(10):
            await held.enter_async_context(outside.slots.acquire())
        waiting = asyncio.create_task(outside.access.prepare_inquiry().__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert outside.calls == ["token"]
    await waiting
    assert outside.calls == ["token", INQUIRIES.name]


@pytest.mark.parametrize("kind", list(FEW))
async def test_the_requests_of_some_kinds_are_limited_and_a_refused_request_holds_no_slot(
    outside: Outside, kind: Kind
) -> None:
    async with asyncio.timeout(10), AsyncExitStack() as held:
        for _ in range(FEW[kind]):
            await held.enter_async_context(outside.access.prepare_send(kind))
        outside.calls.clear()
        with pytest.raises(Throttled, match=f"all slots for {kind} are occupied"):
            await held.enter_async_context(outside.access.prepare_send(kind))
        assert outside.calls == ["token"]
        for _ in range(10 - FEW[kind]):  # the refused request freed its slot
            await held.enter_async_context(outside.access.prepare_send(Kind.WITHDRAWAL))
    async with outside.access.prepare_send(kind):
        pass


async def test_without_a_turn_a_send_holds_no_slot(outside: Outside) -> None:
    outside.wait_seconds = 0.3
    for _ in range(20):
        with pytest.raises(Throttled) as caught:
            await outside.access.prepare_send(Kind.BILL_PAYMENT).__aenter__()
        assert caught.value.wait_seconds == 0.3
