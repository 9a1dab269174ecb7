"""PostgreSQL, Redis or a worker goes away: every promise holds, no process needs a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from uuid import uuid4

import aiohttp
import pytest

from tests.spec.conftest import a_system
from tests.spec.delivering import deliver
from tests.spec.in_doubt import load_awaited, receipt_of
from tests.spec.playing import begin
from tests.spec.recovering import nothing_restarted
from tests.spec.requesting import BILL_PAYMENT, DEPOSIT, WITHDRAWAL, expect_problem
from tests.spec.system import System
from tests.stack.client import Answer
from tests.stack.external import GivenPostgres, GivenRedis
from tests.stack.servers import PostgresServer, RedisServer

Server = PostgresServer | RedisServer | GivenPostgres | GivenRedis

_PAYERS = 8
_PAYMENTS_EACH = 9


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system() as system:
        yield system


def _require_ours(server: Server) -> None:
    if not server.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")


@asynccontextmanager
async def _stopped(server: Server) -> AsyncIterator[None]:
    _require_ours(server)
    await server.stop()
    try:
        yield
    finally:
        await server.start()


async def _pay_one_of_each_kind(system: System) -> list[str]:
    return [await system.deposit(), await system.withdrawal(), await system.bill_payment()]


def _assert_unavailable(answer: Answer) -> None:
    assert expect_problem(answer, 503, "unavailable")["retryable"]
    assert int(answer.headers["Retry-After"]) >= 1


# --- Redis ----------------------------------------------------------------------------------------


async def test_payments_are_accepted_while_redis_is_stopped(system: System) -> None:
    """The ingress answers 202 without Redis. Once Redis is back, each payment is paid once."""
    with nothing_restarted(system):
        async with _stopped(system.stack.redis):
            payment_ids = await _pay_one_of_each_kind(system)
            assert await system.stage_counts(payment_ids) == {"accepted": 3}
        await system.wait_until_paid(payment_ids)


async def test_payments_are_accepted_while_redis_is_frozen(system: System) -> None:
    """A Redis that accepts connections and never answers delays a caller for a moment only."""
    redis = system.stack.redis
    _require_ours(redis)
    with nothing_restarted(system):
        redis.freeze()
        try:
            payment_ids = await _pay_one_of_each_kind(system)
        finally:
            redis.thaw()
        await system.wait_until_paid(payment_ids)


# --- Postgres -------------------------------------------------------------------------------------


async def test_every_request_gets_503_while_postgres_is_stopped(system: System) -> None:
    """The 503 is retryable. Afterwards the same key succeeds and makes one payment."""
    pay = partial(system.user.pay, "/v1/deposits", DEPOSIT, key=str(uuid4()))
    known = await system.deposit()
    await system.settled(known)
    with nothing_restarted(system):
        async with _stopped(system.stack.postgres):
            _assert_unavailable(await pay())
            _assert_unavailable(await system.user.get(f"/v1/payments/{known}"))
            _assert_unavailable(await system.user.get("/v1/payments"))
            assert await _status(system, "web", "/readyz") == 503
            assert await _status(system, "web", "/healthz") == 200
        answer = (await pay()).expect(202)
        assert not answer.was_replayed
        await system.wait_until_paid([answer.json()["id"]])
        assert (await pay()).body == answer.body


async def test_a_callback_that_comes_while_postgres_is_away_is_stored_when_it_is_back(
    system: System,
) -> None:
    """Daraja sends a callback once and waits. The receiver tries until the callback is stored."""
    payment_id = await begin(system, "stk", "lost_callback")
    await system.in_stage(payment_id, "awaiting_result")
    awaited = await load_awaited(system, payment_id, "stk")
    receipt = await receipt_of(system, payment_id)
    with nothing_restarted(system):
        async with _stopped(system.stack.postgres):
            callback = asyncio.create_task(
                deliver(system, awaited.url, awaited.result(receipt=receipt))
            )
            await asyncio.sleep(0.5)  # the receiver tries to store it and fails
            assert not callback.done()
        assert (await callback).status == 200
    assert (await system.settled(payment_id))["receipt"] == receipt
    assert len(await system.callbacks(payment_id)) == 1
    await system.wait_until_paid([payment_id])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("end", ["restarted", "killed"])
async def test_every_payment_settles_after_postgres_restarts_under_load(
    system: System, end: str
) -> None:
    """Callers retry with their keys until they succeed. Every payment is paid once."""
    postgres = system.stack.postgres
    _require_ours(postgres)
    requests = [("/v1/withdrawals", WITHDRAWAL), ("/v1/bill-payments", BILL_PAYMENT)]
    payment_ids: list[str] = []
    under_way = asyncio.Event()

    async def pay(payer: int) -> None:
        for number in range(_PAYMENTS_EACH):
            # Each deposit has its own phone number, because Daraja shows one prompt on a phone.
            deposit = DEPOSIT | {"phone_number": f"07111{payer}00{number:02}"}
            path, body = [("/v1/deposits", deposit), *requests][(payer + number) % 3]
            retry = partial(system.backend.pay, path, body, key=str(uuid4()))
            answer = await system.eventually(retry, lambda answer: answer.status != 503)
            payment_ids.append(answer.expect(202).json()["id"])
            if len(payment_ids) >= _PAYERS * 2:
                under_way.set()

    with nothing_restarted(system):
        async with asyncio.TaskGroup() as payers:
            for payer in range(_PAYERS):
                payers.create_task(pay(payer))
            await under_way.wait()
            await (postgres.stop() if end == "restarted" else postgres.kill())
            await postgres.start()
        assert len(set(payment_ids)) == _PAYERS * _PAYMENTS_EACH
        await system.wait_until_paid(payment_ids)


# --- processes ------------------------------------------------------------------------------------


async def test_processes_start_before_postgres_and_redis() -> None:
    """The processes report that they are not ready, and serve once both servers are there."""
    async with a_system(processes=()) as system:
        stack = system.stack
        async with AsyncExitStack() as outage:
            for server in (stack.postgres, stack.redis):
                await outage.enter_async_context(_stopped(server))
            for name in ("web", "callbacks", "worker"):
                await stack.start_process(name, wait=False)
            await stack.wait_ready("worker")
            for name in ("web", "callbacks"):
                await system.eventually(
                    partial(_status, system, name, "/readyz"), lambda status: status == 503
                )
                assert await _status(system, name, "/healthz") == 200
            _assert_unavailable(await system.user.pay("/v1/deposits", DEPOSIT))
            with nothing_restarted(system):
                await outage.aclose()
                await stack.wait_ready("web")
                await stack.wait_ready("callbacks")
                await system.wait_until_paid(await _pay_one_of_each_kind(system))


async def test_callbacks_finalize_payments_while_no_worker_runs(system: System) -> None:
    """A worker that starts later sends the payments that were accepted meanwhile."""
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
