"""What operators do in the console: who saw a number in full, and who set a brake.

The index finds the decisions of operators. It holds only their entries, so other entries do not
write it. The processes of the previous release work on: they name neither the table nor the column.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE mkwanja.console_disclosures (
            id           uuid PRIMARY KEY,
            payment_id   uuid NOT NULL,
            disclosed_at timestamptz NOT NULL,
            operator     text NOT NULL,
            reason       text NOT NULL
        )
        """
    )
    op.execute(
        "CREATE INDEX console_disclosures_of_payment"
        " ON mkwanja.console_disclosures (payment_id, disclosed_at)"
    )
    op.execute(
        "CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE"
        " ON mkwanja.console_disclosures"
        " FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()"
    )
    op.execute("ALTER TABLE mkwanja.brake_history ADD COLUMN operator text")
    op.execute(
        "CREATE INDEX payment_history_decisions ON mkwanja.payment_history (recorded_at)"
        " WHERE what IN ('resolved_paid', 'resolved_unpaid', 'reviewed', 'inquiry_asked_for')"
    )


def downgrade() -> None:
    op.execute("DROP INDEX mkwanja.payment_history_decisions")
    op.execute("ALTER TABLE mkwanja.brake_history DROP COLUMN operator")
    op.execute("DROP TABLE mkwanja.console_disclosures")
