"""The account of each attempt, and a mark for inquiries with another account than the worker's."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL in rows that are older than this column. Nothing proves which account sent those, so they
    # are not sent again.
    op.execute("ALTER TABLE mkwanja.attempts ADD COLUMN account text")
    op.execute(
        "ALTER TABLE mkwanja.inquiries ADD COLUMN of_former_account boolean NOT NULL DEFAULT false"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.inquiries DROP COLUMN of_former_account")
    op.execute("ALTER TABLE mkwanja.attempts DROP COLUMN account")
