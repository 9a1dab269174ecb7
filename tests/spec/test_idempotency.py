"""Idempotency keys: a repeated request gets the first answer, and money moves once.

`tests/integration/test_store_accepting.py` tests how PostgreSQL stores the keys.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.playing import count_sends
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
from tests.stack.client import Answer

_ROUTES = {
    "/v1/deposits": DEPOSIT,
    "/v1/withdrawals": WITHDRAWAL,
    "/v1/bill-payments": BILL_PAYMENT,
    "/v1/pochi-payments": POCHI_PAYMENT,
}


async def flush_redis(system: System) -> None:
    """Deletes all data of Redis."""
    redis: Redis = Redis.from_url(system.stack.redis_url)
    await redis.flushdb()
    await redis.aclose()


async def payments_of(system: System, key: str) -> list[str]:
    """The ids of the payments that were accepted with `key`."""
    sql = "SELECT id::text FROM mkwanja.payments WHERE idempotency_key = $1"
    return [row["id"] for row in await system.rows(sql, key)]


def assert_replayed(answer: Answer, first: Answer) -> None:
    """`answer` has the body and the location of `first`, and is marked as a replay."""
    assert (answer.expect(202).body, answer.was_replayed) == (first.body, True)
    assert answer.headers["Location"] == first.headers["Location"]


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
    assert len({(answer.body, answer.headers["Location"]) for answer in answers}) == 1
    assert sum(answer.was_replayed for answer in answers) == 99
    [payment_id] = await payments_of(system, key)
    assert (await system.settled(payment_id))["status"] == "success"
    assert await count_sends(system, payment_id) == 1
    await system.assert_money_agrees([payment_id])


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_a_retry_of_a_finished_payment_gets_the_first_answer(
    system: System, *, is_flushed: bool
) -> None:
    """The retry gets the same bytes, even if Redis has lost the copy of the answer."""
    key = str(uuid4())
    first = (await system.user.pay("/v1/deposits", DEPOSIT, key=key)).expect(202)
    payment_id = first.json()["id"]
    assert "Idempotency-Replayed" not in first.headers
    assert first.headers["Location"] == f"/v1/payments/{payment_id}"
    await system.settled(payment_id)
    if is_flushed:
        await flush_redis(system)
    assert_replayed(await system.user.pay("/v1/deposits", DEPOSIT, key=key), first)
    await system.assert_money_agrees([payment_id])


async def test_a_retry_that_writes_the_same_json_and_key_differently_is_a_replay(
    system: System,
) -> None:
    """The retries write the JSON in another way, and each retry names the key in another way.

    The JSON's members have another order, one character is escaped, and there are more spaces.
    """
    key = str(uuid4())
    first = await post(system, "/v1/deposits", {**DEPOSIT, "description": "Chai"}, key=key)
    body = b'\n {"description": "\\u0043hai", "phone_number":"0711000111", "amount" :250}\t'
    for name, value in (
        ("X-Idempotency-Key", key),
        ("Idempotency-Key", key),
        ("Idempotency-Key", f'"{key}"'),
    ):
        headers = [(name, value), ("Content-Type", "application/json")]
        again = await send_request(system, "POST", "/v1/deposits", headers=headers, data=body)
        assert_replayed(again, first)


async def test_a_used_key_with_another_body_or_route_is_refused(system: System) -> None:
    """A body that adds `"metadata": null` differs too, although it would make an equal payment."""
    key, routes = str(uuid4()), ("/v1/deposits", "/v1/withdrawals")
    (await system.backend.pay(routes[0], WITHDRAWAL, key=key)).expect(202)
    for path, body in (
        (routes[0], {**WITHDRAWAL, "amount": 251}),
        (routes[0], {**WITHDRAWAL, "metadata": None}),
        (routes[1], WITHDRAWAL),
    ):
        answer = await system.backend.pay(path, body, key=key)
        assert expect_problem(answer, 422, "idempotency_key_reused")["retryable"] is False
    assert len(await payments_of(system, key)) == 1


async def test_a_key_belongs_to_its_caller(system: System) -> None:
    """Two callers use the same key. Each caller gets a payment of its own."""
    key = str(uuid4())
    async with caller(system, sub=new_subject()) as one, caller(system, sub=new_subject()) as other:
        first = (await one.pay("/v1/deposits", DEPOSIT, key=key)).expect(202)
        body = {**DEPOSIT, "phone_number": "0711000112"}
        second = (await other.pay("/v1/deposits", body, key=key)).expect(202)
    assert not second.was_replayed
    assert {first.json()["id"], second.json()["id"]} == set(await payments_of(system, key))


async def test_the_key_of_a_refused_request_is_still_free(system: System) -> None:
    """The first request is invalid, and the second is not permitted. The third makes a payment."""
    key = str(uuid4())
    invalid = await post(system, "/v1/deposits", {**DEPOSIT, "amount": 0}, key=key)
    expect_problem(invalid, 422, "invalid_request")
    expect_problem(await post(system, "/v1/withdrawals", WITHDRAWAL, key=key), 403, "not_permitted")
    assert not (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202).was_replayed


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_a_retry_gets_the_first_answer_even_if_the_request_is_refused_now(
    system: System, *, is_flushed: bool
) -> None:
    """A backend makes two payments. Then a user with the same `sub` repeats the requests.

    The payments are a withdrawal, and a deposit that names an owner. With a new key, the service
    refuses the same requests of this user.
    """
    sub, owned = new_subject(), {**DEPOSIT, "owner": "another"}  # a user may not name an owner
    requests: list[tuple[str, Any, str]] = [
        ("/v1/withdrawals", WITHDRAWAL, "not_permitted"),
        ("/v1/deposits", owned, "invalid_request"),
    ]
    async with (
        caller(system, sub=sub, role="service_role") as backend,
        caller(system, sub=sub) as user,
    ):
        for path, body, refusal in requests:
            key = str(uuid4())
            first = (await backend.pay(path, body, key=key)).expect(202)
            if is_flushed:
                await flush_redis(system)
            assert_replayed(await user.pay(path, body, key=key), first)
            assert (await user.pay(path, body)).json()["code"] == refusal


async def test_an_expired_key_of_a_finished_payment_is_free(system: System) -> None:
    """A key is not free as soon as it expires. The payment must also be unchanged for 24 hours.

    Until both are true, the service refuses another request with the key.
    """
    key, other = str(uuid4()), {**DEPOSIT, "amount": 251}
    first = (await post(system, "/v1/deposits", DEPOSIT, key=key)).expect(202).json()
    await system.settled(first["id"])
    for sql in (
        (
            "UPDATE mkwanja.idempotency_keys SET expires_at = now() - interval '1 hour'"
            " WHERE payment_id = $1::uuid"
        ),
        "UPDATE mkwanja.payments SET updated_at = now() - interval '25 hours' WHERE id = $1::uuid",
    ):
        expect_problem(
            await post(system, "/v1/deposits", other, key=key), 422, "idempotency_key_reused"
        )
        await system.execute(sql, first["id"])
        await flush_redis(system)
    second = (await post(system, "/v1/deposits", other, key=key)).expect(202)
    assert (second.was_replayed, second.json()["id"] == first["id"]) == (False, False)
    assert_replayed(await post(system, "/v1/deposits", other, key=key), second)
    await system.settled(second.json()["id"])
    await system.assert_money_agrees([first["id"], second.json()["id"]])
