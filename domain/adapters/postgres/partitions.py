"""The monthly partitions of `callbacks` and `daraja_exchanges`: made ahead, and dropped when old.

Both tables are partitioned by a UUIDv7 that we made, so an id says its month (UTC):

* `callbacks` by `payment_id`. All reads name the payments, so they read one partition or two.
* `daraja_exchanges` by its own `id`, so that `ON CONFLICT (id)` still finds a repeated exchange.

The partition `…_before` has the rows of all earlier months. The partition `…_other` is the default:
it gets a row if its month has no partition. So no row is ever refused.

The functions run with the rights of the schema's owner, and no parameter of theirs names a table or
a time. A process can therefore only make partitions that are needed anyway, and can only drop what
the owner's retention setting permits (ADR 30).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.locks import TRY_LOCK_UPKEEP

# Each partitioned table with the column that selects the partition.
PARTITIONED = {"callbacks": "payment_id", "daraja_exchanges": "id"}

# No month is dropped before it is this old. A setting below this is refused.
KEPT_MONTHS_MIN = 3

# Partitions exist for this month and for this many months after it.
MONTHS_AHEAD = 2

# Machines' clocks differ, so an exchange may have an earlier time than its payment.
_CLOCKS_DIFFER_BY = "interval '1 day'"

# A call waits this long for a lock on a table that is in use. Later calls try again.
_LOCK_TIMEOUT = "500ms"

# All partitions with their bounds. NULL: no bound, or the default partition.
BOUNDS = r"""
SELECT parent.relname::text AS parent, child.relname::text AS partition,
    substring(bound.expression FROM $$FROM \('([0-9a-f-]{36})'\)$$)::uuid AS first_id,
    substring(bound.expression FROM $$TO \('([0-9a-f-]{36})'\)$$)::uuid AS end_id
FROM pg_inherits
JOIN pg_class AS parent ON parent.oid = inhparent
JOIN pg_class AS child ON child.oid = inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(child.relpartbound, child.oid) AS expression) AS bound
WHERE parent.relnamespace = 'mkwanja'::regnamespace AND parent.relkind = 'p'
"""

_TABLES = ", ".join(f"('{table}')" for table in PARTITIONED)

# While `alembic upgrade head` gives the old rows a partition with an end (`bounding.py`), a
# constraint refuses ids of later months. If the command was killed, this removes the constraint
# long before such an id exists.
BOUNDING = "ids_before_the_months"
_DISARM = f"""IF EXISTS (
            SELECT FROM pg_constraint
            WHERE conname = '{BOUNDING}'
                AND conrelid = to_regclass('mkwanja.' || table_name || '_before')
                AND mkwanja.time_of_id(
                    substring(pg_get_constraintdef(oid) FROM '[0-9a-f-]{{36}}')::uuid)
                    < now() + interval '14 days')
        THEN
            EXECUTE format('ALTER TABLE mkwanja.%I DROP CONSTRAINT {BOUNDING}',
                table_name || '_before');
        END IF;"""

# Creates the partition apart from its table, because ATTACH then waits for no reader of the table.
# If rows of the month are in the default partition already, they stay there, and the month gets no
# partition.
MAKE_PARTITIONS = Function(
    "make_partitions",
    parameters={"lock_timeout": "text"},
    returns={
        "table_name": "text",
        "made": "text[]",
        "missing": "int",
        "has_other_rows": "boolean",
    },
    runs_as_owner=True,
    body=f"""
DECLARE
    month timestamptz;
    this_month timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    new_name text;
BEGIN
    {LIMITS}
    IF NOT {TRY_LOCK_UPKEEP} THEN
        RETURN;
    END IF;
    FOR table_name IN SELECT name FROM (VALUES {_TABLES}) AS partitioned(name) LOOP
        made := '{{}}';
        missing := 0;
        {_DISARM}
        FOR ahead IN 0..{MONTHS_AHEAD} LOOP
            month := (this_month AT TIME ZONE 'UTC' + make_interval(months => ahead))
                AT TIME ZONE 'UTC';
            CONTINUE WHEN EXISTS (
                SELECT FROM ({BOUNDS}) AS bounds
                WHERE bounds.parent = table_name AND bounds.partition <> table_name || '_other'
                    AND coalesce(bounds.first_id <= mkwanja.first_id_at(month), true)
                    AND coalesce(bounds.end_id > mkwanja.first_id_at(month), true));
            new_name := table_name || to_char(month AT TIME ZONE 'UTC', '_YYYY_MM');
            BEGIN
                EXECUTE format('CREATE TABLE mkwanja.%I (LIKE mkwanja.%I INCLUDING ALL)',
                    new_name, table_name);
                PERFORM mkwanja.protect_partition(new_name);
                EXECUTE format('ALTER TABLE mkwanja.%I ATTACH PARTITION mkwanja.%I'
                    ' FOR VALUES FROM (%L) TO (%L)', table_name, new_name,
                    mkwanja.first_id_at(month),
                    mkwanja.first_id_at((month AT TIME ZONE 'UTC' + interval '1 month')
                        AT TIME ZONE 'UTC'));
                made := made || new_name;
            EXCEPTION WHEN check_violation OR lock_not_available THEN
                missing := missing + 1;
            END;
        END LOOP;
        has_other_rows := false;
        IF to_regclass('mkwanja.' || table_name || '_other') IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM mkwanja.%I)', table_name || '_other')
                INTO has_other_rows;
        END IF;
        RETURN NEXT;
    END LOOP;
END""",
)

# Whether one of the payments before an id may still need the evidence: it is not settled, or an
# event of it is not published. A final payment may still have a due step. OFFSET 0 makes PostgreSQL
# read the small partial indexes, and not all payments of the past.
_UNSETTLED = """
EXISTS (SELECT FROM (SELECT id FROM mkwanja.payments WHERE finalized_at IS NULL OFFSET 0) AS pending
    WHERE pending.id < limit_id)
OR EXISTS (SELECT FROM mkwanja.due_steps WHERE payment_id < limit_id)
OR EXISTS (SELECT FROM (SELECT id FROM mkwanja.payments WHERE needs_review OFFSET 0) AS flagged
    WHERE flagged.id < limit_id)
"""
# If there are more unpublished events than this, the function does not search them, and drops
# nothing.
_UNPUBLISHED_MAX = 5_000
_UNPUBLISHED = f"""
(SELECT count(*) > {_UNPUBLISHED_MAX} OR coalesce(bool_or(waiting.payment_id < limit_id), false)
FROM (
    (SELECT payment_id FROM mkwanja.unlisted_events LIMIT {_UNPUBLISHED_MAX + 1})
    UNION ALL (
        SELECT history.payment_id FROM mkwanja.events AS event
        JOIN mkwanja.payment_history AS history ON history.id = event.history_id
        WHERE event.position > (SELECT published_through FROM mkwanja.event_publisher)
        ORDER BY event.position LIMIT {_UNPUBLISHED_MAX + 1})
) AS waiting)
"""
# Drops at most one partition of each table, so a call locks a table only for a moment. It need not
# check keys: a key protects its payment only until a day after the payment is settled, and months
# have passed.
DROP_PARTITIONS = Function(
    "drop_partitions",
    parameters={"lock_timeout": "text"},
    returns={"table_name": "text", "dropped": "text", "kept": "text", "reason": "text"},
    runs_as_owner=True,
    body=f"""
DECLARE
    kept_since timestamptz;
    limit_id uuid;
    partition_name text;
    is_recent boolean;
BEGIN
    {LIMITS}
    IF NOT {TRY_LOCK_UPKEEP} THEN
        RETURN;
    END IF;
    FOR table_name, kept_since IN
        SELECT retention.table_name, (date_trunc('month', now() AT TIME ZONE 'UTC')
            - make_interval(months => retention.kept_months)) AT TIME ZONE 'UTC'
        FROM mkwanja.retention WHERE kept_months >= {KEPT_MONTHS_MIN}
            AND retention.table_name IN (SELECT name FROM (VALUES {_TABLES}) AS partitioned(name))
    LOOP
        dropped := NULL;
        kept := NULL;
        reason := NULL;
        SELECT bounds.partition, mkwanja.first_id_at(mkwanja.time_of_id(bounds.end_id)
            + {_CLOCKS_DIFFER_BY})
        INTO partition_name, limit_id
        FROM ({BOUNDS}) AS bounds
        WHERE bounds.parent = table_name AND bounds.end_id <= mkwanja.first_id_at(kept_since)
        ORDER BY bounds.end_id LIMIT 1;
        CONTINUE WHEN NOT FOUND;
        is_recent := false;
        IF table_name = 'callbacks' THEN
            -- The receiver's ids have their time too, so the index by id finds a late message.
            EXECUTE format('SELECT EXISTS (SELECT FROM mkwanja.%I WHERE id >= %L)',
                partition_name, mkwanja.first_id_at(kept_since)) INTO is_recent;
        END IF;
        IF {_UNSETTLED} THEN
            reason := 'unsettled_payment';
        ELSIF {_UNPUBLISHED} THEN
            reason := 'unpublished_event';
        ELSIF is_recent THEN
            reason := 'recent_message';
        END IF;
        IF reason IS NULL THEN
            BEGIN
                EXECUTE format('DROP TABLE mkwanja.%I', partition_name);
                dropped := partition_name;
            EXCEPTION WHEN lock_not_available THEN
                kept := partition_name;
                reason := 'table_in_use';
            END;
        ELSE
            kept := partition_name;
        END IF;
        RETURN NEXT;
    END LOOP;
END""",
)


@dataclass(frozen=True, slots=True)
class Made:
    """What `make_partitions` did for one table.

    `missing`: how many of the months that are needed have no partition. `has_other_rows`: whether
    the default partition has rows.
    """

    table: str
    made: tuple[str, ...]
    missing: int
    has_other_rows: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """A partition that was dropped, or one that is old enough and that `reason` keeps."""

    table: str
    dropped: str | None
    kept: str | None
    reason: str | None


async def make_partitions(database: Database) -> list[Made]:
    """Makes the partitions that are needed soon. Empty if another process is doing so."""
    rows = await database.call(MAKE_PARTITIONS, {"lock_timeout": _LOCK_TIMEOUT})
    return [Made(row.table_name, tuple(row.made), row.missing, row.has_other_rows) for row in rows]


async def drop_partitions(database: Database) -> list[Dropped]:
    """Drops the oldest partition of each table, if its retention is over and nothing needs it."""
    rows = await database.call(DROP_PARTITIONS, {"lock_timeout": _LOCK_TIMEOUT})
    return [Dropped(row.table_name, row.dropped, row.kept, row.reason) for row in rows]


def store_retention(connection: Connection, kept_months: Mapping[str, int | None]) -> None:
    """Stores for each table how many months are kept. None: all of them."""
    connection.execute(text("DELETE FROM mkwanja.retention"))
    for table, months in kept_months.items():
        if months is not None:
            connection.execute(
                text("INSERT INTO mkwanja.retention VALUES (:table, :months)"),
                {"table": table, "months": months},
            )
