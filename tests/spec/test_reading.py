"""Reading: one payment, pages of payments, and a payment's history.

Each caller sees its own payments, and every parameter is checked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
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
    """Each item equals the answer to a read of that payment. Other users' payments are absent."""
    async with caller(system, sub=new_subject()) as one, caller(system, sub=new_subject()) as other:
        mine = await _deposits(one, 4)
        foreign = await _deposits(other, 1, phone_number="0713000199")
        for payment_id in [*mine, *foreign]:
            await system.settled(payment_id)
        page = await _page(one)
        assert ([item["id"] for item in page["items"]], page["next_cursor"]) == (mine[::-1], None)
        assert page["items"] == [await one.payment(payment_id) for payment_id in mine[::-1]]
        assert [item["id"] for item in (await _page(other))["items"]] == foreign


async def test_pages_list_every_payment_once_while_new_ones_arrive(system: System) -> None:
    """The pages show each older payment once and in order, even if new ones are made meanwhile."""
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


async def test_a_forged_cursor_is_answered_or_refused_by_name(system: System) -> None:
    """No cursor shows another caller's payment, and none causes an internal error."""
    async with caller(system, sub=new_subject()) as one:
        mine = await _deposits(one, 2)
        genuine = (await _page(one, limit="1"))["next_cursor"].split("-")
        for part, forged in ((1, "9" * 16), (1, "-1"), (2, "f" * 32), (3, "0" * 16), (3, "'; --")):
            cursor = "-".join([*genuine[:part], forged, *genuine[part + 1 :]])
            answer = await one.get("/v1/payments", cursor=cursor)
            if answer.status == 200:
                assert {item["id"] for item in answer.json()["items"]} <= set(mine)
            else:
                assert pointers(expect_problem(answer, 422, "invalid_request")) == {"?cursor"}


async def test_each_filter_finds_exactly_the_matching_payments(system: System) -> None:
    """If a request has several filters, all of them must match."""
    await system.scenario("cancel", phone_number="254713000301")
    await system.scenario("wrong_amount", phone_number="254713000302")
    owner, key = new_subject(), str(uuid4())
    paid = await system.deposit(phone_number="0713000300")
    await system.settled(paid)
    async with caller(system, sub=owner) as one:
        body = {**DEPOSIT, "phone_number": "+254713000301", "account_reference": f"Q{key[:8]}"}
        failed = (await one.pay("/v1/deposits", body, key=key)).expect(202).json()["id"]
        [flagged] = await _deposits(one, 1, phone_number="0713000302")
        await system.settled(failed)
        await system.eventually(
            lambda: one.payment(flagged), lambda payment: payment["needs_review"]
        )
        begun = (await one.payment(failed))["created_at"]
        last = datetime.fromisoformat((await one.payment(flagged))["created_at"])
        ended = f"{last + timedelta(milliseconds=1):%Y-%m-%dT%H:%M:%S.%fZ}"
        both = [flagged, failed]
        expected: list[tuple[dict[str, str], list[str]]] = [
            ({}, both),
            ({"kind": "deposit"}, both),
            ({"kind": "withdrawal"}, []),
            ({"status": "failed"}, [failed]),
            ({"status": "pending"}, [flagged]),
            ({"status": "success"}, []),
            ({"phone_number": "0713000301"}, [failed]),
            ({"phone_number": "0713000300"}, []),
            ({"account_reference": f"Q{key[:8]}"}, [failed]),
            ({"idempotency_key": key}, [failed]),
            ({"needs_review": "true"}, [flagged]),
            ({"needs_review": "false"}, [failed]),
            ({"created_after": begun, "created_before": ended}, both),
            ({"created_after": ended}, []),
            ({"created_before": begun}, []),
            ({"status": "failed", "needs_review": "true"}, []),
        ]
        for query, ids in expected:
            assert [item["id"] for item in (await _page(one, **query))["items"]] == ids, query
    receipt = (await system.payment(paid))["receipt"]
    [found] = (await _page(system.backend, receipt=receipt))["items"]
    assert found["id"] == paid


async def test_a_wait_for_a_final_payment_returns_it(system: System) -> None:
    payment_id = await system.deposit(phone_number="0713000500")
    settled = await system.settled(payment_id)
    answer = await system.backend.get(f"/v1/payments/{payment_id}", wait="60")
    assert answer.expect(200).json() == settled


async def test_a_history_lists_each_entry_once(system: System) -> None:
    """The entries are numbered from 1. Each begins at the stage where the one before it ended."""
    payment_id = await begin(system, "stk", "cancel")
    await system.settled(payment_id)
    history = await system.backend.history(payment_id)
    assert [(item["sequence"], item["what"]) for item in history] == [
        (1, "accepted"),
        (2, "claimed"),
        (3, "acknowledged"),
        (4, "failure_reported"),
    ]
    ends = [item["stage"] for item in history]
    assert [item["previous_stage"] for item in history] == [None, *ends[:-1]]
    assert [item["at"] for item in history] == sorted(item["at"] for item in history)
    payment = await system.payment(payment_id)
    assert (history[0]["at"], history[-1]["at"]) == (payment["created_at"], payment["finalized_at"])
    assert history[-1]["detail"]["provider_code"] == "1032"


# Makes the history as long as years of inquiries would make it.
_GROW_HISTORY = """
    INSERT INTO mkwanja.payment_history
        (id, payment_id, sequence, recorded_at, what, stage, detail)
    SELECT gen_random_uuid(), $1::uuid, number, now(), 'inquired', 'succeeded', '{}'
    FROM generate_series(
        (SELECT max(sequence) + 1 FROM mkwanja.payment_history WHERE payment_id = $1::uuid), $2
    ) AS number"""


@pytest.mark.parametrize(("query", "length"), [({}, 1_500), ({"limit": "7"}, 201)])
async def test_a_long_history_can_be_read_whole(
    system: System, query: dict[str, str], length: int
) -> None:
    """The pages list each entry once, oldest first. The last page has no cursor."""
    payment_id, query = await system.deposit(), dict(query)
    await system.settled(payment_id)
    await system.execute(_GROW_HISTORY, payment_id, length)
    seen: list[int] = []
    while True:
        answer = await system.backend.get(f"/v1/payments/{payment_id}/history", **query)
        page = answer.expect(200).json()
        assert set(page) == {"items", "next_cursor"}
        assert 0 < len(page["items"]) <= int(query.get("limit", "100"))
        seen += [item["sequence"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == list(range(1, length + 1))


# Route, query, and the parameter that the problem names. `test_schemas.py` has more wrong values.
_QUERIES = [
    ("", "account_reference=%ff", "?account_reference"),
    ("", "receipt=a%C3&limit=5", "?receipt"),
    ("", "idempotency_key=%ed%a0%80", "?idempotency_key"),
    ("", "%ff=1", "?\\xff"),
    ("/ID", "wait=%fe", "?wait"),
    ("/ID/history", "cursor=%80", "?cursor"),
    ("", "limit=101", "?limit"),
    ("", "limit=5&limit=6", "?limit"),
    ("", "created_before=9999-12-31T23:59:59-14:00", "?created_before"),
    ("", "receipt=a%00b", "?receipt"),
    ("", "cursor=%C3%A9", "?cursor"),
    ("/ID", "wait=61", "?wait"),
    ("/ID", "hold=1", "?hold"),
    ("/ID/history", "limit=0", "?limit"),
    ("/ID/history", "cursor=events-1", "?cursor"),
    ("/ID/history", "after=events-1", "?after"),
]


async def test_the_problem_names_a_wrong_query_parameter(system: System) -> None:
    """The parameter is unknown or repeated, or its value is wrong."""
    payment_id = await system.deposit()
    for route, query, name in _QUERIES:
        path = f"/v1/payments{route}?{query}".replace("ID", payment_id)
        answer = await send_request(system, "GET", path)
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {name}, query


async def test_a_parameter_of_any_characters_in_utf_8_is_read(system: System) -> None:
    """U+FFFD is a character like any other, although decoders write it for broken bytes."""
    for value in ("\ufffd", "é", "%", "%ff", "a b+c", "\U0001f600"):
        page = await system.backend.get("/v1/payments", account_reference=value)
        assert page.expect(200).json()["items"] == [], value


async def test_a_time_at_the_edge_of_the_calendar_causes_no_internal_error(system: System) -> None:
    for name in ("created_after", "created_before"):
        for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"):
            (await system.user.get("/v1/payments", **{name: moment})).expect(200)
