"""The brakes: what stops money out. Rows, so that no restart and no flush of Redis opens them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from domain.adapters.postgres.engine import CONTENDED, Database, sqlstate
from domain.adapters.postgres.locks import TAKE_BRAKES
from domain.adapters.postgres.operations import OPERATION_OF_KIND_SQL, case_sql
from domain.errors import StoreUnavailable
from domain.operations import OPERATION_OF_QUESTION
from domain.stages import Stage, Step

KILL_SWITCH = "kill_switch"
BREAKER = "breaker"

# These two stop every payout. The other brakes hold one of Daraja's operations each (`operations.py`).
PAYOUT_BRAKES = (KILL_SWITCH, BREAKER)
PAYOUT_BRAKES_SQL = f"name IN ('{KILL_SWITCH}', '{BREAKER}')"

# A claim holds the rows for as long as it takes to commit; one that hangs is ended by Postgres within 5 s.
_TRIES_MAX = 5

_SET = text("""
WITH changed AS (
    UPDATE mkwanja.brakes SET is_engaged = :is_engaged, reason = CASE WHEN :is_engaged THEN :reason END,
        changed_at = now(), probes = 0, probed_at = NULL, refusals = 0
    WHERE name = ANY(CAST(:names AS text[])) AND is_engaged <> :is_engaged
    RETURNING name, changed_at
)
INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
SELECT changed_at, name, :is_engaged, :reason FROM changed RETURNING name
""")

_ALONE = text(f"SELECT {TAKE_BRAKES}")

_READ = text(f"SELECT name, is_engaged, reason, changed_at FROM mkwanja.brakes WHERE {PAYOUT_BRAKES_SQL} ORDER BY name")

# A send waits in `accepted`; a question waits with its step due.
_READ_OPERATIONS = text(f"""
SELECT name, is_engaged, reason, changed_at, probe_at, probes, (
    SELECT count(*) FROM mkwanja.payments
    WHERE (next_step = '{Step.SUBMIT}' AND stage = '{Stage.ACCEPTED}' AND name = {OPERATION_OF_KIND_SQL})
       OR (next_step_at <= now() AND name = {case_sql("next_step", OPERATION_OF_QUESTION)})
) AS waiting
FROM mkwanja.brakes WHERE NOT {PAYOUT_BRAKES_SQL} ORDER BY name
""")

_ON_THE_WIRE = text("""
SELECT id, kind, amount_kes, lease_until FROM mkwanja.payments
WHERE stage = 'submitting' AND kind <> 'deposit' AND lease_until > now() ORDER BY lease_until
""")

_WHAT_BECAME = text("SELECT id, stage FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id")


@dataclass(frozen=True, slots=True)
class Brake:
    """One brake as it stands since `changed_at`."""

    name: str
    is_engaged: bool
    reason: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class HeldOperation:
    """One operation as it stands since `changed_at`. `waiting` payments have it as their next step."""

    brake: Brake
    probe_at: datetime | None
    probes: int
    waiting: int


class Brakes:
    """Reads and sets them. Each method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(self, *names: str, is_engaged: bool, reason: str) -> list[str]:
        """Engages or releases; the names of those that changed. Waits for claims that are about to commit."""
        parameters = {"names": list(names), "is_engaged": is_engaged, "reason": reason}
        for is_last in (*[False] * (_TRIES_MAX - 1), True):
            try:
                async with self._database.transaction() as transaction:
                    await transaction.run(_ALONE)
                    return [row.name for row in await transaction.rows(_SET, parameters)]
            except Exception as error:
                if sqlstate(error) not in CONTENDED:
                    raise
                if is_last:
                    raise StoreUnavailable from error
        raise AssertionError

    async def read(self) -> list[Brake]:
        """The two brakes that stop payouts."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_READ)
        return [Brake(row.name, row.is_engaged, row.reason, row.changed_at) for row in rows]

    async def operations(self) -> list[HeldOperation]:
        """Every operation, held or not, with what waits for it."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_READ_OPERATIONS)
        return [
            HeldOperation(
                Brake(row.name, row.is_engaged, row.reason, row.changed_at), row.probe_at, row.probes, row.waiting
            )
            for row in rows
        ]

    async def payouts_on_the_wire(self) -> list[Any]:
        """Payouts in `submitting` under a live lease: `id`, `kind`, `amount_kes`, `lease_until`."""
        async with self._database.transaction() as transaction:
            return await transaction.rows(_ON_THE_WIRE)

    async def stages(self, ids: list[UUID]) -> dict[UUID, str]:
        """The present stage of each of `ids`."""
        async with self._database.transaction() as transaction:
            return {row.id: row.stage for row in await transaction.rows(_WHAT_BECAME, {"ids": ids})}
