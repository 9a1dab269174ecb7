"""Marks inquiries that are probes of the breaker. The payment's own schedule ignores them."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Older rows may be probes as well. They still count, which delays an inquiry but never makes it
    # earlier.
    op.execute("ALTER TABLE mkwanja.inquiries ADD COLUMN is_probe boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.inquiries DROP COLUMN is_probe")
