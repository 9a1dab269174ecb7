"""Meters of the amounts of a day, for callers and phone numbers that have many payments.

A limit of a day is the sum over the payments of the day. A meter holds this sum, so that a busy
caller's payments are not summed for each commit. The accepting function opens a meter only for a
caller or phone number that has many payments (`domain/adapters/postgres/meters.py`). Triggers keep
it right, so that it is also right beside processes of the previous release, which know no meter.
They only insert rows, so they wait for no other transaction.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# The day in Nairobi, which has no daylight saving time.
_DAY = "CAST({} AT TIME ZONE interval '3 hours' AS date)"

# A payment counts, unless it certainly moved no money.
_COUNTS = "({0}.stage <> 'failed' OR NOT coalesce({0}.failure_safe_to_retry, false))"

_LIMITS = (("caller.amount_per_day", "caller_key"), ("phone.amount_per_day", "phone_number"))

_FLIPPED = ", ".join(
    f"({_DAY.format(f'{row}.created_at')}, '{limit_name}', {row}.{subject},"
    f" CASE WHEN {_COUNTS.format(row)} THEN {sign}{row}.amount_kes ELSE 0 END)"
    for limit_name, subject in _LIMITS
    for row, sign in (("OLD", "-"), ("NEW", ""))
)

_STATEMENTS = (
    """
    CREATE TABLE mkwanja.limit_meters (
        day         date NOT NULL,     -- in Nairobi
        limit_name  text NOT NULL,
        subject     text NOT NULL,     -- a caller or a phone number
        amount      bigint,            -- with limit_changes: what is used. NULL: not counted yet
        count_after bigint,            -- the payments are counted after this transaction and all before it

        CONSTRAINT one_meter_per_limit_and_day PRIMARY KEY (day, limit_name, subject),
        CONSTRAINT meter_is_of_a_day CHECK (limit_name IN ('caller.amount_per_day', 'phone.amount_per_day')),
        CONSTRAINT count_waits_for_others CHECK (amount IS NULL OR count_after IS NOT NULL)
    )
    """,
    # What payments added to a meter or gave back to it, and what the meter does not contain yet.
    """
    CREATE TABLE mkwanja.limit_changes (
        day        date NOT NULL,
        limit_name text NOT NULL,
        subject    text NOT NULL,
        number     bigint GENERATED ALWAYS AS IDENTITY,
        amount     bigint NOT NULL,

        CONSTRAINT limit_changes_are_numbered PRIMARY KEY (day, limit_name, subject, number)
    )
    """,
    # A new payment. If no meter is open, this costs one look at an empty table.
    f"""
    CREATE FUNCTION mkwanja.meter_new_payments() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM mkwanja.limit_meters) THEN
            RETURN NULL;
        END IF;
        INSERT INTO mkwanja.limit_changes (day, limit_name, subject, amount)
        SELECT meter.day, meter.limit_name, meter.subject, sum(accepted.amount_kes)
        FROM accepted
        CROSS JOIN LATERAL (VALUES {", ".join(f"('{name}', {subject})" for name, subject in _LIMITS)})
            AS charged(limit_name, subject)
        CROSS JOIN LATERAL (
            SELECT * FROM mkwanja.limit_meters AS meter
            WHERE (meter.day, meter.limit_name, meter.subject)
                = ({_DAY.format("accepted.created_at")}, charged.limit_name, charged.subject)
            LIMIT 1
        ) AS meter
        WHERE {_COUNTS.format("accepted")}
        GROUP BY meter.day, meter.limit_name, meter.subject;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER new_payments_are_metered AFTER INSERT ON mkwanja.payments
    REFERENCING NEW TABLE AS accepted FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.meter_new_payments()
    """,
    # A payment that begins or ceases to count. The WHEN is cheap for all other changes.
    f"""
    CREATE FUNCTION mkwanja.meter_changed_payment() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM mkwanja.limit_meters) THEN
            RETURN NULL;
        END IF;
        INSERT INTO mkwanja.limit_changes (day, limit_name, subject, amount)
        SELECT meter.day, meter.limit_name, meter.subject, sum(changed.amount)
        FROM (VALUES {_FLIPPED}) AS changed(day, limit_name, subject, amount)
        JOIN mkwanja.limit_meters AS meter USING (day, limit_name, subject)
        GROUP BY meter.day, meter.limit_name, meter.subject HAVING sum(changed.amount) <> 0;
        RETURN NULL;
    END $$
    """,
    f"""
    CREATE TRIGGER changed_payments_are_metered AFTER UPDATE ON mkwanja.payments FOR EACH ROW
    WHEN ({_COUNTS.format("OLD")} <> {_COUNTS.format("NEW")} OR OLD.amount_kes <> NEW.amount_kes
        OR OLD.created_at <> NEW.created_at OR OLD.caller_key <> NEW.caller_key
        OR OLD.phone_number IS DISTINCT FROM NEW.phone_number)
    EXECUTE FUNCTION mkwanja.meter_changed_payment()
    """,
    # The next two functions run with their owner's rights, so the role of the processes needs no
    # right to delete.
    """
    CREATE FUNCTION mkwanja.take_in_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
    BEGIN
        WITH taken AS (
            DELETE FROM mkwanja.limit_changes
            WHERE (day, limit_name, subject) = (NEW.day, NEW.limit_name, NEW.subject)
            RETURNING amount
        )
        SELECT NEW.amount + coalesce(sum(amount), 0) INTO NEW.amount FROM taken;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER meter_takes_in_changes BEFORE UPDATE ON mkwanja.limit_meters FOR EACH ROW
    WHEN (NEW.amount = OLD.amount) EXECUTE FUNCTION mkwanja.take_in_changes()
    """,
    f"""
    CREATE FUNCTION mkwanja.delete_old_meters() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
    DECLARE
        today date := {_DAY.format("now()")};
    BEGIN
        DELETE FROM mkwanja.limit_meters WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM mkwanja.limit_meters WHERE day < today - 1 LIMIT 100 FOR UPDATE SKIP LOCKED));
        DELETE FROM mkwanja.limit_changes WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM mkwanja.limit_changes WHERE day < today - 1 LIMIT 1000 FOR UPDATE SKIP LOCKED));
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER new_meter_replaces_old_ones AFTER INSERT ON mkwanja.limit_meters
    FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.delete_old_meters()
    """,
)


def upgrade() -> None:
    # No meter is filled here. The accepting function opens and counts a meter when it is needed.
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER changed_payments_are_metered ON mkwanja.payments")
    op.execute("DROP TRIGGER new_payments_are_metered ON mkwanja.payments")
    op.execute("DROP TABLE mkwanja.limit_changes")
    op.execute("DROP TABLE mkwanja.limit_meters")
    for name in (
        "meter_new_payments",
        "meter_changed_payment",
        "take_in_changes",
        "delete_old_meters",
    ):
        op.execute(f"DROP FUNCTION mkwanja.{name}()")
