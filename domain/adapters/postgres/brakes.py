"""The brakes, which stop outgoing requests.

Each brake is a row in PostgreSQL, so it survives a restart of a process and a loss of Redis's data.
All SQL that reads or changes brakes is here. The claim (`claiming.py`) and the sweep
(`sweeping.py`) use parts of this SQL in their own statements, because they must check the brakes in
the statement that claims or fetches the payment.

Two brakes stop all payouts: an operator sets the kill switch, and a refused credential opens the
breaker. Each of the other brakes holds one of Daraja's operations, and lets one payment or inquiry
through after each cool-down (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.adapters.postgres.engine import CONTENDED, Database, sqlstate
from domain.adapters.postgres.locks import LOCK_BRAKES, LOCK_BRAKES_SHARED
from domain.adapters.postgres.rows import recordset
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable
from domain.kinds import RULES
from domain.operations import OPERATION_OF_INQUIRY_STEP, Operation
from domain.stages import Stage, Step
from domain.times import OPERATION_COOL_DOWN_MAX

KILL_SWITCH = "kill_switch"
BREAKER = "breaker"
PAYOUT_BRAKES = (KILL_SWITCH, BREAKER)

# The other brakes that this release knows. If a newer release has already migrated the database,
# the database may contain more brakes. This release ignores them.
KNOWN_OPERATIONS = frozenset(Operation)

# The number of times that `Brakes.set` tries to change a brake before it gives up. A claim locks
# the brakes until it commits. If the claim's process hangs, Postgres ends the claim's transaction
# within 5 s, and a later try succeeds.
_TRIES_MAX = 5


def _case(column: str, operations: Mapping[Any, Operation]) -> str:
    """The SQL expression that maps the value of `column` to an operation."""
    cases = [f"WHEN '{value}' THEN '{name}'" for value, name in operations.items()]
    return f"CASE {column} {' '.join(cases)} END"


OPERATION_OF_KIND_SQL = _case("kind", {kind: rules.operation for kind, rules in RULES.items()})

_PAYOUT_BRAKES_SQL = ", ".join(f"'{name}'" for name in PAYOUT_BRAKES)
_STOPS_PAYOUTS = f"name IN ({_PAYOUT_BRAKES_SQL})"


def _is_held(operation: str) -> str:
    """The SQL condition that an operation is held and its cool-down is not over."""
    return f"""EXISTS (SELECT FROM mkwanja.brakes
        WHERE name = {operation} AND is_engaged AND probe_at > now())"""


# Conditions for queries on payments. The first is true if a brake forbids the payment's claim. The
# second is true if no brake forbids the inquiry step `:step`.
IS_HELD_BY_BRAKE = f"""(moves_money_out
            AND EXISTS (SELECT FROM mkwanja.brakes WHERE is_engaged AND {_STOPS_PAYOUTS}))
        OR {_is_held(OPERATION_OF_KIND_SQL)}"""
INQUIRY_IS_FREE = f"""NOT (:step = 'status' AND EXISTS (
        SELECT FROM mkwanja.brakes WHERE name = '{BREAKER}' AND is_engaged))
      AND NOT {_is_held(_case("CAST(:step AS text)", OPERATION_OF_INQUIRY_STEP))}"""

# Parts of the sweep's query. `brakes` is the state of all brakes. `hold` is the brake that holds
# the operation of `step.name`. If the operation is not held, `hold` is NULL.
HELD_STEP_JOIN = f"""LEFT JOIN mkwanja.brakes AS hold
    ON hold.is_engaged AND hold.name = {_case("step.name", OPERATION_OF_INQUIRY_STEP)}"""
ALL_BRAKES = f"""(SELECT array_agg(name ORDER BY name) FILTER (WHERE is_engaged) AS engaged,
        array_agg(name) FILTER (WHERE is_engaged AND probe_at <= now() AND NOT {_STOPS_PAYOUTS})
            AS probes_due,
        coalesce(bool_or(is_engaged) FILTER (WHERE name = '{BREAKER}'), false) AS breaker_is_open
    FROM mkwanja.brakes) AS brakes"""

# A probe starts the operation's next cool-down, which is twice as long as the last one, up to a
# maximum.
_NEXT_COOL_DOWN = f"""least(cool_down * 2,
            interval '{OPERATION_COOL_DOWN_MAX.total_seconds():.0f} seconds')"""
_PROBED = f"""probes = probes + 1, probed_at = now(),
        cool_down = {_NEXT_COOL_DOWN},
        probe_at = now() + {_NEXT_COOL_DOWN}"""

# Statements of a function that claims payouts. If another process is setting a brake on payouts at
# this moment, they wait for it. A process that begins to set a brake after them waits for our
# COMMIT, and can then read our claim. FOR SHARE waits also for a change that was made without the
# advisory lock. Each statement of a function sees what was committed before the statement began. So
# the next statement reads the brakes as they are after both waits.
WAIT_FOR_BRAKES = f"""PERFORM {LOCK_BRAKES_SHARED};
        PERFORM FROM mkwanja.brakes WHERE {_STOPS_PAYOUTS} ORDER BY name FOR SHARE;"""

# Parts of the statement that claims the `allowed` payments.
PAYOUTS_ARE_FREE = f"""(NOT payment.moves_money_out OR NOT EXISTS (
            SELECT FROM mkwanja.brakes WHERE is_engaged AND {_STOPS_PAYOUTS}))"""

# A held operation lets one of the `allowed` payments through after each cool-down. The claim that
# updates the operation's row gets this probe. A second claim waits for the row, and then finds that
# the next cool-down has started. The rows of operations are locked after the rows of the brakes on
# payouts, and in the order of their names, like everywhere else.
CLAIM_PROBE = f"""due AS MATERIALIZED (
        SELECT name FROM mkwanja.brakes
        WHERE name IN (SELECT operation FROM allowed) AND is_engaged AND probe_at <= now()
        ORDER BY name FOR UPDATE
    ), probe AS (
        UPDATE mkwanja.brakes SET {_PROBED}
        FROM due WHERE brakes.name = due.name
        RETURNING (SELECT id FROM allowed WHERE operation = brakes.name ORDER BY id LIMIT 1)
            AS payment_id
    )"""
OPERATION_IS_FREE = """(allowed.operation NOT IN (SELECT name FROM mkwanja.brakes WHERE is_engaged)
           OR payment.id IN (SELECT payment_id FROM probe))"""

# The brakes that are engaged, for a decision about a payment.
ENGAGED_BRAKES = """SELECT name, coalesce(probe_at <= now(), false) AS is_probe_due
            FROM mkwanja.brakes WHERE is_engaged"""

LOCK_BRAKES_FOR_CHANGE = sql(f"SELECT {LOCK_BRAKES}")

OPEN_BREAKER = sql(f"""
WITH opened AS (
    UPDATE mkwanja.brakes SET is_engaged = true, reason = :reason, changed_at = now(),
        payment_id = :payment_id, probes = 0, probed_at = NULL
    WHERE name = '{BREAKER}' AND NOT is_engaged RETURNING *
)
INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
SELECT changed_at, name, is_engaged, reason FROM opened RETURNING name
""")
CLOSE_BREAKER = sql(f"""
WITH closed AS (
    UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL, changed_at = now()
    WHERE name = '{BREAKER}' AND is_engaged AND changed_at < :accepted_at RETURNING *
)
INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
SELECT changed_at, name, is_engaged, 'Daraja accepted the credential of an inquiry'
FROM closed RETURNING name
""")

# The probe inquires about the payment that opened the breaker. If we have no id to inquire by, or
# another account sent this payment, the probe inquires about the newest payment of which both are
# true:
# * We inquire about its kind by an id that we make ourselves, so we always have an id to inquire
#   by.
# * No other account sent it. The answer about a payment of another account would not show whether
#   Daraja accepts the credential in use.
_PROBED_AMONG_MAX = 1000
_OF_ANOTHER_ACCOUNT = """EXISTS (
    SELECT FROM mkwanja.attempts AS attempt WHERE attempt.payment_id = payment.id
        AND attempt.outcome IS DISTINCT FROM 'not_acted'
        AND attempt.account <> CAST(:account AS text))"""
START_BREAKER_PROBE = sql(f"""
UPDATE mkwanja.brakes SET probes = probes + 1, probed_at = now()
WHERE name = '{BREAKER}' AND is_engaged
  AND coalesce(probed_at, changed_at)
      + least(CAST(:cool_down AS interval) * power(2, least(probes, 20)),
      CAST(:cool_down_max AS interval)) <= now()
RETURNING coalesce(
    (SELECT payment.id FROM mkwanja.payments AS payment
    WHERE payment.id = payment_id AND NOT {_OF_ANOTHER_ACCOUNT}),
    (SELECT payment.id FROM (
        SELECT id, created_at FROM mkwanja.payments
        WHERE kind = ANY(CAST(:own_id_kinds AS text[]))
        ORDER BY created_at DESC, id DESC LIMIT {_PROBED_AMONG_MAX}) AS payment
    WHERE NOT {_OF_ANOTHER_ACCOUNT}
    ORDER BY payment.created_at DESC, payment.id DESC LIMIT 1)) AS payment_id
""")

START_OPERATION_PROBE = sql(f"""
UPDATE mkwanja.brakes SET {_PROBED}
WHERE name = :name AND is_engaged AND probe_at <= now() RETURNING name
""")

# If a request was sent before the brake's last change, Daraja's answer to it does not change the
# brake, because the answer shows nothing about the time after that change.
HOLD_OPERATION = sql("""
WITH held AS (
    UPDATE mkwanja.brakes SET is_engaged = true, reason = :reason, changed_at = now(),
        refusals = 0, probes = 0, probed_at = NULL, cool_down = CAST(:cool_down AS interval),
        probe_at = now() + CAST(:cool_down AS interval)
    WHERE name = :name AND NOT is_engaged AND changed_at <= :since RETURNING *
), recorded AS (
    INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
    SELECT changed_at, name, is_engaged, reason FROM held
)
SELECT probe_at FROM held
""")
COUNT_REFUSALS = sql("""
UPDATE mkwanja.brakes SET refusals = refusals + :count
WHERE name = :name AND NOT is_engaged AND changed_at <= :since RETURNING refusals
""")
_WORKING_COLUMNS = {"name": "text", "since": "timestamptz"}
# Statements of a function, with these parameters:
# * `:changes_breaker`: whether the transaction opens or closes the breaker after this call.
# * `:operations`: the operations that the transaction may change after this call, by name.
# * `:working`: the operations that answered as they should. Held ones are released.
# The locks have the same order as in a claim: first the advisory lock, then the rows of operations
# in the order of their names. The variable `released` gets the names of released operations.
RELEASE_OPERATIONS = f"""IF :changes_breaker THEN
        PERFORM {LOCK_BRAKES};
    END IF;
    IF cardinality(:operations) > 0 THEN
        PERFORM FROM mkwanja.brakes WHERE name = ANY(:operations) ORDER BY name FOR UPDATE;
    END IF;
    IF :working IS NOT NULL THEN
        WITH locked AS (
            SELECT brake.name, brake.is_engaged
            FROM {recordset("working", _WORKING_COLUMNS)}
            JOIN mkwanja.brakes AS brake ON brake.name = batch.name
            WHERE CASE WHEN brake.is_engaged THEN brake.changed_at < batch.since
                ELSE brake.refusals > 0 END
            ORDER BY brake.name FOR UPDATE OF brake
        ), changed AS (
            UPDATE mkwanja.brakes AS brake SET is_engaged = false, reason = NULL, refusals = 0,
                changed_at = CASE WHEN locked.is_engaged THEN now() ELSE brake.changed_at END
            FROM locked WHERE brake.name = locked.name
            RETURNING brake.name, brake.changed_at, locked.is_engaged AS was_held
        ), recorded AS (
            INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
            SELECT changed_at, name, false, 'Daraja accepted the operation again'
            FROM changed WHERE was_held
        )
        SELECT array_agg(name) INTO released FROM changed WHERE was_held;
    END IF;"""

# Every brake, for /metrics.
ENGAGED = sql("SELECT name, is_engaged FROM mkwanja.brakes")

SET = sql("""
WITH changed AS (
    UPDATE mkwanja.brakes
    SET is_engaged = :is_engaged, reason = CASE WHEN :is_engaged THEN :reason END,
        changed_at = now(), probes = 0, probed_at = NULL, refusals = 0
    WHERE name = ANY(CAST(:names AS text[])) AND is_engaged <> :is_engaged
    RETURNING name, changed_at
)
INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason, operator)
SELECT changed_at, name, :is_engaged, :reason, :operator FROM changed RETURNING name
""")

_READ = sql(
    "SELECT name, is_engaged, reason, changed_at"
    f" FROM mkwanja.brakes WHERE {_STOPS_PAYOUTS} ORDER BY name"
)

# `waiting` counts the payments that wait for the operation: payments in `accepted`, which wait for
# their send, and payments whose inquiry step is due.
_READ_OPERATIONS = sql(f"""
SELECT name, is_engaged, reason, changed_at, probe_at, probes, (
    SELECT count(*) FROM mkwanja.payments AS payment WHERE id IN (
            SELECT payment_id FROM mkwanja.due_steps
            WHERE next_step = '{Step.SUBMIT}' OR next_step_at <= now())
        AND ((next_step = '{Step.SUBMIT}' AND stage = '{Stage.ACCEPTED}'
              AND name = {OPERATION_OF_KIND_SQL})
          OR (next_step_at <= now() AND name = {_case("next_step", OPERATION_OF_INQUIRY_STEP)}))
) AS waiting
FROM mkwanja.brakes WHERE NOT {_STOPS_PAYOUTS} ORDER BY name
""")

_ON_THE_WIRE = sql("""
SELECT id, kind, amount_kes, lease_until FROM mkwanja.payments
WHERE stage = 'submitting' AND moves_money_out AND lease_until > now() ORDER BY lease_until
""")

_STAGES = sql(
    "SELECT id, stage FROM mkwanja.payments WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Brake:
    """The state of one brake since `changed_at`."""

    name: str
    is_engaged: bool
    reason: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class HeldOperation:
    """The state of one operation. `waiting` is the number of payments that wait for it."""

    brake: Brake
    probe_at: datetime | None
    probes: int
    waiting: int


class Brakes:
    """Reads and sets the brakes. Each method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(
        self, *names: str, is_engaged: bool, reason: str, operator: str | None = None
    ) -> list[str]:
        """Engages or releases the named brakes, and returns the names of those that changed.

        First waits for claims that are about to commit.
        """
        parameters = {
            "names": list(names),
            "is_engaged": is_engaged,
            "reason": reason,
            "operator": operator,
        }
        for is_last in (*[False] * (_TRIES_MAX - 1), True):
            try:
                async with self._database.transaction() as transaction:
                    await transaction.run(LOCK_BRAKES_FOR_CHANGE)
                    return [row.name for row in await transaction.rows(SET, parameters)]
            except Exception as error:
                if sqlstate(error) not in CONTENDED:
                    raise
                if is_last:
                    raise StoreUnavailable from error
        raise AssertionError

    async def read(self) -> list[Brake]:
        """The brakes that stop all payouts."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_READ)
        return [Brake(row.name, row.is_engaged, row.reason, row.changed_at) for row in rows]

    async def operations(self) -> list[HeldOperation]:
        """Every operation, held or not, with the number of payments that wait for it."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_READ_OPERATIONS)
        return [
            HeldOperation(
                Brake(row.name, row.is_engaged, row.reason, row.changed_at),
                row.probe_at,
                row.probes,
                row.waiting,
            )
            for row in rows
        ]

    async def payouts_on_the_wire(self) -> list[Any]:
        """Payouts in `submitting` whose lease has not expired.

        The rows have `id`, `kind`, `amount_kes` and `lease_until`.
        """
        async with self._database.transaction() as transaction:
            return await transaction.rows(_ON_THE_WIRE)

    async def stages(self, ids: list[UUID]) -> dict[UUID, str]:
        """The current stage of each of the payments `ids`."""
        async with self._database.transaction() as transaction:
            return {row.id: row.stage for row in await transaction.rows(_STAGES, {"ids": ids})}
