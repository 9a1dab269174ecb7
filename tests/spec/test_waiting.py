"""`GET /v1/payments/{id}?wait=S` holds the answer until the payment is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.playing import stopped_payouts
from tests.spec.requesting import (
    UNKNOWN_PAYMENT_ID,
    caller,
    cancel,
    expect_problem,
    new_subject,
    send_request,
)
from tests.spec.streaming import count_waiting, streaming, wait_until_waiting
from tests.spec.system import PATIENCE_SECONDS, System
from tests.stack.client import Answer

_CHANNEL = "payment-events"
_LONGEST = "60"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


def _wait(system: System, payment_id: str, seconds: str = _LONGEST) -> asyncio.Task[Answer]:
    return asyncio.create_task(system.backend.get(f"/v1/payments/{payment_id}", wait=seconds))


async def _woken(wait: asyncio.Task[Answer]) -> Answer:
    """The answer, which comes long before the time of `wait` is over."""
    return await asyncio.wait_for(wait, PATIENCE_SECONDS)


@asynccontextmanager
async def _waiting_for(system: System, count: int = 1) -> AsyncIterator[tuple[str, list[Any]]]:
    """A payment that no worker sends, and requests that wait for it."""
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        waits = [_wait(system, payment_id) for _ in range(count)]
        await wait_until_waiting(system, "payment", count)
        yield payment_id, waits
        await asyncio.gather(*waits)


async def test_a_wait_ends_when_the_payment_succeeds(system: System) -> None:
    payment_id = await system.deposit()
    answer = await _woken(_wait(system, payment_id))
    assert answer.expect(200).json()["status"] == "success"
    assert answer.json() == await system.payment(payment_id)


async def test_a_wait_ends_when_the_payment_is_cancelled(system: System) -> None:
    """Three requests wait for one payment, and one event wakes them all."""
    async with _waiting_for(system, 3) as (payment_id, waits):
        assert not any(wait.done() for wait in waits)
        (await cancel(system, payment_id)).expect(200)
        for answer in await asyncio.gather(*map(_woken, waits)):
            payment = answer.expect(200).json()
            assert payment["failure"]["reason"] == "cancelled_by_caller"
    assert await count_waiting(system, "payment") == 0


async def test_a_wait_ends_without_redis(system: System) -> None:
    """The process also looks at the feed in PostgreSQL, so a lost message only delays it."""
    if not system.stack.redis.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    async with _waiting_for(system) as (payment_id, [wait]):
        await system.stack.redis.stop()
        try:
            (await cancel(system, payment_id)).expect(200)
            assert (await _woken(wait)).expect(200).json()["status"] == "failed"
        finally:
            await system.stack.redis.start()


async def test_a_wait_outlasts_a_restart_of_postgres(system: System) -> None:
    if not system.stack.postgres.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    async with _waiting_for(system) as (payment_id, [wait]):
        await system.stack.postgres.stop()
        await asyncio.sleep(1.5)  # the process looks at the feed in vain
        assert not wait.done()
        await system.stack.postgres.start()
        await system.eventually(lambda: cancel(system, payment_id), lambda one: one.status == 200)
        assert (await _woken(wait)).expect(200).json()["status"] == "failed"


async def test_a_wait_that_ends_too_soon_answers_the_present_state(system: System) -> None:
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        answer = await _wait(system, payment_id, "1")
        assert answer.expect(200).json()["status"] == "pending"
        (await cancel(system, payment_id)).expect(200)


async def test_a_wait_for_a_payment_of_another_owner_is_refused_at_once(system: System) -> None:
    async with (
        _waiting_for(system) as (payment_id, _),
        caller(system, sub=new_subject()) as stranger,
    ):
        for unknown in (payment_id, UNKNOWN_PAYMENT_ID):
            answer = await stranger.get(f"/v1/payments/{unknown}", wait=_LONGEST)
            expect_problem(answer, 404, "payment_not_found")
        (await cancel(system, payment_id)).expect(200)


async def test_a_client_that_disconnects_frees_its_place(system: System) -> None:
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        wait = _wait(system, payment_id)
        await wait_until_waiting(system, "payment", 1)
        wait.cancel()
        await wait_until_waiting(system, "payment", 0)
        (await cancel(system, payment_id)).expect(200)


async def test_a_head_request_does_not_wait(system: System) -> None:
    async with stopped_payouts(system):
        payment_id = await system.withdrawal()
        path = f"/v1/payments/{payment_id}?wait={_LONGEST}"
        token = system.stack.issuer.backend_token()
        asking = asyncio.create_task(send_request(system, "HEAD", path, token=token))
        answer = await _woken(asking)
        assert answer.expect(200).body == b""
        (await cancel(system, payment_id)).expect(200)


async def test_each_caller_may_have_only_so_many_requests_that_wait(tmp_path: Path) -> None:
    """Waits and streams count together. Other callers and other requests are not limited."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[caller]\nwaiting_at_once = 2\n")
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        payment_id = await system.withdrawal()
        async with streaming(system):
            wait = _wait(system, payment_id)
            await wait_until_waiting(system, "payment", 1)
            for headers in ([], [("Accept", "text/event-stream")]):
                path = "/v1/events" if headers else f"/v1/payments/{payment_id}?wait=5"
                token = system.stack.issuer.backend_token()
                refused = await send_request(system, "GET", path, headers=headers, token=token)
                problem = expect_problem(refused, 429, "rate_limited")
                assert problem["limit"] == "caller.waiting_at_once"
                assert int(refused.headers["Retry-After"]) >= 1
            assert (await system.payment(payment_id))["status"] == "pending"
            async with streaming(system, system.stack.issuer.user_token()):
                pass
        await wait_until_waiting(system, "stream", 0)
        async with streaming(system):
            (await cancel(system, payment_id)).expect(200)
            (await wait).expect(200)


async def test_a_draining_process_answers_waits_and_ends_streams_at_once() -> None:
    """A wait gets the payment's present state. A stream ends with an event that says why."""
    async with a_system(processes=("web",)) as system:
        payment_id = await system.withdrawal()
        async with streaming(system) as stream:
            wait = _wait(system, payment_id)
            await wait_until_waiting(system, "payment", 1)
            assert await system.stack.process("web").terminate(within_seconds=20) == 0
            assert (await _woken(wait)).expect(200).json()["status"] == "pending"
            await system.eventually(lambda: stream.is_closed)
            assert stream.end["reason"] == "shutdown"
            assert "Last-Event-ID" in stream.end["detail"]
        last_id = stream.last_id
        await system.stack.start_process("web")
        async with streaming(system, last_id=last_id) as stream:
            (await cancel(system, payment_id)).expect(200)
            await system.eventually(lambda: len(stream.events) == 1)


async def test_while_nothing_waits_no_process_listens_or_looks() -> None:
    """A web process has its subscription and its queries only while a request waits."""
    async with a_system(processes=("web",)) as system:
        redis: Redis = Redis.from_url(system.stack.redis_url)

        async def listeners() -> int:
            [(_, count)] = await redis.pubsub_numsub(_CHANNEL)
            return int(count)

        async def last_query() -> Any:
            """When the web process sent its last query."""
            [row] = await system.rows(
                "SELECT max(query_start) AS at FROM pg_stat_activity"
                " WHERE application_name = 'mkwanja-web'"
            )
            return row["at"]

        payment_id = await system.withdrawal()
        (await cancel(system, payment_id)).expect(200)
        assert (await system.backend.get(f"/v1/payments/{payment_id}", wait="5")).status == 200
        assert await listeners() == 0
        async with streaming(system):
            await system.eventually(listeners, lambda count: count == 1)
            seen = await last_query()
            await system.eventually(last_query, lambda now: now > seen)
            async with streaming(system, system.stack.issuer.user_token()):
                assert await listeners() == 1
        await system.eventually(listeners, lambda count: count == 0)
        payment_id = await system.withdrawal()
        assert (await system.payment(payment_id))["status"] == "pending"
        before = await last_query()
        await asyncio.sleep(2.5)  # with a request that waits, the process looks each second
        assert (await last_query(), await listeners()) == (before, 0)
        await redis.aclose()
