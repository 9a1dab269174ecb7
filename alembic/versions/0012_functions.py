"""Functions for what runs with every payment.

The release installs them after the migrations (`domain/adapters/postgres/functions.py`), because
their text stands beside the code that calls them. A release before this one has none.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_DROP = """
DO $$
DECLARE
    installed record;
BEGIN
    FOR installed IN
        SELECT oid::regprocedure AS signature FROM pg_proc
        WHERE pronamespace = 'mkwanja'::regnamespace
            AND obj_description(oid, 'pg_proc') LIKE 'installed by the release at %'
    LOOP
        EXECUTE format('DROP FUNCTION %s', installed.signature);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Changes nothing."""


def downgrade() -> None:
    op.execute(_DROP)
