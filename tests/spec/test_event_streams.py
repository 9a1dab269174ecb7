"""`GET /v1/events` as a stream of server-sent events: every event once, in the feed's order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.conftest import a_system
from tests.spec.feed_reader import Reader
from tests.spec.requesting import (
    caller,
    cancel,
    expect_problem,
    new_subject,
    pointers,
    send_request,
)
from tests.spec.streaming import Stream, cancelled_payments, streaming, wait_until_waiting
from tests.spec.system import System
from tests.stack.client import Answer

_STREAM = ("Accept", "text/event-stream")


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(webs=2) as system:
        yield system


async def _seen(system: System, stream: Stream, payment_ids: list[str]) -> None:
    """Wait until the stream has an event of each payment."""
    await system.eventually(
        lambda: {event["subject"] for event in stream.events},
        lambda subjects: set(payment_ids) <= subjects,
        "an event of each payment",
    )


async def _begun(system: System, stream: Stream) -> None:
    """Wait for the stream's first event."""
    await system.eventually(lambda: stream.events, awaited="an event")


async def _ask(system: System, *headers: tuple[str, str], query: str = "") -> Answer:
    token = system.stack.issuer.backend_token()
    path = f"/v1/events{query}"
    return await send_request(system, "GET", path, headers=[_STREAM, *headers], token=token)


# --- whose events, and from where -----------------------------------------------------------------


async def test_a_stream_sends_the_events_of_the_feed_from_now_on(system: System) -> None:
    """The `id` of each event is a cursor of the feed, and `data` is the event of the feed."""
    await cancelled_payments(system, 2)
    reader = await Reader(system.backend).skip()
    async with streaming(system) as stream:
        payment_ids = [await system.deposit(), *await cancelled_payments(system, 3)]
        await _seen(system, stream, payment_ids)
    await reader.read()
    assert stream.events == reader.events
    page = await system.backend.get("/v1/events", after=stream.cursors[1])
    assert page.json()["items"] == stream.events[2:]


async def test_a_user_gets_its_own_events_and_a_backend_all(system: System) -> None:
    """An event of a payment that a backend made for the user is the user's own too."""
    mine, other = new_subject(), new_subject()
    issuer = system.stack.issuer
    async with (
        streaming(system) as everything,
        streaming(system, issuer.user_token(mine)) as my_stream,
        streaming(system, issuer.user_token(other)) as their_stream,
    ):
        async with caller(system, sub=mine) as user:
            body = {"amount": 250, "phone_number": "0711398001"}
            paid = (await user.pay("/v1/deposits", body)).expect(202).json()["id"]
        [for_me] = await cancelled_payments(system, 1, owner=mine)
        [for_them] = await cancelled_payments(system, 1, owner=other)
        [for_none] = await cancelled_payments(system, 1)
        await _seen(system, everything, [paid, for_me, for_them, for_none])
        await _seen(system, my_stream, [paid, for_me])
        await _seen(system, their_stream, [for_them])
    assert {event["subject"] for event in my_stream.events} == {paid, for_me}
    assert {event["subject"] for event in their_stream.events} == {for_them}


async def test_a_stream_shows_the_events_of_other_processes(system: System) -> None:
    async with (
        streaming(system, url=system.stack.process("web.1").url) as first,
        streaming(system, url=system.stack.process("web.2").url) as second,
    ):
        payment_ids = await cancelled_payments(system, 5)
        for stream in (first, second):
            await _seen(system, stream, payment_ids)
    assert (first.cursors, first.events) == (second.cursors, second.events)


async def test_a_client_that_drops_before_its_first_event_misses_nothing(system: System) -> None:
    """The stream begins with an id, from which the client continues."""
    async with streaming(system) as stream:
        assert stream.first_id
    payment_ids = await cancelled_payments(system, 3)
    async with streaming(system, last_id=stream.first_id) as again:
        await _seen(system, again, payment_ids)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("is_user", [False, True], ids=["a backend", "a user"])
async def test_a_stream_continues_after_the_last_id_without_gap_or_repetition(
    system: System, *, is_user: bool
) -> None:
    """A client reconnects again and again while events come, also when it misses many pages."""
    subject = new_subject()
    token = system.stack.issuer.user_token(subject) if is_user else None
    reader = await Reader(system.backend).skip()
    async with streaming(system, token) as stream:
        first_id = stream.first_id
    await cancelled_payments(system, 130, owner=subject)
    making = asyncio.create_task(cancelled_payments(system, 60, owner=subject))
    cursors: list[str] = []
    events: list[Any] = []
    while len(events) < 190:
        async with streaming(system, token, last_id=cursors[-1] if cursors else first_id) as part:
            await _begun(system, part)
        cursors += part.cursors
        events += part.events
    await making
    await reader.read()
    assert events == [event for event in reader.events if event["data"]["owner"] == subject]
    assert len(set(cursors)) == len(cursors)


async def test_a_client_may_begin_a_stream_where_its_last_page_ended(system: System) -> None:
    """A newer `Last-Event-ID` counts before `?after=`, as a client's second request has both."""
    reader = await Reader(system.backend).skip()
    before = reader.cursor
    payment_ids = await cancelled_payments(system, 3)
    path = f"/v1/events?after={before}"
    async with streaming(system, path=path) as stream:
        await _seen(system, stream, payment_ids)
    async with streaming(system, path=path, last_id=stream.cursors[1]) as again:
        await system.eventually(lambda: again.events)
    assert again.events == stream.events[2:]


# --- outages and ends -----------------------------------------------------------------------------


async def test_a_stream_misses_no_event_while_redis_is_away(system: System) -> None:
    if not system.stack.redis.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    async with streaming(system) as stream:
        await system.stack.redis.stop()
        try:
            payment_ids = await cancelled_payments(system, 3)
            await _seen(system, stream, payment_ids)
        finally:
            await system.stack.redis.start()
        payment_ids += await cancelled_payments(system, 3)
        await _seen(system, stream, payment_ids)
    assert len(set(stream.ids)) == len(stream.ids)


async def test_a_stream_continues_after_postgres_restarts(system: System) -> None:
    if not system.stack.postgres.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    async with streaming(system) as stream:
        payment_ids = await cancelled_payments(system, 1)
        await system.stack.postgres.stop()
        await system.stack.postgres.start()
        await system.eventually(
            lambda: system.backend.get("/v1/payments"), lambda answer: answer.status == 200
        )
        payment_ids += await cancelled_payments(system, 3)
        await _seen(system, stream, payment_ids)
    assert len(set(stream.ids)) == len(stream.ids)
    assert stream.end is None


async def test_a_stream_ends_when_its_token_expires(system: System) -> None:
    """The client continues with a new token, after the last id of the old stream."""
    token = system.stack.issuer.mint(role="service_role", expires_in_seconds=2)
    async with streaming(system, token) as stream:
        payment_ids = await cancelled_payments(system, 1)
        await system.eventually(lambda: stream.is_closed)
    assert stream.end["reason"] == "token_expired"
    payment_ids += await cancelled_payments(system, 1)
    async with streaming(system, last_id=stream.last_id) as again:
        await system.eventually(lambda: len(stream.events + again.events) == 2)
    assert [event["subject"] for event in stream.events + again.events] == payment_ids


async def test_a_stream_ends_when_the_database_lost_its_last_event(system: System) -> None:
    """A restored database, or a failover that lost commits, has no such event."""
    async with a_system(processes=("web",)) as own, streaming(own) as stream:
        await cancelled_payments(own, 2)
        await own.eventually(lambda: len(stream.events) == 2)
        await own.execute(
            "ALTER TABLE mkwanja.events DISABLE TRIGGER USER;"
            "DELETE FROM mkwanja.events"
            " WHERE position = (SELECT max(position) FROM mkwanja.events);"
            "ALTER TABLE mkwanja.events ENABLE TRIGGER USER"
        )
        await own.eventually(lambda: stream.is_closed)
        assert stream.end["reason"] == "unknown_event"
        answer = await _ask(own, ("Last-Event-ID", stream.last_id))
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {"Last-Event-ID"}
        async with streaming(own, last_id=stream.cursors[0]) as again:
            await cancelled_payments(own, 1)
            await own.eventually(lambda: again.events)


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html", "text/*"])
async def test_a_client_that_does_not_ask_for_a_stream_gets_a_page(
    system: System, accept: str | None
) -> None:
    token = system.stack.issuer.backend_token()
    headers = [] if accept is None else [("Accept", accept)]
    answer = await send_request(system, "GET", "/v1/events?limit=1", headers=headers, token=token)
    assert answer.expect(200).headers["Content-Type"] == "application/json"
    assert json.loads(answer.body).keys() == {"items", "next_cursor"}


async def test_a_page_begins_after_the_last_id_too_whatever_its_parameter_after(
    system: System,
) -> None:
    await cancelled_payments(system, 3)
    first = (await system.backend.get("/v1/events", limit="1")).expect(200).json()["next_cursor"]
    for query in ("", "&after=events-0"):
        answer = await send_request(
            system,
            "GET",
            f"/v1/events?limit=1{query}",
            headers=[("Last-Event-ID", first)],
            token=system.stack.issuer.backend_token(),
        )
        after = await system.backend.get("/v1/events", limit="1", after=first)
        assert json.loads(answer.expect(200).body) == after.json()


async def test_a_head_request_gets_the_head_of_a_stream(system: System) -> None:
    token = system.stack.issuer.backend_token()
    answer = await send_request(system, "HEAD", "/v1/events", headers=[_STREAM], token=token)
    assert answer.expect(200).headers["Content-Type"] == "text/event-stream"
    assert answer.body == b""


async def test_wrong_values_of_a_stream_are_named(system: System) -> None:
    wrong = ("Last-Event-ID", "events-1")
    unknown = f"events-{10**17}-0123456789ab"
    for headers, query, names in (
        ([wrong], "", {"Last-Event-ID"}),
        ([("Last-Event-ID", "")], "", {"Last-Event-ID"}),
        ([wrong], "?limit=5", {"Last-Event-ID", "?limit"}),
        ([("Last-Event-ID", "events-0"), ("Last-Event-ID", "events-0")], "", {"Last-Event-ID"}),
        ([("Last-Event-ID", unknown)], "", {"Last-Event-ID"}),
        ([], "?after=17", {"?after"}),
        ([], f"?after={unknown}", {"?after"}),
        ([], "?colour=red", {"?colour"}),
    ):
        refused = expect_problem(await _ask(system, *headers, query=query), 422, "invalid_request")
        assert pointers(refused) == names
        if unknown in f"{headers}{query}":
            assert "did not return the cursor" in refused["errors"][0]["detail"]
            assert "Read again without this cursor" in refused["errors"][0]["detail"]


async def test_a_stream_needs_a_token(system: System) -> None:
    answer = await send_request(system, "GET", "/v1/events", headers=[_STREAM], token="")
    expect_problem(answer, 401, "unauthenticated")


async def test_a_stream_passes_proxies_and_is_not_stored(system: System) -> None:
    """The headers forbid caches, and tell nginx to pass each event on at once."""
    headers = {
        "Authorization": f"Bearer {system.stack.issuer.backend_token()}",
        "Accept": "text/event-stream",
    }
    async with system.http.get(f"{system.stack.web_url}/v1/events", headers=headers) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
    await wait_until_waiting(system, "stream", 0)


async def test_a_cancellation_wakes_a_stream_and_a_wait_alike(system: System) -> None:
    """Both see the same final payment."""
    async with a_system(processes=("web",)) as own, streaming(own) as stream:
        payment_id = await own.withdrawal()
        wait = asyncio.create_task(own.backend.get(f"/v1/payments/{payment_id}", wait="60"))
        await wait_until_waiting(own, "payment", 1)
        (await cancel(own, payment_id)).expect(200)
        payment = (await wait).expect(200).json()
        await own.eventually(lambda: stream.events)
    data = stream.events[0]["data"]
    assert data == {name: payment[name] for name in data}
