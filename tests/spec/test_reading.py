"""Reading: one payment, pages of payments, and a payment's history.

Each caller sees its own payments, and every parameter is checked.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.playing import begin
from tests.spec.requesting import (
    DEPOSIT,
    caller,
    expect_problem,
    new_subject,
    pointers,
    send_request,
)
from tests.spec.system import System
from tests.stack.client import Client


async def _page(client: Client, **query: str) -> Any:
    page = (await client.get("/v1/payments", **query)).expect(200).json()
    assert set(page) == {"items", "next_cursor"}
    return page


async def _deposits(client: Client, count: int, **more: Any) -> list[str]:
    """Makes deposits one after the other, each for another phone; their ids, oldest first."""
    ids = []
    for number in range(count):
        body = {**DEPOSIT, "phone_number": f"07130001{number:02}", **more}
        ids.append(str((await client.pay("/v1/deposits", body)).expect(202).json()["id"]))
    return ids


async def test_a_page_lists_the_callers_payments_newest_first(system: System) -> None:
    """Each item equals the payment read alone. No page has another user's payment."""
    async with caller(system, sub=new_subject()) as one, caller(system, sub=new_subject()) as other:
        mine, foreign = (
            await _deposits(one, 4),
            await _deposits(other, 1, phone_number="0713000199"),
        )
        for payment_id in [*mine, *foreign]:
            await system.settled(payment_id)
        page = await _page(one)
        assert ([item["id"] for item in page["items"]], page["next_cursor"]) == (mine[::-1], None)
        assert page["items"] == [await one.payment(payment_id) for payment_id in mine[::-1]]
        assert [item["id"] for item in (await _page(other))["items"]] == foreign


async def test_pages_list_every_payment_once_while_new_ones_arrive(system: System) -> None:
    """The cursor leads to every payment once, in order, whatever is created meanwhile."""
    async with caller(system, sub=new_subject()) as one:
        mine = await _deposits(one, 7)
        seen: list[str] = []
        cursor, late = None, 0
        while cursor is not None or not seen:
            page = await _page(one, limit="3", **({"cursor": cursor} if cursor else {}))
            assert len(page["items"]) <= 3
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            late += len(await _deposits(one, 1, phone_number=f"07130002{late:02}"))
        assert seen == mine[::-1]
        assert len((await _page(one, limit="100"))["items"]) == len(mine) + late


async def test_a_cursor_is_valid_only_with_its_filters(system: System) -> None:
    """Another page size is not another filter."""
    async with caller(system, sub=new_subject()) as one:
        mine = await _deposits(one, 3)
        cursor = (await _page(one, limit="1", kind="deposit"))["next_cursor"]
        page = await _page(one, limit="2", kind="deposit", cursor=cursor)
        assert [item["id"] for item in page["items"]] == mine[:2][::-1]
        assert pointers(
            expect_problem(await one.get("/v1/payments", cursor=cursor), 422, "invalid_request")
        ) == {"?cursor"}


@pytest.mark.parametrize(
    ("part", "forged"),
    [
        (1, "0"),
        (1, "9" * 16),
        (1, "-1"),
        (1, ""),
        (2, "0" * 32),
        (2, "f" * 32),
        (2, "7"),
        (3, "0" * 16),
        (3, "'; --"),
    ],
)
async def test_a_forged_cursor_is_answered_or_refused_by_name(
    system: System, part: int, forged: str
) -> None:
    """It never shows another's payment, and never causes an internal error."""
    async with caller(system, sub=new_subject()) as one:
        mine = await _deposits(one, 2)
        parts = (await _page(one, limit="1"))["next_cursor"].split("-")
        parts[part] = forged
        answer = await one.get("/v1/payments", cursor="-".join(parts))
        if answer.status == 200:
            assert {item["id"] for item in answer.json()["items"]} <= set(mine)
        else:
            assert pointers(expect_problem(answer, 422, "invalid_request")) == {"?cursor"}


async def test_each_filter_finds_exactly_the_matching_payments(system: System) -> None:
    """If a request has several filters, all of them must match."""
    await system.scenario("cancel", phone_number="254713000301")
    await system.scenario("wrong_amount", phone_number="254713000302")
    owner, key = new_subject(), str(uuid4())
    paid = await system.deposit(
        owner=None, phone_number="0713000300", account_reference=f"R{key[:8]}"
    )
    await system.settled(paid)
    async with caller(system, sub=owner) as one:
        body = {**DEPOSIT, "phone_number": "+254713000301", "account_reference": f"Q{key[:8]}"}
        failed = (await one.pay("/v1/deposits", body, key=key)).expect(202).json()["id"]
        [flagged] = await _deposits(one, 1, phone_number="0713000302")
        await system.settled(failed)
        await system.eventually(
            lambda: one.payment(flagged), lambda payment: payment["needs_review"]
        )
        created = {
            payment_id: (await one.payment(payment_id))["created_at"]
            for payment_id in (failed, flagged)
        }
        both = [flagged, failed]
        expected: list[tuple[dict[str, str], list[str]]] = [
            ({}, both),
            ({"kind": "deposit"}, both),
            ({"kind": "withdrawal"}, []),
            ({"status": "failed"}, [failed]),
            ({"status": "pending"}, [flagged]),
            ({"status": "success"}, []),
            ({"phone_number": "0713000301"}, [failed]),
            ({"phone_number": "254713000301"}, [failed]),
            ({"phone_number": "0713000300"}, []),
            ({"account_reference": f"Q{key[:8]}"}, [failed]),
            ({"idempotency_key": key}, [failed]),
            ({"needs_review": "true"}, [flagged]),
            ({"needs_review": "false"}, [failed]),
            ({"created_after": "2020-01-01T00:00:00Z"}, both),
            ({"created_before": "2020-01-01T00:00:00+03:00"}, []),
            ({"created_after": created[flagged].replace("Z", "999Z")}, []),
            ({"created_before": created[failed]}, []),
            (
                {"created_before": "9000-01-01T00:00:00Z", "status": "failed", "kind": "deposit"},
                [failed],
            ),
            ({"status": "failed", "needs_review": "true"}, []),
        ]
        for query, ids in expected:
            assert [item["id"] for item in (await _page(one, **query))["items"]] == ids, query
    receipt = (await system.payment(paid))["receipt"]
    assert [item["id"] for item in (await _page(system.backend, receipt=receipt))["items"]] == [
        paid
    ]
    found = (await _page(system.backend, account_reference=f"R{key[:8]}"))["items"]
    assert [item["id"] for item in found] == [paid]


async def test_a_backend_lists_all_payments(system: System) -> None:
    """The items have the members for backends, which a user never sees."""
    async with caller(system, sub=new_subject()) as one:
        [payment_id] = await _deposits(one, 1, phone_number="0713000400")
        await system.settled(payment_id)
        item = next(
            item for item in (await _page(system.backend))["items"] if item["id"] == payment_id
        )
        assert {"idempotency_key", "recipient_name", "provider_ids"} <= set(item)
        assert set(item["provider_ids"]) == {"checkout_request_id", "merchant_request_id"}
        [seen] = (await _page(one))["items"]
        assert set(item) - set(seen) == {"idempotency_key", "recipient_name", "provider_ids"}


@pytest.mark.parametrize("limit", ["1", "100"])
async def test_a_page_has_no_more_payments_than_the_limit(system: System, limit: str) -> None:
    """`limit` is from 1 to 100."""
    await asyncio.gather(*(system.backend.pay("/v1/deposits", DEPOSIT) for _ in range(3)))
    assert 1 <= len((await _page(system.backend, limit=limit))["items"]) <= int(limit)


async def test_a_history_lists_each_step_once(system: System) -> None:
    """Numbered from 1, oldest first. Each entry begins at the stage where the last one ended."""
    payment_id = await begin(system, "stk", "cancel")
    await system.settled(payment_id)
    history = await system.backend.history(payment_id)
    assert [item["sequence"] for item in history] == [1, 2, 3, 4]
    assert [item["what"] for item in history] == [
        "accepted",
        "claimed",
        "acknowledged",
        "failure_reported",
    ]
    assert [item["previous_stage"] for item in history] == [
        None,
        *(item["stage"] for item in history[:-1]),
    ]
    assert [item["at"] for item in history] == sorted(item["at"] for item in history)
    payment = await system.payment(payment_id)
    assert (history[0]["at"], history[-1]["at"]) == (payment["created_at"], payment["finalized_at"])
    assert history[-1]["detail"]["provider_code"] == "1032"


async def _grow_history(system: System, payment_id: str, length: int) -> None:
    """Makes the history `length` entries long, as years of inquiries would."""
    sql = """
        INSERT INTO mkwanja.payment_history
            (id, payment_id, sequence, recorded_at, what, stage, detail)
        SELECT gen_random_uuid(), $1::uuid, number, now(), 'inquired', 'succeeded', '{}'
        FROM generate_series(
            (SELECT max(sequence) + 1 FROM mkwanja.payment_history WHERE payment_id = $1::uuid), $2
        ) AS number"""
    await system.execute(sql, payment_id, length)


@pytest.mark.parametrize("limit", [None, "1", "7", "99", "100"])
async def test_a_long_history_can_be_read_whole(system: System, limit: str | None) -> None:
    """Page by page, oldest first, each entry once. The last page has no cursor."""
    payment_id = await system.deposit()
    await system.settled(payment_id)
    length = 1_500 if limit is None else 201
    await _grow_history(system, payment_id, length)
    query = {} if limit is None else {"limit": limit}
    seen: list[int] = []
    while True:
        page = (
            (await system.backend.get(f"/v1/payments/{payment_id}/history", **query))
            .expect(200)
            .json()
        )
        assert set(page) == {"items", "next_cursor"}
        assert 0 < len(page["items"]) <= int(limit or 100)
        seen += [item["sequence"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == list(range(1, length + 1))


async def test_a_cursor_of_one_history_is_refused_by_every_other_list(system: System) -> None:
    """Nor does it show its bearer another caller's payment."""
    one, other = await system.deposit(), await system.deposit()
    await system.settled(one)
    await system.settled(other)
    cursor = (
        (await system.backend.get(f"/v1/payments/{one}/history", limit="1"))
        .expect(200)
        .json()["next_cursor"]
    )
    for path, name in (
        (f"/v1/payments/{other}/history", "cursor"),
        ("/v1/payments", "cursor"),
        ("/v1/events", "after"),
    ):
        answer = await system.backend.get(path, **{name: cursor})
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {f"?{name}"}, path
    async with caller(system, sub=new_subject()) as stranger:
        answer = await stranger.get(f"/v1/payments/{one}/history", cursor=cursor)
        expect_problem(answer, 404, "payment_not_found")


@pytest.mark.parametrize("wait", ["0", "1", "60"])
async def test_a_wait_for_a_final_payment_returns_it(system: System, wait: str) -> None:
    """`wait` accepts whole seconds up to 60."""
    payment_id = await system.deposit(phone_number="0713000500")
    settled = await system.settled(payment_id)
    assert (await system.backend.get(f"/v1/payments/{payment_id}", wait=wait)).expect(
        200
    ).json() == settled


_QUERIES = [
    ("/v1/payments", "kind=loan", "?kind"),
    ("/v1/payments", "status=done", "?status"),
    ("/v1/payments", "phone_number=12", "?phone_number"),
    ("/v1/payments", "needs_review=yes", "?needs_review"),
    ("/v1/payments", "created_after=yesterday", "?created_after"),
    ("/v1/payments", "created_after=2026-03-01T07:15:00", "?created_after"),
    ("/v1/payments", "created_before=2026-13-01T07:15:00Z", "?created_before"),
    ("/v1/payments", "limit=0", "?limit"),
    ("/v1/payments", "limit=101", "?limit"),
    ("/v1/payments", "limit=-1", "?limit"),
    ("/v1/payments", "limit=ten", "?limit"),
    ("/v1/payments", "limit=1.0", "?limit"),
    ("/v1/payments", "limit=", "?limit"),
    ("/v1/payments", "limit=%D9%A1", "?limit"),
    ("/v1/payments", "limit=5&limit=6", "?limit"),
    ("/v1/payments", "colour=red", "?colour"),
    ("/v1/payments", "receipt=a%00b", "?receipt"),
    ("/v1/payments", "account_reference=%00", "?account_reference"),
    ("/v1/payments", "cursor=", "?cursor"),
    ("/v1/payments", "cursor=rubbish", "?cursor"),
    ("/v1/payments", "cursor=e30", "?cursor"),
    ("/v1/payments", "cursor=WzEsMiwzXQ", "?cursor"),
    ("/v1/payments", "cursor=%C3%A9", "?cursor"),
    ("/v1/payments/ID", "wait=61", "?wait"),
    ("/v1/payments/ID", "wait=-1", "?wait"),
    ("/v1/payments/ID", "wait=1.5", "?wait"),
    ("/v1/payments/ID", "wait=soon", "?wait"),
    ("/v1/payments/ID", "wait=", "?wait"),
    ("/v1/payments/ID", "hold=1", "?hold"),
    ("/v1/payments/ID/history", "limit=0", "?limit"),
    ("/v1/payments/ID/history", "limit=101", "?limit"),
    ("/v1/payments/ID/history", "limit=5&limit=6", "?limit"),
    ("/v1/payments/ID/history", "cursor=", "?cursor"),
    ("/v1/payments/ID/history", "cursor=history-0-0199a0b1c2d37e4f8a5b6c7d8e9f0a1b", "?cursor"),
    ("/v1/payments/ID/history", "cursor=history-1", "?cursor"),
    ("/v1/payments/ID/history", "cursor=events-1", "?cursor"),
    ("/v1/payments/ID/history", "after=events-1", "?after"),
    ("/v1/payments/ID/history", "wait=1", "?wait"),
    ("/v1/payments/ID/history", "colour=red", "?colour"),
]


async def test_the_problem_names_a_wrong_query_parameter(system: System) -> None:
    """It is unknown or repeated, or it has a wrong value."""
    payment_id = await system.deposit()
    for path, query, name in _QUERIES:
        answer = await send_request(system, "GET", f"{path.replace('ID', payment_id)}?{query}")
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {name}, query


@pytest.mark.parametrize("name", ["created_after", "created_before"])
@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z"]
)
async def test_a_time_at_the_edge_of_the_calendar_causes_no_internal_error(
    system: System, name: str, moment: str
) -> None:
    """It is answered, or refused by name."""
    answer = await send_request(system, "GET", f"/v1/payments?{name}={moment}")
    if answer.status != 200:
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {f"?{name}"}
