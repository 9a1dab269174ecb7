"""What only the console reads: the bars of its charts, and the requests of the last minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import uuid_utils.compat as uuid_utils

from domain.adapters.postgres.console import ConsoleStore
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.trends import COUNTED_MAX, SAMPLED_MAX, TRENDS, Trends
from tests.integration.conftest import Store

_BARS = 3
_WIDTH = timedelta(hours=1)

# Each hour of the last day has as many payments, of which each tenth failed. A payment takes two
# seconds, and each tenth takes ten.
_FILL = """
INSERT INTO mkwanja.payments (id, kind, stage, caller_key, amount_kes, phone_number, metadata,
    idempotency_key, moves_money_out, created_at, updated_at, expires_at, finalized_at, receipt,
    failure_reason, failure_safe_to_retry, sequence)
SELECT gen_random_uuid(), 'deposit', CASE WHEN nth % 10 = 0 THEN 'failed' ELSE 'succeeded' END,
    'shop', 100, '254711000001', '{}', nth::text, false, made_at, made_at, made_at,
    made_at + CASE WHEN nth % 10 = 0 THEN interval '10 s' ELSE interval '2 s' END,
    CASE WHEN nth % 10 <> 0 THEN 'S' || nth END, CASE WHEN nth % 10 = 0 THEN 'expired' END,
    CASE WHEN nth % 10 = 0 THEN true END, 4
FROM (SELECT nth, date_trunc('hour', now()) - nth * $2::interval AS made_at
    FROM generate_series(1, $1::int) AS nth) AS payment
"""


@pytest.fixture
async def database(fresh: Store) -> Any:
    database = Database(fresh.url, pool_size=1, application_name="test")
    yield database
    await database.close()


async def test_a_bar_has_the_volume_the_success_rate_and_the_times(
    fresh: Store, database: Database
) -> None:
    await fresh.execute(_FILL, 300, timedelta(seconds=36))
    began_at = await fresh.one("SELECT date_trunc('hour', now()) - interval '3 h'")
    bars = await Trends(database).read(began_at=began_at, width=_WIDTH, bars=_BARS + 1)
    assert [bar.count for bar in bars] == [100, 100, 100, 0]
    for bar in bars[:_BARS]:
        assert (bar.succeeded, bar.failed) == (90, 10)
        assert bar.median_seconds == 2
        assert bar.slow_seconds == 10
    assert (bars[-1].began_at, bars[-1].median_seconds) == (began_at + _BARS * _WIDTH, None)


@pytest.mark.whole
async def test_the_charts_read_a_limited_number_of_payments(fresh: Store) -> None:
    """Also if one bar has more payments than it counts."""
    await fresh.execute(_FILL, 5 * COUNTED_MAX, timedelta(milliseconds=216))
    await fresh.execute("ANALYZE mkwanja.payments")
    began_at = await fresh.one("SELECT date_trunc('hour', now()) - interval '3 h'")
    parameters = {"began_at": began_at, "width": _WIDTH, "bars": _BARS}
    plan = await fresh.one(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {TRENDS.text}", *TRENDS.order(parameters)
    )
    scans = [node for node in _nodes(json.loads(plan)[0]["Plan"]) if "Relation Name" in node]
    read = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
        for scan in scans
    )
    assert all("Index Name" in scan for scan in scans)
    assert read <= _BARS * (COUNTED_MAX + SAMPLED_MAX)


async def test_the_traffic_is_that_of_the_last_minutes(fresh: Store, database: Database) -> None:
    exchange = """
        INSERT INTO mkwanja.daraja_exchanges
            (id, payment_id, api, recorded_at, request, was_written, meaning)
        VALUES ($1, $2, 'b2c', now(), '{}', true, $3)
    """
    an_hour_ago = UUID(int=uuid_utils.uuid7().int - (3_600_000 << 80))
    for exchange_id, meaning in (
        (uuid_utils.uuid7(), "acknowledged"),
        (uuid_utils.uuid7(), "acknowledged"),
        (uuid_utils.uuid7(), "refused"),
        (an_hour_ago, "throttled"),
    ):
        await fresh.execute(exchange, exchange_id, uuid4(), meaning)
    traffic = await ConsoleStore(database).traffic()
    assert [(row.operation, row.outcome, row.count) for row in traffic] == [
        ("b2c", "acknowledged", 2),
        ("b2c", "refused", 1),
    ]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
