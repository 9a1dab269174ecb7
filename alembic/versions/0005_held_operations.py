"""A brake for each of Daraja's operations.

It stores the time of its next probe, and the number of consecutive refusals of our settings.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OPERATIONS = "'stk_push', 'b2c', 'b2b', 'stk_query', 'status'"


def upgrade() -> None:
    op.execute("ALTER TABLE mkwanja.brakes ADD COLUMN refusals integer NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE mkwanja.brakes ADD COLUMN cool_down interval")
    op.execute("ALTER TABLE mkwanja.brakes ADD COLUMN probe_at timestamptz")
    op.execute("ALTER TABLE mkwanja.brakes DROP CONSTRAINT brake_is_known")
    op.execute(
        "ALTER TABLE mkwanja.brakes ADD CONSTRAINT brake_is_known"
        f" CHECK (name IN ('kill_switch', 'breaker', {_OPERATIONS}))"
    )
    # Without the time of the next probe, an operation would stay held until a person releases it.
    op.execute(
        "ALTER TABLE mkwanja.brakes ADD CONSTRAINT held_operation_is_probed"
        f" CHECK (NOT is_engaged OR name NOT IN ({_OPERATIONS}) OR (cool_down IS NOT NULL AND probe_at IS NOT NULL))"
    )
    op.execute(f"INSERT INTO mkwanja.brakes (name) SELECT unnest(ARRAY[{_OPERATIONS}])")


def downgrade() -> None:
    op.execute("ALTER TABLE mkwanja.brakes DROP CONSTRAINT held_operation_is_probed")
    op.execute(f"DELETE FROM mkwanja.brakes WHERE name IN ({_OPERATIONS})")
    op.execute("ALTER TABLE mkwanja.brakes DROP CONSTRAINT brake_is_known")
    op.execute(
        "ALTER TABLE mkwanja.brakes ADD CONSTRAINT brake_is_known CHECK (name IN ('kill_switch', 'breaker'))"
    )
    op.execute("ALTER TABLE mkwanja.brakes DROP COLUMN probe_at")
    op.execute("ALTER TABLE mkwanja.brakes DROP COLUMN cool_down")
    op.execute("ALTER TABLE mkwanja.brakes DROP COLUMN refusals")
