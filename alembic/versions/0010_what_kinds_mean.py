"""Stores with the payment whether it moves money out, and until when it may be sent.

Before, both were computed from the payment's kind.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# The rules of the previous release for its kinds, with the default times.
_MOVES_MONEY_OUT = "{row}kind <> 'deposit'"
_EXPIRES_AT = """{row}created_at + CASE {row}kind
    WHEN 'deposit' THEN interval '60 seconds' WHEN 'withdrawal' THEN interval '1 day' ELSE interval '10 minutes' END"""


def upgrade() -> None:
    # NULL in rows that were final before. Nothing is sent for them any more, and a large table is
    # not rewritten.
    op.execute("""
        ALTER TABLE mkwanja.payments ADD COLUMN moves_money_out boolean, ADD COLUMN expires_at timestamptz
    """)
    op.execute(f"""
        UPDATE mkwanja.payments
        SET moves_money_out = {_MOVES_MONEY_OUT.format(row="")}, expires_at = {_EXPIRES_AT.format(row="")}
        WHERE next_step_at IS NOT NULL
    """)
    # While an older web process still runs with this schema, its payments lack both columns. A
    # trigger fills them in. Rows of this release do not meet the trigger's condition, and checking
    # it is their only cost.
    op.execute(f"""
        CREATE FUNCTION mkwanja.fill_in_what_kinds_mean() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog AS $$
        BEGIN
            NEW.moves_money_out := {_MOVES_MONEY_OUT.format(row="NEW.")};
            NEW.expires_at := {_EXPIRES_AT.format(row="NEW.")};
            RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER older_processes_leave_out_what_kinds_mean BEFORE INSERT ON mkwanja.payments FOR EACH ROW
        WHEN (NEW.expires_at IS NULL) EXECUTE FUNCTION mkwanja.fill_in_what_kinds_mean()
    """)
    # The constraint covers payments that can still be sent. A payment that ended before has neither
    # column, and we may inquire about it again. The constraint is NOT VALID, because the UPDATE
    # above made it true for every row, and callbacks must not wait for a lock while PostgreSQL
    # reads a large table.
    op.execute("""
        ALTER TABLE mkwanja.payments ADD CONSTRAINT open_payment_knows_its_brakes_and_its_end CHECK (
            stage IN ('succeeded', 'failed') OR (moves_money_out IS NOT NULL AND expires_at IS NOT NULL)) NOT VALID
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER older_processes_leave_out_what_kinds_mean ON mkwanja.payments")
    op.execute("DROP FUNCTION mkwanja.fill_in_what_kinds_mean()")
    op.execute("ALTER TABLE mkwanja.payments DROP COLUMN expires_at, DROP COLUMN moves_money_out")
