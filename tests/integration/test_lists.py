"""Lists of payments: every filter finds the right payments, and reads few others.

The table has 20,000 payments that PostgreSQL's statistics describe badly: what a filter matches is
often old, and newer payments match nearly everything else.
"""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from domain.adapters.postgres.listing import PageQuery, page_statement
from domain.kinds import Kind
from domain.stages import Stage
from tests.integration.conftest import Store
from tests.stack.databases_to_borrow import DatabasesToBorrow

_LIMIT = 10
_PAYMENTS = 20_000
# A page may be merged from the newest payments of each kind.
_READ_MAX = len(Kind) * (_LIMIT + 1)

# Payments of one batch have the same time. No payment has the kind `pochi_payment`. All failures,
# all bill payments and all flagged payments are old, and so are nearly all pending ones.
_FILL = """
INSERT INTO mkwanja.payments (id, kind, stage, caller_key, owner, amount_kes, phone_number, paybill,
    account_reference, metadata, idempotency_key, moves_money_out, created_at, updated_at,
    expires_at, finalized_at, receipt, failure_reason, failure_safe_to_retry, needs_review,
    sequence, next_step, next_step_at)
SELECT gen_random_uuid(), kind, stage, 'shop', CASE WHEN nth % 2 = 0 THEN 'merchant' END, 100,
    CASE WHEN kind <> 'bill_payment' THEN CASE WHEN nth < 2000 AND nth % 2 = 0 THEN '254711000001'
        WHEN nth < 4000 THEN '254711000002' ELSE '2547' || lpad(nth::text, 8, '0') END END,
    CASE WHEN kind = 'bill_payment' THEN '123456' END,
    CASE WHEN nth < 3000 THEN 'RENT' WHEN kind = 'deposit' THEN 'R' || nth END,
    '{}', CASE WHEN nth % 100 = 1 THEN 'repeated' ELSE nth::text END, kind <> 'deposit',
    made_at, made_at, made_at, CASE WHEN stage <> 'awaiting_result' THEN made_at END,
    CASE stage WHEN 'succeeded' THEN 'S' || nth END,
    CASE stage WHEN 'failed' THEN 'expired' END, CASE stage WHEN 'failed' THEN true END,
    nth BETWEEN 1000 AND 1020, 4,
    CASE stage WHEN 'awaiting_result' THEN 'query' END,
    CASE stage WHEN 'awaiting_result' THEN now() END
FROM (
    SELECT nth, now() - ($1 - nth) / 5 * interval '1 s' AS made_at,
        CASE WHEN nth < 30 THEN 'bill_payment' WHEN nth % 3 = 0 AND nth % 2 = 1 THEN 'withdrawal'
            ELSE 'deposit' END AS kind,
        CASE WHEN nth BETWEEN 30 AND 40 OR nth > $1 - 3 THEN 'awaiting_result'
            WHEN nth < 5000 AND nth % 50 = 7 THEN 'failed' ELSE 'succeeded' END AS stage
    FROM generate_series(1, $1::int) AS nth
) AS payment
"""

_OWNERS = [{}, {"owner": "merchant"}]
_RARE: list[dict[str, Any]] = [
    {"phone_number": "254711000001"},
    {"phone_number": "254711000002"},
    {"account_reference": "RENT"},
    {"idempotency_key": "repeated"},
    {"receipt": "S12345"},
    {"phone_number": "254711000002", "account_reference": "RENT"},
]


@pytest.fixture(scope="module")
async def filled(databases_to_borrow: DatabasesToBorrow) -> AsyncIterator[Store]:
    async with databases_to_borrow.borrow() as url, Store(url) as store:
        await store.execute(_FILL, _PAYMENTS)
        await store.execute("ANALYZE mkwanja.payments")
        yield store


def _queries(rare: list[dict[str, Any]]) -> Iterator[PageQuery]:
    """Every combination of kind, status, owner and review with one of `rare`."""
    kinds: list[dict[str, Any]] = [{}, *({"kind": kind} for kind in Kind)]
    statuses = (None, "pending", "success", "failed")
    reviews: list[dict[str, Any]] = [{}, {"needs_review": False}, {"needs_review": True}]
    for kind, status, owner, review, more in product(kinds, statuses, _OWNERS, reviews, rare):
        yield PageQuery(equal=kind | owner | review | more, status=status, limit=_LIMIT)


async def _explain(store: Store, query: PageQuery) -> tuple[int, set[str]]:
    """How many rows the query reads, and which indexes it uses."""
    statement, parameters = page_statement(query)
    plan = await store.one(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}", *statement.order(parameters)
    )
    scans = [node for node in _nodes(json.loads(plan)[0]["Plan"]) if "Relation Name" in node]
    indexes = {
        node.get("Index Name", "none")
        for scan in scans
        for node in _nodes(scan)
        if node["Node Type"] not in ("Bitmap Heap Scan", "BitmapAnd")
    }
    rows = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
        for scan in scans
    )
    return int(rows), indexes


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _find_place(store: Store, number: int) -> tuple[datetime, UUID]:
    """The end of a page: `number` payments are newer."""
    [row] = await store.rows(
        "SELECT created_at, id FROM mkwanja.payments"
        " ORDER BY created_at DESC, id DESC OFFSET $1 LIMIT 1",
        number,
    )
    return row["created_at"], row["id"]


async def test_a_list_reads_few_payments_more_than_it_returns(filled: Store) -> None:
    """At any depth, with every combination of kind, status and owner, if few need review.

    So does a list by one phone number or reference.
    """
    deep = await _find_place(filled, 15_000)
    for query in (*_queries([{}]), *(PageQuery(equal=rare, limit=_LIMIT) for rare in _RARE[:3])):
        for place in (None, deep):
            read, indexes = await _explain(filled, replace(query, older_than=place))
            assert "none" not in indexes, query
            assert read <= _READ_MAX, (query, read, indexes)


async def test_other_lists_read_what_matches_their_rarest_filter(filled: Store) -> None:
    """No list reads the whole table, even if the newest payments match nothing."""
    matching = {
        (column, value): await filled.one(
            f"SELECT count(*) FROM mkwanja.payments WHERE {column} = $1", value
        )
        for rare in _RARE
        for column, value in rare.items()
    }
    for query in _queries(_RARE):
        read, indexes = await _explain(filled, query)
        assert "none" not in indexes, query
        rarest = min(matching.get(item, _PAYMENTS) for item in query.equal.items())
        # Statistics are estimates, so PostgreSQL may choose another filter that matches as little.
        assert read <= 2 * rarest + _READ_MAX, (query, read, indexes)


@pytest.mark.whole
async def test_every_combination_of_filters_finds_the_newest_matching_payments(
    fresh: Store,
) -> None:
    """The first page, a page at some depth, and pages between two times."""
    await fresh.execute(_FILL, 1_500)
    everything = await fresh.rows(
        "SELECT * FROM mkwanja.payments ORDER BY created_at DESC, id DESC"
    )
    place = await _find_place(fresh, 700)
    # Other payments have exactly these times.
    after, before = everything[1_400]["created_at"], everything[400]["created_at"]
    bounds = {
        "none": {},
        "a page": {"older_than": place},
        "times": {"created_after": after, "created_before": before},
        "a page before a time": {"created_before": before, "older_than": place},
        "a time before a page": {
            "created_before": everything[900]["created_at"],
            "older_than": place,
        },
    }
    for query in _queries([{}, _RARE[0], _RARE[3]]):
        matching = [row for row in everything if _matches(row, query)]
        for name, given in bounds.items():
            bounded: PageQuery = replace(query, **given)
            expected = [row["id"] for row in matching if _is_within(row, bounded)]
            statement, parameters = page_statement(bounded)
            found = await fresh.rows(statement.text, *statement.order(parameters))
            assert [row["id"] for row in found] == expected[:_LIMIT], (name, bounded)


def _matches(row: dict[str, Any], query: PageQuery) -> bool:
    return all(row[column] == value for column, value in query.equal.items()) and (
        query.status is None or Stage(row["stage"]).public_status == query.status
    )


def _is_within(row: dict[str, Any], query: PageQuery) -> bool:
    return (
        (query.older_than is None or (row["created_at"], row["id"]) < query.older_than)
        and (query.created_after is None or row["created_at"] > query.created_after)
        and (query.created_before is None or row["created_at"] < query.created_before)
    )
