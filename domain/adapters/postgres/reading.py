"""Reads for callers (a payment, a page of payments, a history) and for health checks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.postgres.brakes import ENGAGED
from domain.adapters.postgres.engine import Database, Transaction
from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.listing import PageQuery, page_statement
from domain.adapters.postgres.outbox import COUNT_UNPUBLISHED, FIRST_UNPUBLISHED
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.rows import attempts_from
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.tables import REVISION, is_at_least
from domain.payment import Payment
from domain.views import Entry

# Reads payments with all that belongs to them in one statement, so they are of one moment. Each
# column has the rows of one table as JSON, or NULL for none.
READ = Function(
    "read_payments",
    parameters={"ids": "uuid[]"},
    returns={"payments": "json", "attempts": "json", "provider_ids": "json"},
    joins_tables=True,
    body="""
BEGIN
    RETURN QUERY SELECT
        (SELECT json_agg(payment) FROM mkwanja.payments AS payment WHERE id = ANY(:ids)),
        (SELECT json_agg(attempt ORDER BY number) FROM mkwanja.attempts AS attempt
            WHERE payment_id = ANY(:ids)),
        (SELECT json_agg(known) FROM mkwanja.provider_ids AS known WHERE payment_id = ANY(:ids));
END
""",
)

ATTEMPTS = sql("SELECT * FROM mkwanja.attempts WHERE payment_id = ANY(:ids) ORDER BY number")
_PROVIDER_IDS = sql("""
SELECT kind, value, payment_id, attempt_id FROM mkwanja.provider_ids WHERE payment_id = ANY(:ids)
""")
_HISTORY = sql("""
SELECT sequence, recorded_at, what, previous_stage, stage, detail FROM mkwanja.payment_history
WHERE payment_id = :payment_id AND sequence > :after ORDER BY sequence LIMIT :limit
""")

# Polls that wait share the next read. A second read may begin while the first is under way.
_READS_AT_ONCE = 2

_REVISION = sql("SELECT version_num FROM mkwanja.alembic_version")

# Finished payments are neither in `due_steps` nor in the index used here, so they cost nothing.
_STEPS = sql("""
SELECT stage, due.next_step, count(*) AS count,
    greatest(0, extract(epoch FROM now() - min(due.next_step_at))) AS overdue_seconds
FROM mkwanja.due_steps AS due JOIN mkwanja.payments AS payment ON payment.id = due.payment_id
GROUP BY stage, due.next_step
""")
_FLAGS = sql(f"""
SELECT (SELECT count(*) FROM mkwanja.payments WHERE needs_review) AS needing_review,
    {COUNT_UNPUBLISHED} AS unpublished,
    (SELECT coalesce(greatest(0, extract(epoch FROM now() - min(recorded_at))), 0)
        FROM ({FIRST_UNPUBLISHED}) AS first
        JOIN mkwanja.payment_history AS history ON history.id = first.history_id
    ) AS event_lag_seconds,
    (SELECT count(*) FROM mkwanja.webhook_endpoints
        WHERE status = 'paused' AND deleted_at IS NULL) AS paused_endpoints,
    (SELECT coalesce(greatest(0, extract(epoch FROM now() - min(waiting.since))), 0)
        FROM mkwanja.webhook_endpoints AS endpoint CROSS JOIN LATERAL (
            (SELECT delivery.next_attempt_at AS since FROM mkwanja.webhook_deliveries AS delivery
                WHERE delivery.endpoint_id = endpoint.id AND delivery.next_attempt_at <= now()
                ORDER BY delivery.next_attempt_at LIMIT 1)
            UNION ALL
            (SELECT history.recorded_at FROM mkwanja.events AS event
                JOIN mkwanja.payment_history AS history ON history.id = event.history_id
                WHERE event.position > endpoint.position ORDER BY event.position LIMIT 1)
        ) AS waiting
        WHERE endpoint.status = 'enabled' AND endpoint.deleted_at IS NULL
    ) AS delivery_lag_seconds
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The state of the whole service in numbers, from the database."""

    open_by_stage: Mapping[str, int]
    overdue_seconds_by_step: Mapping[str, float]
    needing_review: int
    unpublished: int
    event_lag_seconds: float
    delivery_lag_seconds: float
    paused_endpoints: int
    brakes: Mapping[str, bool]


class PostgresReadingStore:
    """Reads payments and the state of the database. Each method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads: Lane[UUID, Payment | None] = Lane(
            self._read_batch,
            key=lambda payment_id: payment_id,
            shared=lambda payment_id: payment_id,
            abandoned=Abandoned.DROP,
            batches_at_once=_READS_AT_ONCE,
        )

    async def payment(self, payment_id: UUID) -> Payment | None:
        """The payment as it is now, or None. Concurrent calls share one round trip."""
        return await self._reads.submit(payment_id)

    async def _read_batch(self, ids: Sequence[UUID]) -> list[Payment | None]:
        [row] = await self._database.call_repeatable(READ, {"ids": list(ids)})
        attempts = attempts_from(_parse(row["attempts"]), _parse(row["provider_ids"]))
        payments = [
            payment_from(payment, attempts.get(payment["id"], ()))
            for payment in _parse(row["payments"])
        ]
        payment_by_id = {payment.id: payment for payment in payments}
        return [payment_by_id.get(payment_id) for payment_id in ids]

    async def page(self, query: PageQuery) -> list[Payment]:
        """At most `query.limit` payments. Request one more to see if there is a next page."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(*page_statement(query))
            return await _with_attempts(transaction, rows)

    async def history(self, payment_id: UUID, *, after: int, limit: int) -> list[Entry]:
        """At most `limit` history entries of the payment after number `after`, oldest first."""
        parameters = {"payment_id": payment_id, "after": after, "limit": limit}
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_HISTORY, parameters)
        return [
            Entry(
                row.sequence,
                row.recorded_at,
                row.what,
                row.previous_stage,
                row.stage,
                json.loads(row.detail),
            )
            for row in rows
        ]

    async def situation(self) -> Situation:
        """The counts for /metrics."""
        async with self._database.transaction() as transaction:
            steps = await transaction.rows(_STEPS)
            [flags] = await transaction.rows(_FLAGS)
            brakes = await transaction.rows(ENGAGED)
        stages: Counter[str] = Counter()
        overdue: dict[str, float] = {}
        for row in steps:
            stages[row.stage] += row.count
            overdue[row.next_step] = max(
                overdue.get(row.next_step, 0.0), float(row.overdue_seconds)
            )
        return Situation(
            open_by_stage=dict(stages),
            overdue_seconds_by_step=overdue,
            needing_review=flags.needing_review,
            unpublished=flags.unpublished,
            event_lag_seconds=float(flags.event_lag_seconds),
            delivery_lag_seconds=float(flags.delivery_lag_seconds),
            paused_endpoints=flags.paused_endpoints,
            brakes={row.name: row.is_engaged for row in brakes},
        )

    async def is_migrated(self) -> bool:
        """Whether the database has the schema that this code was written for, or a newer one.

        Each migration keeps the processes of the previous release working. They stay ready, because
        a load balancer would otherwise have no process at all between the migration and the first
        new process.
        """
        async with self._database.transaction() as transaction:
            revisions = [row.version_num for row in await transaction.rows(_REVISION)]
        return len(revisions) == 1 and is_at_least(revisions[0], REVISION)

    async def is_writable(self) -> bool:
        """Whether the database accepts writes.

        False on a standby, or if the host made the database read-only because the disk is full.
        """
        async with self._database.transaction() as transaction:
            return not transaction.is_read_only


def _parse(rows: str | None) -> list[Any]:
    return orjson.loads(rows) if rows else []


async def _with_attempts(transaction: Transaction, rows: list[Any]) -> list[Payment]:
    ids = [row.id for row in rows]
    if not ids:
        return []
    attempts = attempts_from(
        await transaction.rows(ATTEMPTS, {"ids": ids}),
        await transaction.rows(_PROVIDER_IDS, {"ids": ids}),
    )
    return [payment_from(row, attempts.get(row.id, ())) for row in rows]
