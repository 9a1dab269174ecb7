"""What limits count, and what a message claimed that is still to be confirmed."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A caller's day; a phone number's day and minute are found by `payments_by_phone_number`.
    op.execute("CREATE INDEX payments_by_caller ON mkwanja.payments (caller_key, created_at)")
    # The receipt that a message named, kept until Daraja has confirmed it. NULL in rows that are
    # older than this column.
    op.execute("ALTER TABLE mkwanja.callbacks ADD COLUMN receipt text")


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.callbacks DROP COLUMN receipt")
    op.execute("DROP INDEX mkwanja.payments_by_caller")
