"""An endpoint gets each event at least once, whatever happens to workers, Redis and locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.spec.conftest import a_system
from tests.spec.feed_reader import open_transaction, wait_for_blocked
from tests.spec.playing import stopped_payouts
from tests.spec.receiving import (
    LOCAL,
    Receiver,
    Registered,
    accept,
    call,
    hang,
    make_events,
    receiving,
    registered,
)
from tests.spec.requesting import cancel
from tests.spec.system import System

# Long enough that an attempt is under way as long as a test needs it.
SLOW: dict[str, str | None] = {**LOCAL, "WEBHOOK_TIMEOUT_SECONDS": "15"}


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(env=SLOW) as system:
        yield system


@pytest.fixture
async def receiver(system: System) -> AsyncIterator[Receiver]:
    await system.stack.start_workers()
    async with receiving() as receiver:
        yield receiver


async def _a_payment(system: System) -> str:
    """A payment that has ended, and its one event."""
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        (await cancel(system, payment_id)).expect(200)
    (await system.backend.get("/v1/events")).expect(200)
    return payment_id


async def _end_leases(system: System, endpoint: Registered) -> None:
    """Let the time pass after which another worker may send, by the clock of the database."""
    await system.execute(
        "UPDATE mkwanja.webhook_endpoints SET woken_until = NULL,"
        " turn_ends_at = CASE WHEN turn IS NOT NULL THEN now() END WHERE id = $1::uuid",
        endpoint.id,
    )
    await system.execute(
        "UPDATE mkwanja.webhook_deliveries SET next_attempt_at = now()"
        " WHERE endpoint_id = $1::uuid AND next_attempt_at > now() AND is_sending",
        endpoint.id,
    )


async def _rows(system: System, endpoint: Registered) -> list[Any]:
    sql = "SELECT * FROM mkwanja.webhook_deliveries WHERE endpoint_id = $1::uuid ORDER BY number"
    return await system.rows(sql, endpoint.id)


async def test_events_that_a_killed_worker_was_sending_are_sent_by_another(
    system: System, receiver: Receiver
) -> None:
    """No event is skipped, and each has one delivery."""
    payment_id = await _a_payment(system)
    async with registered(system, receiver) as endpoint:
        receiver.respond = hang
        await make_events(system, [payment_id], count=3)
        others = [await _a_payment(system) for _ in range(12)]
        await system.eventually(lambda: len(receiver.messages) == 8)
        await system.stack.kill_workers()
        receiver.respond = accept
        await _end_leases(system, endpoint)
        await system.stack.start_workers()
        await system.eventually(
            lambda: receiver.events([payment_id, *others]), lambda found: len(found) == 15
        )
        rows = await system.eventually(
            lambda: _rows(system, endpoint),
            lambda rows: all(row["status"] == "delivered" for row in rows),
        )
        assert len(rows) == len({row["event_id"] for row in rows}) == 15
        sequences = [event["sequence"] for event in receiver.events([payment_id])]
        assert sequences == sorted(sequences)


async def test_an_event_is_sent_again_if_the_worker_dies_before_it_records_the_answer(
    system: System, receiver: Receiver
) -> None:
    """The second message has the same `webhook-id`, so the receiver can drop it."""
    async with registered(system, receiver) as endpoint:
        lock = f"SELECT FROM mkwanja.webhook_endpoints WHERE id = '{endpoint.id}' FOR UPDATE"
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def respond(request: web.Request) -> web.StreamResponse:
            arrived.set()
            await go_on.wait()
            return await accept(request)

        receiver.respond = respond
        (await call(endpoint, "POST", "/test")).expect(202)
        await arrived.wait()
        async with open_transaction(system, lock) as raw:
            go_on.set()
            await wait_for_blocked(system, raw)  # the worker has the answer, and waits
            await system.stack.kill_workers()
        assert len(receiver.accepted) == 1
        await _end_leases(system, endpoint)
        await system.stack.start_workers()
        await system.eventually(lambda: len(receiver.accepted) == 2)
        assert len(set(receiver.ids())) == 1
        [delivery] = await system.eventually(
            endpoint.deliveries, lambda items: items[0]["status"] == "delivered"
        )
        assert [attempt["number"] for attempt in delivery["attempts"]] == [2]


@pytest.mark.whole
async def test_a_worker_that_was_frozen_changes_nothing_about_a_delivered_event(
    system: System, receiver: Receiver
) -> None:
    async with registered(system, receiver) as endpoint:
        receiver.respond = hang
        (await call(endpoint, "POST", "/test")).expect(202)
        await system.eventually(lambda: receiver.messages)
        frozen = system.stack.process("worker.1")
        frozen.freeze()
        try:
            receiver.respond = accept
            await system.stack.start_process("worker.2")
            await _end_leases(system, endpoint)
            await system.eventually(
                endpoint.deliveries, lambda items: items[0]["status"] == "delivered"
            )
            await system.stack.stop_process("worker.2")
        finally:
            frozen.thaw()
        [delivery] = await system.eventually(
            endpoint.deliveries, lambda items: len(items[0]["attempts"]) == 2
        )
        outcomes = {each["number"]: each["outcome"] for each in delivery["attempts"]}
        assert outcomes == {1: "timeout", 2: "delivered"}
        assert delivery["status"] == "delivered"
        assert len(set(receiver.ids())) == 1


@pytest.mark.whole
async def test_two_workers_send_each_event_once(system: System, receiver: Receiver) -> None:
    await system.stack.start_process("worker.2")
    try:
        async with registered(system, receiver) as endpoint:
            payment_ids = [await _a_payment(system) for _ in range(5)]
            await make_events(system, payment_ids, count=10)
            await system.eventually(
                endpoint.deliveries,
                lambda items: [item["status"] for item in items] == ["delivered"] * 55,
            )
            assert len(receiver.accepted) == len(set(receiver.ids())) == 55
            for payment_id in payment_ids:
                sequences = [event["sequence"] for event in receiver.events([payment_id])]
                assert sequences == sorted(sequences)
    finally:
        await system.stack.stop_process("worker.2")


async def test_events_arrive_while_redis_is_away(system: System, receiver: Receiver) -> None:
    if not system.stack.redis.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    payment_id = await _a_payment(system)
    async with registered(system, receiver):
        await system.stack.redis.stop()
        try:
            await make_events(system, [payment_id], count=3)
            await system.eventually(lambda: len(receiver.events([payment_id])) == 3)
        finally:
            await system.stack.redis.start()


@pytest.mark.whole
async def test_a_worker_ends_in_time_while_an_endpoint_hangs(
    system: System, receiver: Receiver
) -> None:
    """What was under way is sent again by the next worker."""
    async with registered(system, receiver) as endpoint:
        receiver.respond = hang
        (await call(endpoint, "POST", "/test")).expect(202)
        await system.eventually(lambda: receiver.messages)
        assert await system.stack.stop_process("worker") == 0
        receiver.respond = accept
        await _end_leases(system, endpoint)
        await system.stack.start_workers()
        await system.eventually(lambda: receiver.accepted)


@pytest.mark.whole
async def test_a_sealed_secret_is_in_no_row_and_no_log_and_signs(
    system: System, receiver: Receiver
) -> None:
    """A worker without WEBHOOK_SECRETS_KEY sends nothing and counts no attempt, and logs it."""
    key = {"WEBHOOK_SECRETS_KEY": "a-secret-of-32-characters-or-more-1"}
    await system.stack.restart_process("web", env=key)
    try:
        async with registered(system, receiver) as endpoint:
            (await call(endpoint, "POST", "/test")).expect(202)
            await system.eventually(
                lambda: "webhook_key_unreadable" in "".join(system.stack.logs().values())
            )
            assert receiver.messages == []
            [waiting] = await _rows(system, endpoint)
            assert (waiting["attempts"], waiting["is_sending"]) == (0, False)
            await system.stack.restart_process("worker", env=key)
            await _end_leases(system, endpoint)
            [message] = await system.eventually(lambda: receiver.accepted)
            message.check(endpoint.secret)
            [delivery] = await system.eventually(
                endpoint.deliveries, lambda items: items[0]["status"] == "delivered"
            )
            assert [attempt["number"] for attempt in delivery["attempts"]] == [1]
            rows = await system.rows("SELECT * FROM mkwanja.webhook_endpoints")
            written = str(rows) + "".join(system.stack.logs().values())
            assert endpoint.secret.removeprefix("whsec_") not in written
    finally:
        await system.stack.restart_process("web")
        await system.stack.restart_process("worker")
