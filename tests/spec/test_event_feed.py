"""GET /v1/events returns every event once, in an order that never changes.

A reader also gets events whose transactions commit late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.builders import UNPUBLISHED_EVENTS
from tests.spec.conftest import a_system
from tests.spec.feed_reader import Reader, open_transaction, wait_for_blocked
from tests.spec.playing import begin, stopped_payouts
from tests.spec.requesting import (
    caller,
    cancel,
    new_subject,
)
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.databases import connection

_EVENTS = (
    "SELECT id, payment_id, event_body FROM mkwanja.payment_history WHERE event_body IS NOT NULL"
)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(webs=2, callbacks=2) as system:
        yield system


async def _stored_events(system: System, payment_ids: list[str]) -> list[str]:
    """The ids of all stored events of these payments."""
    return [
        str(row["id"])
        for row in await system.rows(f"{_EVENTS} AND payment_id = ANY($1::uuid[])", payment_ids)
    ]


async def _make_cancelled(system: System, count: int) -> list[str]:
    """Make and cancel payments, because a cancellation needs only PostgreSQL; return their ids."""
    async with stopped_payouts(system):
        payment_ids = await asyncio.gather(*(system.withdrawal() for _ in range(count)))
        for answer in await asyncio.gather(*(cancel(system, one) for one in payment_ids)):
            answer.expect(200)
    return payment_ids


# --- requests and pages ---------------------------------------------------------------------------


async def test_every_page_of_the_feed_has_a_cursor_for_the_next_one(system: System) -> None:
    """A page has twenty events by default. An empty page has the cursor of its request."""

    async def page(after: str, **parameters: str) -> tuple[list[Any], str]:
        answer = await system.backend.get("/v1/events", after=after, **parameters)
        return answer.expect(200).json()["items"], answer.json()["next_cursor"]

    reader = await Reader(system.backend).skip()
    payment_ids = await _make_cancelled(system, 23)
    first, cursor = await page(str(reader.cursor))
    assert len(first) == 20
    second, cursor = await page(cursor, limit="2")
    third, cursor = await page(cursor)
    for _ in range(2):
        assert await page(cursor) == ([], cursor)
    await reader.read()
    assert first + second + third == reader.events
    stored = await system.rows(f"{_EVENTS} AND payment_id = ANY($1::uuid[])", payment_ids)
    bodies = [json.dumps(json.loads(row["event_body"])) for row in stored]
    assert sorted(map(json.dumps, reader.events)) == sorted(bodies)


async def test_a_backend_reads_all_events_and_a_user_its_own(system: System) -> None:
    """A user also reads events of payments that a backend made for that user.

    No cursor shows a user the events of others.
    """
    mine, other = new_subject(), new_subject()
    async with caller(system, sub=mine) as user, caller(system, sub=other) as another:
        everything = await Reader(system.backend, limit=2).skip()
        my_feed, their_feed = Reader(user, limit=2), Reader(another)
        phone_numbers = [f"07113990{n:02}" for n in range(3)]
        pays = [
            user.pay("/v1/deposits", {"amount": 250, "phone_number": phone_numbers[0]}),
            another.pay("/v1/deposits", {"amount": 250, "phone_number": phone_numbers[1]}),
            system.backend.pay(
                "/v1/withdrawals", {"amount": 1200, "phone_number": "0722000222", "owner": mine}
            ),
            system.backend.pay("/v1/withdrawals", {"amount": 1200, "phone_number": "0722000222"}),
        ]
        ids = [answer.expect(202).json()["id"] for answer in await asyncio.gather(*pays)]
        for payment_id in ids:
            await system.settled(payment_id)
        for reader in (everything, my_feed, their_feed):
            await reader.read()
        assert {event["subject"] for event in my_feed.events} == {ids[0], ids[2]}
        assert {event["subject"] for event in their_feed.events} == {ids[1]}
        assert {event["subject"] for event in everything.events} >= set(ids)
        borrowed = (await another.get("/v1/events", after=str(my_feed.cursor))).expect(200).json()
        assert {event["subject"] for event in borrowed["items"]} <= {ids[1]}


# --- late commits ---------------------------------------------------------------------------------


async def test_a_reader_misses_no_event_that_commits_late(system: System) -> None:
    """Two transactions store events early, and commit after a reader has read newer events."""
    [first, second, never] = await _make_cancelled(system, 3)
    reader = await Reader(system.backend).skip()
    async with AsyncExitStack() as late:
        ids = [uuid4() for _ in range(3)]
        open_transactions = []
        for payment_id, history_id in zip((first, second, never), ids, strict=True):
            raw = await late.enter_async_context(connection(system.stack.database_url))
            transaction = raw.transaction()
            await transaction.start()
            await _announce_by_hand(raw, payment_id, history_id)
            open_transactions.append(transaction)
        earlier_commits = await _make_cancelled(system, 5)
        await reader.read()
        assert {event["subject"] for event in reader.events} == set(earlier_commits)
        await open_transactions[1].commit()
        assert [event["id"] for event in await reader.read()] == [str(ids[1])]
        await open_transactions[2].rollback()
        later = await _make_cancelled(system, 2)
        assert {event["subject"] for event in await reader.read()} == set(later)
        await open_transactions[0].commit()
        assert [event["id"] for event in await reader.read()] == [str(ids[0])]
    assert len(reader.ids) == len(set(reader.ids)) == 9
    again = Reader(system.backend, limit=3)
    await again.read()
    assert again.ids[-9:] == reader.ids, "a second reader saw another order"


async def _announce_by_hand(
    raw: asyncpg.Connection[asyncpg.Record], payment_id: str, history_id: Any
) -> None:
    """Write the rows of an event as a finalizing commit does."""
    await raw.execute(
        "WITH payment AS (UPDATE mkwanja.payments"
        " SET sequence = sequence + 1 WHERE id = $1::uuid"
        " RETURNING id, sequence) INSERT INTO mkwanja.payment_history (id, payment_id, sequence,"
        " recorded_at, what, previous_stage, stage, detail, event_type, event_body)"
        " SELECT $2, id, sequence, now(), 'stored_by_a_test', 'failed', 'failed', '{}',"
        " 'a.test', $3 FROM payment",
        payment_id,
        history_id,
        json.dumps({"id": str(history_id), "subject": payment_id}),
    )


# --- a frozen lister blocks no other process ------------------------------------------------------


@asynccontextmanager
async def _frozen_lister(system: System, statement: str) -> AsyncIterator[list[str]]:
    """Freeze the second ingress while it adds two events to the feed; yield the events' ids.

    When the test freezes the ingress, the ingress waits for a transaction that has run `statement`.
    """
    payment_ids = await _make_cancelled(system, 2)
    await _wait_until_published(system)
    ids = [uuid4(), uuid4()]
    workers = [
        system.stack.process(name) for name in system.stack.names if name.startswith("worker")
    ]
    frozen = system.stack.process("web.2")
    for worker in workers:
        worker.freeze()  # otherwise a sweeper would list the events
    try:
        async with connection(system.stack.database_url) as raw:
            for payment_id, history_id in zip(payment_ids, ids, strict=True):
                await _announce_by_hand(raw, payment_id, history_id)
        async with Client(frozen.url, system.stack.issuer.backend_token()) as elsewhere:
            async with open_transaction(system, statement.format(ids[0])) as raw:
                page = asyncio.create_task(elsewhere.get("/v1/events"))
                await wait_for_blocked(system, raw)
                frozen.freeze()
            try:
                for worker in workers:
                    worker.thaw()
                yield [str(history_id) for history_id in ids]
            finally:
                frozen.thaw()
                await page
    finally:
        for worker in workers:
            worker.thaw()


@pytest.mark.parametrize(
    "blocks",
    [
        "INSERT INTO mkwanja.events (history_id) VALUES ('{}')",
        "LOCK TABLE mkwanja.events IN SHARE MODE",
    ],
    ids=["while it lists an event", "between two messages of a statement"],
)
async def test_an_ingress_frozen_while_it_lists_events_blocks_no_others(
    system: System, blocks: str
) -> None:
    """PostgreSQL ends the frozen transaction. Then readers read every event once."""
    reader = await Reader(system.backend).skip()
    async with _frozen_lister(system, blocks) as ids:
        payment_id = await begin(system, "b2c", "approve")
        assert (await system.settled(payment_id))["status"] == "success"
        expected = {*ids, *await _stored_events(system, [payment_id])}
        await system.eventually(reader.read, lambda _: expected <= set(reader.ids))
        assert len(reader.ids) == len(set(reader.ids))


async def test_a_reader_reads_events_without_redis_and_without_a_worker(system: System) -> None:
    """The feed needs only PostgreSQL."""
    if not system.stack.redis.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    reader = await Reader(system.backend, limit=3).skip()
    await system.stack.process("worker").kill()
    await system.stack.redis.stop()
    try:
        payment_ids = await _make_cancelled(system, 8)
        await reader.read()
        assert sorted(reader.ids) == sorted(await _stored_events(system, payment_ids))
        await system.stack.restart_process("web", kill=True)
        assert await reader.read() == []
    finally:
        await system.stack.redis.start()
        await system.stack.start_process("worker")
    await _wait_until_published(system)  # the events of the outage are published now
    assert await reader.read() == []


async def _wait_until_published(system: System) -> None:
    """Wait until every event is published and recorded as published."""
    await system.eventually(lambda: system.rows(UNPUBLISHED_EVENTS), lambda rows: not rows)
