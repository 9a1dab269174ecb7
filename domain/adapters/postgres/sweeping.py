"""Finds overdue work for the sweeper: steps that are due, and events that are not published."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from domain.account import Account
from domain.adapters.postgres.brakes import (
    ALL_BRAKES,
    HELD_STEP_JOIN,
    INQUIRY_IS_FREE,
    KNOWN_OPERATIONS,
    PAYOUT_BRAKES,
    START_BREAKER_PROBE,
)
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.feed import list_new_events
from domain.adapters.postgres.outbox import FIRST_UNPUBLISHED
from domain.adapters.postgres.rows import next_step_from
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable
from domain.kinds import Kind, kinds_that
from domain.lifecycle.reconcile import SweepPlan
from domain.lifecycle.submit import NextStep
from domain.operations import Operation
from domain.stages import Step

# One statement fetches the due payments and moves their due times into the future. A payment that
# makes no progress therefore does not stay in front of the others (rules.md §5). `due_steps` says
# which payments may be due, and the locked row of the payment decides.
_FETCH_DUE = sql(f"""
WITH due AS (
    SELECT payment.id, payment.next_step_at
    FROM mkwanja.due_steps AS listed
    JOIN mkwanja.payments AS payment ON payment.id = listed.payment_id
    WHERE listed.next_step = :step AND listed.next_step_at <= now()
      AND listed.kind = ANY(CAST(:kinds AS text[]))
      AND payment.next_step = :step AND payment.next_step_at <= now() AND {INQUIRY_IS_FREE}
    ORDER BY listed.next_step_at LIMIT :limit FOR UPDATE OF payment SKIP LOCKED
), moved AS (
    UPDATE mkwanja.payments AS payment SET next_step_at = now() + CAST(:next_step_in AS interval)
    FROM due WHERE payment.id = due.id
    RETURNING payment.id, payment.kind, payment.stage, payment.next_step,
        payment.expires_at <= now() AS is_expired, due.next_step_at AS was_due_at
)
SELECT * FROM moved ORDER BY was_due_at
""")

# One query finds all kinds of work. Usually nothing is due, and a sweep then costs only this query.
# The query counts due payments only up to the limit of a sweep. While the breaker is open, the
# query counts no inquiry that needs the refused credential. While an operation is held, the query
# counts one inquiry of that operation after each cool-down.
_PLAN = sql(f"""
WITH first_unpublished AS (
    SELECT is_listed, recorded_at <= now() - CAST(:overdue_by AS interval) AS is_overdue
    FROM ({FIRST_UNPUBLISHED}) AS first
    JOIN mkwanja.payment_history AS history ON history.id = first.history_id
)
SELECT step.name AS step, CASE WHEN step.name = 'status' AND brakes.breaker_is_open THEN 0 ELSE (
        SELECT count(*) FROM (
            SELECT FROM mkwanja.due_steps WHERE next_step = step.name AND next_step_at <= now()
            LIMIT CASE WHEN hold.name IS NULL THEN :limit
                WHEN hold.probe_at <= now() THEN 1 ELSE 0 END) AS found
    ) END AS due,
    brakes.engaged, brakes.breaker_is_open, brakes.probes_due,
    EXISTS (SELECT FROM first_unpublished WHERE is_overdue) AS has_overdue_events,
    EXISTS (SELECT FROM first_unpublished WHERE is_overdue AND NOT is_listed) AS has_unlisted
FROM unnest(CAST(:steps AS text[])) AS step(name)
{HELD_STEP_JOIN},
    {ALL_BRAKES}
""")

# The triggers that keep `due_steps` may have been off, for example in a restore. A payment without
# its row there would wait for ever. The locked row decides, so a step that moves meanwhile is not
# listed twice.
_LIST_MISSING = sql("""
WITH missing AS (
    SELECT id, kind, next_step, next_step_at FROM mkwanja.payments AS payment
    WHERE finalized_at IS NULL AND next_step_at <= now() - CAST(:overdue_by AS interval)
      AND NOT EXISTS (
          SELECT FROM mkwanja.due_steps AS listed
          WHERE (listed.next_step, listed.next_step_at, listed.payment_id)
              = (payment.next_step, payment.next_step_at, payment.id))
    LIMIT :limit FOR UPDATE SKIP LOCKED
)
INSERT INTO mkwanja.due_steps (next_step, next_step_at, payment_id, kind)
SELECT next_step, next_step_at, id, kind FROM missing ON CONFLICT DO NOTHING
RETURNING payment_id
""")
_MISSING_MAX = 1_000
_MISSING_OVERDUE_BY = timedelta(minutes=1)

# If a process stops between two messages of one statement, or reads only a part of a large answer,
# its session is neither idle nor running. The timeouts of Postgres 15 and 16 do not apply then, and
# the session's locks would block other transactions. Postgres 17 has `transaction_timeout` for this
# (engine.py).
_STUCK_FOR = timedelta(seconds=10)
_END_STUCK = sql("""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
  AND application_name LIKE 'mkwanja-%'
  AND state = 'active' AND wait_event IN ('ClientRead', 'ClientWrite')
  AND xact_start < now() - CAST(:stuck_for AS interval)
""")


class PostgresSweepingStore:
    """Reads and writes for the sweeper. Satisfies `domain.lifecycle.reconcile.SweepingStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def plan_sweep(self, *, limit: int, overdue_by: timedelta) -> SweepPlan:
        """See `domain.lifecycle.reconcile.SweepingStore.plan_sweep`."""
        parameters = {
            "steps": [step.value for step in Step],
            "limit": limit,
            "overdue_by": overdue_by,
        }
        async with self._database.transaction() as transaction:
            if transaction.is_read_only:
                # The database refuses writes, so no step can be stored. Raise before the sweeper
                # charges the inquiry budget.
                raise StoreUnavailable
            rows = await transaction.rows(_PLAN, parameters)
        engaged = frozenset(rows[0].engaged or ())
        return SweepPlan(
            due={Step(row.step): row.due for row in rows},
            has_overdue_events=rows[0].has_overdue_events,
            has_unlisted=rows[0].has_unlisted,
            engaged_brakes=engaged,
            breaker_is_open=rows[0].breaker_is_open,
            payouts_are_stopped=not engaged.isdisjoint(PAYOUT_BRAKES),
            held_operations=frozenset(operation for operation in Operation if operation in engaged),
            probes_due=frozenset(
                Operation(name) for name in rows[0].probes_due or () if name in KNOWN_OPERATIONS
            ),
        )

    async def fetch_due_steps(
        self,
        step: Step,
        *,
        limit: int,
        next_step_in: timedelta,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> list[NextStep]:
        """See `domain.lifecycle.reconcile.SweepingStore.fetch_due_steps`."""
        parameters = {
            "step": step.value,
            "kinds": [kind.value for kind in kinds],
            "limit": limit,
            "next_step_in": next_step_in,
        }
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_FETCH_DUE, parameters)
        return [next_step_from(row) for row in rows]

    async def end_stuck_sessions(self) -> int:
        """See `domain.lifecycle.reconcile.SweepingStore.end_stuck_sessions`."""
        async with self._database.transaction() as transaction:
            return len(await transaction.rows(_END_STUCK, {"stuck_for": _STUCK_FOR}))

    async def start_probe(
        self, cool_down: timedelta, cool_down_max: timedelta, account: Account | None = None
    ) -> UUID | None:
        """See `domain.lifecycle.reconcile.SweepingStore.start_probe`."""
        async with self._database.transaction() as transaction:
            parameters = {
                "cool_down": cool_down,
                "cool_down_max": cool_down_max,
                "account": account.as_text() if account else None,
                "own_id_kinds": [
                    kind.value
                    for kind in kinds_that(
                        lambda rules: rules.uses_credential and rules.inquiry_id_kind is None
                    )
                ],
            }
            rows = await transaction.rows(START_BREAKER_PROBE, parameters)
        return UUID(int=rows[0].payment_id.int) if rows and rows[0].payment_id else None

    async def list_events(self) -> int:
        """See `domain.lifecycle.reconcile.SweepingStore.list_events`."""
        return await list_new_events(self._database)


async def list_missing_steps(database: Database) -> list[UUID]:
    """Lists open payments that are overdue and are not listed in `due_steps`, at most 1,000.

    Returns their ids. Raises StoreUnavailable.
    """
    parameters = {"overdue_by": _MISSING_OVERDUE_BY, "limit": _MISSING_MAX}
    async with database.transaction() as transaction:
        rows = await transaction.rows(_LIST_MISSING, parameters)
    return [row.payment_id for row in rows]
