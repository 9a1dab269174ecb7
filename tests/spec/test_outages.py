"""PostgreSQL, Redis or a worker goes away: every promise holds, no process needs a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.spec.conftest import a_system
from tests.spec.recovering import nothing_restarted, pay_until_accepted
from tests.spec.system import System
from tests.stack.client import Answer
from tests.stack.external import GivenPostgres, GivenRedis
from tests.stack.servers import PostgresServer, RedisServer

Server = PostgresServer | RedisServer | GivenPostgres | GivenRedis

_DEPOSIT = {"amount": 250, "phone_number": "0711000111"}
_PAYERS = 8
_PAYMENTS_EACH = 9


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


def _require_ours(server: Server) -> None:
    if not server.can_be_stopped:
        pytest.skip("the server was given; it is not ours to stop")


@asynccontextmanager
async def _stopped(server: Server) -> AsyncIterator[None]:
    _require_ours(server)
    await server.stop()
    try:
        yield
    finally:
        await server.start()


@contextmanager
def _frozen(server: Server) -> Iterator[None]:
    _require_ours(server)
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


async def _pay_one_of_each_kind(system: System) -> list[str]:
    return [await system.deposit(), await system.withdrawal(), await system.bill_payment()]


def _assert_unavailable(answer: Answer) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert int(answer.headers["Retry-After"]) >= 1
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == ("unavailable", True)


# --- Redis ----------------------------------------------------------------------------------------


async def test_payments_are_accepted_while_redis_is_stopped(system: System) -> None:
    """A 202 needs no Redis. Once Redis is back, the payments are submitted and paid once."""
    with nothing_restarted(system):
        async with _stopped(system.stack.redis):
            payment_ids = await _pay_one_of_each_kind(system)
            assert await system.stage_counts(payment_ids) == {"accepted": 3}
        await system.wait_until_paid(payment_ids)


async def test_payments_are_accepted_while_redis_is_frozen(system: System) -> None:
    """A Redis that accepts connections and never answers delays a caller for a moment only."""
    with nothing_restarted(system):
        with _frozen(system.stack.redis):
            payment_ids = await _pay_one_of_each_kind(system)
        await system.wait_until_paid(payment_ids)


async def test_payments_are_submitted_after_redis_was_flushed(system: System) -> None:
    """The wake-ups, the shared token and the shared rate limit are gone."""
    worker = system.stack.process("worker")
    worker.freeze()
    try:
        payment_ids = await _pay_one_of_each_kind(system)
        await system.stack.redis.flush()
    finally:
        worker.thaw()
    await system.wait_until_paid(payment_ids)


# --- Postgres -------------------------------------------------------------------------------------


async def test_every_request_gets_503_while_postgres_is_stopped(system: System) -> None:
    """The 503 is retryable. Afterwards the same key succeeds and makes one payment."""
    key = str(uuid4())
    known = await system.deposit()
    await system.settled(known)
    with nothing_restarted(system):
        async with _stopped(system.stack.postgres):
            _assert_unavailable(await system.user.pay("/v1/deposits", _DEPOSIT, key=key))
            _assert_unavailable(await system.user.get(f"/v1/payments/{known}"))
            _assert_unavailable(await system.user.get("/v1/payments"))
            assert await _status(system, "web", "/readyz") == 503
            assert await _status(system, "web", "/healthz") == 200
        answer = (await system.user.pay("/v1/deposits", _DEPOSIT, key=key)).expect(202)
        assert not answer.was_replayed
        await system.wait_until_paid([answer.json()["id"]])
        assert (await system.user.pay("/v1/deposits", _DEPOSIT, key=key)).body == answer.body
    listed = (
        (await system.backend.get("/v1/payments", idempotency_key=key)).expect(200).json()["items"]
    )
    assert [item["id"] for item in listed] == [answer.json()["id"]]


async def test_a_callback_that_comes_while_postgres_is_away_is_stored_when_it_is_back(
    system: System,
) -> None:
    """Daraja sends once and waits. The receiver retries, stores, finalizes and answers 200."""
    await system.scenario("lost_callback", times=1, phone_number="254711000888")
    payment_id = await system.deposit(phone_number="0711000888", amount=611)
    payment = await system.in_stage(payment_id, "awaiting_result")
    url = await system.callback_url(payment_id, "deposit")
    [movement] = await system.eventually(lambda: system.movements(payment_id))
    with nothing_restarted(system):
        async with _stopped(system.stack.postgres):
            callback = asyncio.create_task(_post(url, _success(payment, movement["receipt"])))
            await asyncio.sleep(0.5)  # the receiver tries to store it and fails
            assert not callback.done()
        assert await callback == 200
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["receipt"]) == ("success", movement["receipt"])
    assert len(await system.callbacks(payment_id)) == 1
    await system.assert_money_agrees([payment_id])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("end", ["restarted", "killed"])
async def test_every_payment_settles_after_postgres_restarts_under_load(
    system: System, end: str
) -> None:
    """Callers retry with their keys until they succeed. Every payment is paid once."""
    postgres = system.stack.postgres
    _require_ours(postgres)
    payment_ids: list[str] = []
    under_way = asyncio.Event()

    async def pay(payer: int) -> None:
        for n in range(_PAYMENTS_EACH):
            path, body = _payment_of(payer, n)
            payment_ids.append(await pay_until_accepted(system, path, body))
            if len(payment_ids) >= _PAYERS * 2:
                under_way.set()

    with nothing_restarted(system):
        payers = [asyncio.create_task(pay(payer)) for payer in range(_PAYERS)]
        await under_way.wait()
        await (postgres.stop() if end == "restarted" else postgres.kill())
        await postgres.start()
        await asyncio.gather(*payers)
        assert len(set(payment_ids)) == _PAYERS * _PAYMENTS_EACH
        await system.wait_until_paid(payment_ids)


def _payment_of(payer: int, n: int) -> tuple[str, dict[str, Any]]:
    """The n-th payment of a payer: all three kinds, another customer each time."""
    match (payer + n) % 3:
        case 0:
            return "/v1/deposits", {"amount": 250, "phone_number": f"07111{payer}00{n:02}"}
        case 1:
            return "/v1/withdrawals", {"amount": 1200, "phone_number": f"07222{payer}00{n:02}"}
        case _:
            return "/v1/bill-payments", {"amount": 830, "till": "556677"}


# --- processes ------------------------------------------------------------------------------------


async def test_processes_start_before_postgres_and_redis() -> None:
    """They wait, report that they are not ready, and serve once both servers are there."""
    async with a_system(processes=()) as system:
        stack = system.stack
        async with _stopped(stack.postgres), _stopped(stack.redis):
            for name in ("web", "callbacks", "worker"):
                await stack.start_process(name, wait=False)
            await stack.wait_ready("worker")
            for name in ("web", "callbacks"):
                await system.eventually(
                    partial(_status, system, name, "/readyz"), lambda status: status == 503
                )
                assert await _status(system, name, "/healthz") == 200
            _assert_unavailable(await system.user.pay("/v1/deposits", _DEPOSIT))
            before = {
                name: stack.process(name).pid
                for name in stack.names
                if stack.process(name).is_running
            }
            assert len(before) == 3
        with nothing_restarted(system):
            await stack.wait_ready("web")
            await stack.wait_ready("callbacks")
            await system.wait_until_paid(await _pay_one_of_each_kind(system))
            assert {name: stack.process(name).pid for name in stack.names} == before


async def test_callbacks_finalize_payments_while_no_worker_runs(system: System) -> None:
    """The next worker continues with new payments."""
    receiver = system.stack.process("callbacks")
    receiver.freeze()
    try:
        payment_ids = await _pay_one_of_each_kind(system)
        for payment_id in payment_ids:
            await system.in_stage(payment_id, "awaiting_result")
        await system.stack.process("worker").kill()
    finally:
        receiver.thaw()
    await system.wait_until_paid(payment_ids)
    later = await system.withdrawal()
    await system.stack.start_process("worker")
    await system.wait_until_paid([later])


async def _status(system: System, name: str, path: str) -> int:
    """The status of a process's own page; 0 while nothing listens there."""
    try:
        async with system.http.get(f"{system.stack.process(name).url}{path}") as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return 0


async def _post(url: str, body: bytes) -> int:
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.post(url, data=body) as answer,
    ):
        return answer.status


def _success(payment: Any, receipt: str) -> bytes:
    """The callback that Daraja sends after the customer approved this deposit."""
    items = {
        "Amount": payment["amount"],
        "MpesaReceiptNumber": receipt,
        "TransactionDate": 20260301101530,
        "PhoneNumber": int(payment["phone_number"]),
    }
    result = {
        "MerchantRequestID": payment["provider_ids"]["merchant_request_id"][0],
        "CheckoutRequestID": payment["provider_ids"]["checkout_request_id"][0],
        "ResultCode": 0,
        "ResultDesc": "The service request is processed successfully.",
        "CallbackMetadata": {
            "Item": [{"Name": name, "Value": value} for name, value in items.items()]
        },
    }
    return json.dumps({"Body": {"stkCallback": result}}).encode()
