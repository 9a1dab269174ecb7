"""Payments to a Pochi la Biashara till, and the operation of Daraja for them."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KINDS = "'deposit', 'withdrawal', 'bill_payment'"
_OPERATIONS = "'stk_push', 'b2c', 'b2b', 'stk_query', 'status'"


def _allow(kinds: str, operations: str, *, unread: str = "") -> None:
    op.execute(f"""
        ALTER TABLE mkwanja.payments DROP CONSTRAINT kind_is_known,
            ADD CONSTRAINT kind_is_known CHECK (kind IN ({kinds})){unread}
    """)
    op.execute(f"""
        ALTER TABLE mkwanja.brakes DROP CONSTRAINT brake_is_known, DROP CONSTRAINT held_operation_is_probed,
            ADD CONSTRAINT brake_is_known CHECK (name IN ('kill_switch', 'breaker', {operations})),
            ADD CONSTRAINT held_operation_is_probed CHECK (
                NOT is_engaged OR name NOT IN ({operations}) OR (cool_down IS NOT NULL AND probe_at IS NOT NULL))
    """)


def upgrade() -> None:
    # With NOT VALID, PostgreSQL does not read a large table under a lock. Every row meets the
    # constraint, because it is wider than before.
    _allow(f"{_KINDS}, 'pochi_payment'", f"{_OPERATIONS}, 'b2pochi'", unread=" NOT VALID")
    op.execute("INSERT INTO mkwanja.brakes (name) VALUES ('b2pochi')")


def downgrade() -> None:
    # If Pochi payments exist, Postgres rejects the older constraint, and the downgrade fails. This
    # is intended, because an older process could neither read nor end them.
    op.execute("DELETE FROM mkwanja.brakes WHERE name = 'b2pochi'")
    _allow(_KINDS, _OPERATIONS)
