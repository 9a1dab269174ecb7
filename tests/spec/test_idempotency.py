"""Idempotency keys: a repeated request gets the first answer, and money moves once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.spec.playing import count_sends, sweep
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    caller,
    expect_problem,
    new_subject,
    post,
    send_request,
)
from tests.spec.system import System

_ROUTES = {
    "/v1/deposits": DEPOSIT,
    "/v1/withdrawals": WITHDRAWAL,
    "/v1/bill-payments": BILL_PAYMENT,
    "/v1/pochi-payments": POCHI_PAYMENT,
}

_EXPIRE_KEY = (
    "UPDATE mkwanja.idempotency_keys SET expires_at = now() - interval '1 hour' WHERE key = $1"
)
_AGE_PAYMENT = (
    "UPDATE mkwanja.payments SET updated_at = now() - interval '25 hours' WHERE id = $1::uuid"
)


async def flush_redis(system: System) -> None:
    """Redis may lose everything at any moment."""
    redis: Redis = Redis.from_url(system.stack.redis_url)
    await redis.flushdb()
    await redis.aclose()


async def payments_of(system: System, key: str) -> list[Any]:
    """The payments stored under a key."""
    return await system.rows(
        "SELECT id::text FROM mkwanja.payments WHERE idempotency_key = $1", key
    )


@pytest.mark.parametrize("path", _ROUTES)
async def test_a_hundred_concurrent_requests_with_one_key_make_one_payment(
    system: System, path: str
) -> None:
    """Daraja gets one request. All answers are equal, and 99 of them are marked as replays."""
    key = str(uuid4())
    answers = await asyncio.gather(
        *(system.backend.pay(path, _ROUTES[path], key=key) for _ in range(100))
    )
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert sum(answer.was_replayed for answer in answers) == 99
    [row] = await payments_of(system, key)
    assert (await system.settled(row["id"]))["status"] == "success"
    assert await count_sends(system, row["id"]) == 1
    await system.assert_money_agrees([row["id"]])


async def test_a_retry_of_a_finished_payment_gets_the_first_answer(system: System) -> None:
    """The body and the Location are the same. Idempotency-Replayed marks the retry."""
    key = str(uuid4())
    first = (await system.user.pay("/v1/deposits", DEPOSIT, key=key)).expect(202)
    assert "Idempotency-Replayed" not in first.headers
    await system.settled(first.json()["id"])
    again = (await system.user.pay("/v1/deposits", DEPOSIT, key=key)).expect(202)
    assert (again.body, again.was_replayed) == (first.body, True)
    assert (
        again.headers["Location"]
        == first.headers["Location"]
        == f"/v1/payments/{first.json()['id']}"
    )


async def test_a_flushed_redis_changes_no_answer(system: System) -> None:
    """Without the copy in Redis, the retry is answered from PostgreSQL with the same bytes."""
    key = str(uuid4())
    first = (await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=key)).expect(202)
    await flush_redis(system)
    again = (await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=key)).expect(202)
    assert (again.body, again.was_replayed) == (first.body, True)
    assert (await system.settled(first.json()["id"]))["status"] == "success"
    await system.assert_money_agrees([first.json()["id"]])


async def test_json_that_differs_only_in_form_is_the_same_request(system: System) -> None:
    """Other white space, another order of members, an escaped character."""
    key = str(uuid4())
    first = (
        await post(system, "/v1/deposits", {**DEPOSIT, "description": "Chai"}, key=key)
    ).expect(202)
    for text in (
        '{"description":"Chai","phone_number":"0711000111","amount":250}',
        '\n {"amount" :250 , "description": "\\u0043hai", "phone_number": "0711000111"}\t',
    ):
        again = (await post(system, "/v1/deposits", text.encode(), key=key)).expect(202)
        assert (again.body, again.was_replayed) == (first.body, True)


@pytest.mark.parametrize(
    "other",
    [
        {**DEPOSIT, "amount": 251},
        {**DEPOSIT, "phone_number": "+254711000111"},
        {**DEPOSIT, "description": "Payment"},
        {**DEPOSIT, "metadata": {}},
        {**DEPOSIT, "metadata": None},
    ],
)
async def test_a_key_with_another_body_is_refused(system: System, other: Any) -> None:
    """Also if the other body would have had the same effect."""
    key = str(uuid4())
    (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202)
    problem = expect_problem(
        await post(system, "/v1/deposits", other, key=key), 422, "idempotency_key_reused"
    )
    assert problem["retryable"] is False
    assert len(await payments_of(system, key)) == 1


async def test_a_key_on_another_route_is_refused(system: System) -> None:
    """The same body on another route is another request."""
    key = str(uuid4())
    (await system.backend.pay("/v1/deposits", WITHDRAWAL, key=key)).expect(202)
    expect_problem(
        await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=key),
        422,
        "idempotency_key_reused",
    )
    assert len(await payments_of(system, key)) == 1


async def test_a_key_belongs_to_its_caller(system: System) -> None:
    """Two callers may use the same key. Each gets a payment of its own."""
    key = str(uuid4())
    async with caller(system, sub=new_subject()) as one, caller(system, sub=new_subject()) as other:
        first = (await one.pay("/v1/deposits", DEPOSIT, key=key)).expect(202)
        second = (
            await other.pay("/v1/deposits", {**DEPOSIT, "phone_number": "0711000112"}, key=key)
        ).expect(202)
    assert not second.was_replayed
    assert {first.json()["id"], second.json()["id"]} == {
        row["id"] for row in await payments_of(system, key)
    }


async def test_both_header_names_carry_the_same_key(system: System) -> None:
    """A retry may send the key in the standard header Idempotency-Key, plain or quoted."""
    key = str(uuid4())
    first = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202)
    for value in (key, f'"{key}"'):
        headers = [("Idempotency-Key", value), ("Content-Type", "application/json")]
        again = await send_request(
            system, "POST", "/v1/deposits", headers=headers, data=json.dumps(DEPOSIT).encode()
        )
        assert (again.expect(202).body, again.was_replayed) == (first.body, True)


async def test_the_key_of_a_refused_request_is_still_free(system: System) -> None:
    """Neither an invalid request nor one that is not permitted uses it up."""
    key = str(uuid4())
    expect_problem(
        await post(system, "/v1/deposits", {**DEPOSIT, "amount": 0}, key=key),
        422,
        "invalid_request",
    )
    expect_problem(await post(system, "/v1/withdrawals", WITHDRAWAL, key=key), 403, "not_permitted")
    answer = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202)
    assert not answer.was_replayed


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_a_retry_is_replayed_before_its_request_is_checked(
    system: System, is_flushed: bool
) -> None:
    """Also if its caller may no longer make it, or its body is no longer valid."""
    sub, withdrawal_key, deposit_key = new_subject(), str(uuid4()), str(uuid4())
    owned = {**DEPOSIT, "owner": "another"}  # a user may not name an owner
    async with (
        caller(system, sub=sub, role="service_role") as backend,
        caller(system, sub=sub) as user,
    ):
        paid_out = (await backend.pay("/v1/withdrawals", WITHDRAWAL, key=withdrawal_key)).expect(
            202
        )
        paid_in = (await backend.pay("/v1/deposits", owned, key=deposit_key)).expect(202)
        if is_flushed:
            await flush_redis(system)
        for path, body, key, first in (
            ("/v1/withdrawals", WITHDRAWAL, withdrawal_key, paid_out),
            ("/v1/deposits", owned, deposit_key, paid_in),
        ):
            again = (await user.pay(path, body, key=key)).expect(202)
            assert (again.body, again.was_replayed) == (first.body, True)
        expect_problem(await user.pay("/v1/withdrawals", WITHDRAWAL), 403, "not_permitted")
        expect_problem(await user.pay("/v1/deposits", owned), 422, "invalid_request")


async def test_an_expired_key_of_a_finished_payment_is_free(system: System) -> None:
    """The payment must have been final and settled for as long as a key lives."""
    key = str(uuid4())
    first = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202).json()
    await system.settled(first["id"])
    await system.execute(_EXPIRE_KEY, key)
    await system.execute(_AGE_PAYMENT, first["id"])
    await flush_redis(system)
    other = {**DEPOSIT, "amount": 251}
    second = (await post(system, "/v1/deposits", other, key=key)).expect(202)
    assert (second.was_replayed, second.json()["id"] == first["id"]) == (False, False)
    again = (await post(system, "/v1/deposits", other, key=key)).expect(202)
    assert (again.body, again.was_replayed) == (second.body, True)
    await system.settled(second.json()["id"])
    await system.assert_money_agrees([first["id"], second.json()["id"]])


_AGE_AND_FLAG = _AGE_PAYMENT.replace("SET", "SET needs_review = true,")
_AGE_WITH_INQUIRY_DUE = _AGE_PAYMENT.replace(
    "SET", "SET next_step_at = now() + interval '1 day', next_step = 'query',"
)

_NOT_FREE = {
    "it is still open": ("lost_callback", [_EXPIRE_KEY, _AGE_PAYMENT]),
    "it needs review": ("approve", [_EXPIRE_KEY, _AGE_AND_FLAG]),
    "it is final for less than a day": ("approve", [_EXPIRE_KEY]),
    "an inquiry about it is due": ("approve", [_EXPIRE_KEY, _AGE_WITH_INQUIRY_DUE]),
    "the key has not expired": ("approve", [_AGE_PAYMENT]),
}


@pytest.mark.parametrize("reason", _NOT_FREE)
async def test_a_key_is_not_free_while_its_payment_can_change(system: System, reason: str) -> None:
    """Even an expired key is not free while its payment can change or is only just final."""
    scenario, changes = _NOT_FREE[reason]
    await system.scenario(scenario)
    key = str(uuid4())
    first = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202)
    payment_id = first.json()["id"]
    await system.in_stage(payment_id, "succeeded" if scenario == "approve" else "awaiting_result")
    for sql in changes:
        await system.execute(sql, key if sql == _EXPIRE_KEY else payment_id)
    await flush_redis(system)
    again = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202)
    assert (again.body, again.was_replayed) == (first.body, True)
    expect_problem(
        await post(system, "/v1/deposits", {**DEPOSIT, "amount": 3}, key=key),
        422,
        "idempotency_key_reused",
    )
    assert len(await payments_of(system, key)) == 1


@asynccontextmanager
async def _first_request_in_flight(system: System, key: str) -> AsyncIterator[None]:
    """The key is inserted and not committed, as by another process; undone at the end."""
    payment_id = (await post(system, "/v1/deposits", DEPOSIT)).expect(202).json()["id"]
    connection = await asyncpg.connect(system.stack.database_url, statement_cache_size=0)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(
            "INSERT INTO mkwanja.idempotency_keys"
            " SELECT caller_key, $1, fingerprint, payment_id, answer_status,"
            " answer_body, created_at, expires_at FROM mkwanja.idempotency_keys"
            " WHERE payment_id = $2::uuid",
            key,
            payment_id,
        )
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_a_retry_waits_for_a_first_request_in_flight_and_then_gets_409(
    system: System,
) -> None:
    """The 409 carries Retry-After. When the first request has ended, the key can be used."""
    key = str(uuid4())
    async with _first_request_in_flight(system, key):
        waiting = asyncio.create_task(post(system, "/v1/deposits", DEPOSIT, key=key))
        (await post(system, "/v1/deposits", {**DEPOSIT, "phone_number": "0711000119"})).expect(202)
        answer = await waiting
    assert expect_problem(answer, 409, "idempotency_key_in_flight")["retryable"] is True
    assert int(answer.headers["Retry-After"]) > 0
    assert not (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202).was_replayed


async def test_a_replay_of_a_payment_in_doubt_does_not_send_it_again(system: System) -> None:
    await system.scenario("answer_and_callback_lost")
    key = str(uuid4())
    first = (await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=key)).expect(202)
    payment_id = first.json()["id"]
    await system.in_stage(payment_id, "in_doubt")
    for _ in range(5):
        again = await system.backend.pay("/v1/withdrawals", WITHDRAWAL, key=key)
        assert (again.body, again.was_replayed) == (first.body, True)
    await sweep(system, [payment_id])
    assert await count_sends(system, payment_id) == 1
    assert len(await system.eventually(lambda: system.movements(payment_id))) == 1
