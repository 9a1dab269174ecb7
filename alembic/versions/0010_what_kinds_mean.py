"""Whether money goes out, and until when a payment may be sent, kept with the payment instead of
worked out from its kind.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What processes of the release before knew of the kinds there were, with the times as shipped.
_MOVES_MONEY_OUT = "{row}kind <> 'deposit'"
_EXPIRES_AT = """{row}created_at + CASE {row}kind
    WHEN 'deposit' THEN interval '60 seconds' WHEN 'withdrawal' THEN interval '1 day' ELSE interval '10 minutes' END"""


def upgrade() -> None:
    # NULL in rows that were over before: nothing is sent for them any more, and a large table is
    # not rewritten.
    op.execute("""
        ALTER TABLE mkwanja.payments ADD COLUMN moves_money_out boolean, ADD COLUMN expires_at timestamptz
    """)
    op.execute(f"""
        UPDATE mkwanja.payments
        SET moves_money_out = {_MOVES_MONEY_OUT.format(row="")}, expires_at = {_EXPIRES_AT.format(row="")}
        WHERE next_step_at IS NOT NULL
    """)
    # While an older web process still runs beside this schema, its payments lack both: they are
    # filled in. Rows of this release do not meet the condition, which is all that the trigger costs
    # them.
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
    # Of payments that can still be sent. One that ended before may be asked about again, and has
    # neither. NOT VALID: true of every row by the UPDATE above, and a large table is not read under
    # a lock that keeps callbacks waiting.
    op.execute("""
        ALTER TABLE mkwanja.payments ADD CONSTRAINT open_payment_knows_its_brakes_and_its_end CHECK (
            stage IN ('succeeded', 'failed') OR (moves_money_out IS NOT NULL AND expires_at IS NOT NULL)) NOT VALID
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER older_processes_leave_out_what_kinds_mean ON mkwanja.payments")
    op.execute("DROP FUNCTION mkwanja.fill_in_what_kinds_mean()")
    op.execute("ALTER TABLE mkwanja.payments DROP COLUMN expires_at, DROP COLUMN moves_money_out")
