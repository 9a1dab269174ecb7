"""How many payments there were, how they ended, and how long they took, for the console's charts.

The query reads a limited number of rows for each bar, through an index by time. So the charts cost
the same however many payments there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql

# A bar counts at most this many payments, and has its success rate and times from the newest of
# them, at most the second number.
COUNTED_MAX = 10_000
SAMPLED_MAX = 500

TRENDS = sql(f"""
SELECT began_at, counted.count, sample.*
FROM (SELECT CAST(:began_at AS timestamptz) + number * CAST(:width AS interval) AS began_at
    FROM generate_series(0, CAST(:bars AS int) - 1) AS number) AS bar
CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM (
        SELECT FROM mkwanja.payments
        WHERE created_at >= began_at AND created_at < began_at + CAST(:width AS interval)
        LIMIT {COUNTED_MAX}) AS counted_rows
) AS counted
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE finalized_at IS NOT NULL AND failure_reason IS NULL)
            AS succeeded,
        count(*) FILTER (WHERE finalized_at IS NOT NULL AND failure_reason IS NOT NULL) AS failed,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median_seconds,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS slow_seconds
    FROM (
        SELECT finalized_at, failure_reason,
            CAST(extract(epoch FROM finalized_at - created_at) AS float8) AS seconds
        FROM mkwanja.payments
        WHERE created_at >= began_at AND created_at < began_at + CAST(:width AS interval)
        ORDER BY created_at DESC, id DESC LIMIT {SAMPLED_MAX}) AS newest
) AS sample
ORDER BY began_at
""")


@dataclass(frozen=True, slots=True)
class Bar:
    """The payments that were accepted from `began_at` on, for the width of a bar.

    `median_seconds`, and `slow_seconds` (95 of 100 payments took at most this long), are from the
    acceptance to the end. They are None if no payment of the bar has ended.
    """

    began_at: datetime
    count: int
    succeeded: int
    failed: int
    median_seconds: float | None
    slow_seconds: float | None


class Trends:
    """Reads the bars of charts. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, *, began_at: datetime, width: timedelta, bars: int) -> list[Bar]:
        """`bars` bars, oldest first, the first of which begins at `began_at`."""
        parameters = {"began_at": began_at, "width": width, "bars": bars}
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(TRENDS, parameters)
        return [
            Bar(
                row.began_at,
                row.count,
                row.succeeded,
                row.failed,
                row.median_seconds,
                row.slow_seconds,
            )
            for row in rows
        ]
