"""Backends get events over HTTP, signed, at least once, and whatever their endpoint does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.spec.conftest import BRISK, TIME_SCALE
from tests.spec.playing import stopped_payouts
from tests.spec.receiving import (
    LOCAL,
    Receiver,
    accept,
    answering,
    call,
    hang,
    make_events,
    postpone_retries,
    receiving,
    register,
    registered,
    retry_now,
)
from tests.spec.requesting import caller, cancel, expect_problem, new_subject
from tests.spec.system import System
from tests.stack.lending import Lending
from tests.stack.ports import release_port, reserve_port
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


async def _make_cancelled(system: System, count: int) -> list[str]:
    async with stopped_payouts(system):
        payment_ids = [await system.withdrawal() for _ in range(count)]
        for payment_id in payment_ids:
            (await cancel(system, payment_id)).expect(200)
    return payment_ids


def _sequences(events: list[Any], payment_id: str) -> list[int]:
    return [event["sequence"] for event in events if event["subject"] == payment_id]


# --- what arrives ---------------------------------------------------------------------------------


async def test_each_event_arrives_signed_with_the_bytes_of_the_feed(
    system: System, receiver: Receiver
) -> None:
    """An independent reader of CloudEvents accepts it too. The delivery is recorded."""
    async with registered(system, receiver) as endpoint:
        payment_id = await system.deposit()
        await system.settled(payment_id)
        [event] = await system.eventually(lambda: receiver.events([payment_id]))
        assert event["type"] == "mkwanja.payment.succeeded"
        [message] = [each for each in receiver.accepted if each.event["id"] == event["id"]]
        message.check(endpoint.secret)
        [stored] = await system.rows(
            "SELECT event_body FROM mkwanja.payment_history WHERE id = $1::uuid", event["id"]
        )
        assert message.body.decode() == stored["event_body"]
        read = from_http_event(HTTPMessage(message.headers, message.body))
        assert read.get_id() == event["id"]
        deliveries = await system.eventually(
            endpoint.deliveries, lambda items: items[-1]["status"] == "delivered"
        )
        [delivery] = [each for each in deliveries if each["event_id"] == event["id"]]
        assert (delivery["cause"], delivery["payment_id"]) == ("event", payment_id)
        [attempt] = delivery["attempts"]
        assert (attempt["outcome"], attempt["http_status"]) == ("delivered", 204)


async def test_an_endpoint_gets_only_the_types_that_it_wants(
    system: System, receiver: Receiver
) -> None:
    async with registered(system, receiver, event_types=["mkwanja.payment.succeeded"]):
        [cancelled] = await _make_cancelled(system, 1)
        paid = await system.deposit()
        await system.settled(paid)
        await system.eventually(lambda: receiver.events([paid]))
        assert receiver.events([cancelled]) == []


async def test_a_test_takes_the_same_way_as_an_event(system: System, receiver: Receiver) -> None:
    async with registered(system, receiver) as endpoint:
        queued = (await call(endpoint, "POST", "/test")).expect(202).json()
        [message] = await system.eventually(lambda: receiver.accepted)
        message.check(endpoint.secret)
        assert message.event["type"] == "mkwanja.test"
        assert message.event["id"] == queued["event_id"]


async def test_a_redelivery_has_the_same_webhook_id(system: System, receiver: Receiver) -> None:
    async with registered(system, receiver) as endpoint:
        await _make_cancelled(system, 1)
        await system.eventually(
            endpoint.deliveries, lambda items: items and items[0]["status"] == "delivered"
        )
        again = await call(endpoint, "POST", "/deliveries/1/redeliver")
        assert again.expect(202).json()["number"] == 2
        await system.eventually(lambda: len(receiver.accepted) == 2)
        first, second = receiver.accepted
        second.check(endpoint.secret)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body
        for number in ("99", "0", "x"):
            unknown = await call(endpoint, "POST", f"/deliveries/{number}/redeliver")
            expect_problem(unknown, 404, "webhook_delivery_not_found")


async def test_a_redelivery_of_a_pending_delivery_makes_it_due_and_sends_it_once(
    system: System, receiver: Receiver
) -> None:
    """The answer shows the pending delivery with its attempts, and there is no second one."""
    receiver.respond = answering(500)
    async with registered(system, receiver) as endpoint:
        (await call(endpoint, "POST", "/test")).expect(202)
        await system.eventually(endpoint.deliveries, lambda items: items[0]["attempts"])
        await postpone_retries(system, endpoint)
        receiver.respond = accept
        shown = (await call(endpoint, "POST", "/deliveries/1/redeliver")).expect(202).json()
        assert (shown["number"], shown["cause"], shown["status"]) == (1, "test", "pending")
        assert [each["http_status"] for each in shown["attempts"]] == [500]
        await system.eventually(
            endpoint.deliveries, lambda items: [each["status"] for each in items] == ["delivered"]
        )
        assert len(receiver.accepted) == 1


async def test_old_and_new_secret_verify_while_a_secret_rotates(
    system: System, receiver: Receiver
) -> None:
    """After 24 hours only the new secret does."""
    async with registered(system, receiver) as endpoint:
        rotated = (await call(endpoint, "POST", "/rotate-secret")).expect(200).json()
        assert rotated["secret"] != endpoint.secret
        (await call(endpoint, "POST", "/test")).expect(202)
        [message] = await system.eventually(lambda: receiver.accepted)
        for secret in (endpoint.secret, rotated["secret"]):
            message.check(secret)
        await system.execute(
            "UPDATE mkwanja.webhook_endpoints"
            " SET previous_key_until = previous_key_until - interval '24 hours'"
            " WHERE id = $1::uuid",
            endpoint.id,
        )
        (await call(endpoint, "POST", "/test")).expect(202)
        [_, message] = await system.eventually(
            lambda: receiver.accepted, lambda accepted: len(accepted) == 2
        )
        message.check(rotated["secret"])
        assert " " not in message.headers["webhook-signature"]
        shown = [await endpoint.read(), (await call(endpoint, "PATCH", "", {})).json()]
        assert not any("secret" in each for each in shown)


# --- endpoints that fail --------------------------------------------------------------------------


async def test_an_endpoint_that_was_down_for_an_hour_gets_every_event(system: System) -> None:
    """The events of each payment can be put in order by `sequence`. Old ones come at once."""
    port = reserve_port()
    endpoint = await register(system.backend, f"http://127.0.0.1:{port}/hooks")
    try:
        payment_ids = await _make_cancelled(system, 3)
        await make_events(system, payment_ids, count=3)
        await system.eventually(
            endpoint.deliveries,
            lambda items: len(items) == 12 and all(item["attempts"] for item in items),
        )
        for _ in range(3):  # the retries of the hour
            await retry_now(system, endpoint)
        failed = await endpoint.deliveries()
        outcomes = {attempt["outcome"] for item in failed for attempt in item["attempts"]}
        assert outcomes == {"unreachable"}
        await system.execute(
            "UPDATE mkwanja.webhook_endpoints SET failing_since = now() - interval '1 hour'"
            " WHERE id = $1::uuid",
            endpoint.id,
        )
        await postpone_retries(system, endpoint)
        async with receiving(port) as receiver:
            (await call(endpoint, "POST", "/test")).expect(202)
            await system.eventually(
                lambda: receiver.events(payment_ids), lambda found: len(found) == 12
            )
            for payment_id in payment_ids:
                found = _sequences(receiver.events(payment_ids), payment_id)
                assert len(set(found)) == 4
            for message in receiver.accepted:
                message.check(endpoint.secret)
        assert (await endpoint.read())["failing_since"] is None
    finally:
        (await call(endpoint, "DELETE", "")).expect(204)
        release_port(port)


async def test_an_endpoint_that_answers_500_gets_every_event_later(
    system: System, receiver: Receiver
) -> None:
    """Each attempt is recorded with the beginning of its answer."""
    receiver.respond = answering(500, "broken " * 500)
    async with registered(system, receiver) as endpoint:
        payment_ids = await _make_cancelled(system, 2)
        await make_events(system, payment_ids)
        failed = await system.eventually(
            endpoint.deliveries,
            lambda items: len(items) == 4 and all(item["attempts"] for item in items),
        )
        attempt = failed[0]["attempts"][0]
        assert (attempt["outcome"], attempt["http_status"]) == ("error_status", 500)
        assert attempt["answer"] == ("broken " * 500)[:1024]
        assert all(item["next_attempt_at"] > item["created_at"] for item in failed)
        receiver.respond = accept
        await retry_now(system, endpoint)
        events = await system.eventually(
            lambda: receiver.events(payment_ids), lambda found: len(found) == 4
        )
        for payment_id in payment_ids:
            found = _sequences(events, payment_id)
            assert found == sorted(found)


async def test_an_endpoint_that_hangs_delays_no_other(system: System, receiver: Receiver) -> None:
    """Its attempts end as `timeout`."""
    receiver.respond = hang
    async with (
        receiving() as other,
        registered(system, receiver) as slow,
        registered(system, other),
    ):
        await make_events(system, await _make_cancelled(system, 1), count=40)
        await system.eventually(lambda: len(other.accepted) == 41)
        assert receiver.accepted == []
        items = await system.eventually(
            slow.deliveries, lambda items: any(item["attempts"] for item in items)
        )
        attempts = [attempt for item in items for attempt in item["attempts"]]
        assert {attempt["outcome"] for attempt in attempts} == {"timeout"}


async def test_a_later_event_of_a_payment_waits_until_the_earlier_one_is_answered(
    system: System, receiver: Receiver
) -> None:
    """Events of other payments do not wait."""
    held, other = await _make_cancelled(system, 2)
    go_on = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        if (await request.json())["subject"] == held:
            await go_on.wait()
        return await accept(request)

    receiver.respond = respond
    async with registered(system, receiver):
        await make_events(system, [held, other], count=3)
        await system.eventually(lambda: len(receiver.events([other])) == 3)
        arrived = [message.event["subject"] for message in receiver.messages]
        assert arrived.count(held) == 1
        go_on.set()
        events = await system.eventually(
            lambda: receiver.events([held]), lambda found: len(found) == 3
        )
        assert _sequences(events, held) == sorted(_sequences(events, held))


async def test_a_redirect_is_a_failure_and_is_not_followed(
    system: System, receiver: Receiver
) -> None:
    async with receiving() as other:
        receiver.respond = answering(307, Location=other.url)
        async with registered(system, receiver) as endpoint:
            (await call(endpoint, "POST", "/test")).expect(202)
            [item] = await system.eventually(
                endpoint.deliveries, lambda items: items[0]["attempts"]
            )
            assert [each["outcome"] for each in item["attempts"]] == ["redirect"]
            assert item["status"] == "pending"
        assert other.messages == []


async def test_an_endpoint_that_answers_410_is_disabled_until_its_owner_enables_it(
    system: System, receiver: Receiver
) -> None:
    """Then it gets the events that it missed."""
    receiver.respond = answering(410)
    async with registered(system, receiver) as endpoint:
        payment_ids = await _make_cancelled(system, 1)
        gone = await system.eventually(endpoint.read, lambda each: each["status"] != "enabled")
        assert (gone["status"], gone["status_reason"]) == ("disabled", "answered_410")
        expect_problem(await call(endpoint, "POST", "/test"), 409, "webhook_endpoint_not_enabled")
        await make_events(system, payment_ids)
        receiver.respond = accept
        (await call(endpoint, "PATCH", "", {"status": "enabled"})).expect(200)
        await system.eventually(lambda: len(receiver.events(payment_ids)) == 2)


async def test_an_endpoint_that_fails_for_days_is_paused_with_an_alarm_and_loses_nothing(
    system: System, receiver: Receiver
) -> None:
    receiver.respond = answering(503)
    async with registered(system, receiver) as endpoint:
        payment_ids = await _make_cancelled(system, 1)
        await system.eventually(endpoint.read, lambda each: each["failing_since"])
        await system.execute(
            "UPDATE mkwanja.webhook_endpoints SET failing_since = now() - interval '2 days'"
            " WHERE id = $1::uuid",
            endpoint.id,
        )
        await retry_now(system, endpoint)
        paused = await system.eventually(endpoint.read, lambda each: each["status"] != "enabled")
        assert (paused["status"], paused["status_reason"]) == ("paused", "failed_for_days")
        assert "webhook_endpoint_paused" in "".join(system.stack.logs().values())

        async def alarm() -> bool:
            text = (await system.backend.get("/metrics")).body.decode()
            return "mkwanja_webhook_endpoints_paused 1.0" in text

        await system.eventually(alarm)
        await make_events(system, payment_ids)
        receiver.respond = accept
        (await call(endpoint, "PATCH", "", {"status": "enabled"})).expect(200)
        await system.eventually(lambda: len(receiver.events(payment_ids)) == 2)


# --- owners ---------------------------------------------------------------------------------------


async def test_a_backend_sees_and_changes_only_its_own_endpoints(
    system: System, receiver: Receiver
) -> None:
    async with registered(system, receiver) as endpoint:
        async with caller(system, sub=new_subject(), role="service_role") as other:
            assert (await other.get("/v1/webhook-endpoints")).expect(200).json() == {"items": []}
            for method, action, body in (
                ("GET", "", None),
                ("PATCH", "", {"description": "mine"}),
                ("DELETE", "", None),
                ("POST", "/rotate-secret", None),
                ("POST", "/test", None),
                ("GET", "/deliveries", None),
                ("POST", "/deliveries/1/redeliver", None),
            ):
                answer = await other.send(method, endpoint.path + action, body)
                expect_problem(answer, 404, "webhook_endpoint_not_found")
        assert (await endpoint.read())["status"] == "enabled"


async def test_a_deleted_endpoint_gets_nothing_more(system: System, receiver: Receiver) -> None:
    async with registered(system, receiver) as endpoint, receiving() as other:
        doomed = await register(system.backend, other.url)
        (await call(doomed, "DELETE", "")).expect(204)
        expect_problem(await call(doomed, "GET", ""), 404, "webhook_endpoint_not_found")
        payment_ids = await _make_cancelled(system, 1)
        await system.eventually(lambda: receiver.events(payment_ids))
        assert other.messages == []
        listed = (await system.backend.get("/v1/webhook-endpoints")).json()["items"]
        assert [each["id"] for each in listed] == [endpoint.id]


async def test_a_caller_may_have_twenty_endpoints(system: System, receiver: Receiver) -> None:
    async with caller(system, sub=new_subject(), role="service_role") as other:
        endpoints = [await register(other, receiver.url) for _ in range(20)]
        refused = await other.send("POST", "/v1/webhook-endpoints", {"url": receiver.url})
        problem = expect_problem(refused, 409, "too_many_webhook_endpoints")
        assert "has 20 webhook endpoints" in problem["detail"]
        assert "Delete one" in problem["detail"]
        for endpoint in endpoints:
            (await call(endpoint, "DELETE", "")).expect(204)


async def test_deliveries_are_listed_in_pages_newest_first(
    system: System, receiver: Receiver
) -> None:
    async with registered(system, receiver) as endpoint, registered(system, receiver) as other:
        for _ in range(3):
            (await call(endpoint, "POST", "/test")).expect(202)
        path = f"{endpoint.path}/deliveries"
        page = (await system.backend.get(path, limit="2")).expect(200).json()
        assert [item["number"] for item in page["items"]] == [3, 2]
        rest = await system.backend.get(path, cursor=page["next_cursor"])
        assert [item["number"] for item in rest.expect(200).json()["items"]] == [1]
        assert rest.json()["next_cursor"] is None
        wrong = await system.backend.get(f"{other.path}/deliveries", cursor=page["next_cursor"])
        expect_problem(wrong, 422, "invalid_request")
