"""The constraint that every open payment has a due time gets a name that says so.

A rename changes only the catalog: PostgreSQL reads no row and checks none again.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_RENAME = "ALTER TABLE mkwanja.payments RENAME CONSTRAINT {} TO {}"


def upgrade() -> None:
    op.execute(_RENAME.format("nothing_waits_for_nobody", "open_payment_has_a_due_time"))


def downgrade() -> None:
    op.execute(_RENAME.format("open_payment_has_a_due_time", "nothing_waits_for_nobody"))
