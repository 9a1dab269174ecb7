"""Which inquiries were probes of the breaker: they are no part of a payment's own schedule."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Older rows may be probes as well. They then count as before, which asks later and never
    # sooner.
    op.execute("ALTER TABLE mkwanja.inquiries ADD COLUMN is_probe boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.inquiries DROP COLUMN is_probe")
