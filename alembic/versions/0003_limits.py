"""An index for limits, and the receipt of a message whose success is not confirmed yet."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The daily limit of a caller uses this index. The limits of a phone number use
    # `payments_by_phone_number`.
    op.execute("CREATE INDEX payments_by_caller ON mkwanja.payments (caller_key, created_at)")
    # The receipt in a message, stored until Daraja confirms it. NULL in rows that are older than
    # this column.
    op.execute("ALTER TABLE mkwanja.callbacks ADD COLUMN receipt text")


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.callbacks DROP COLUMN receipt")
    op.execute("DROP INDEX mkwanja.payments_by_caller")
