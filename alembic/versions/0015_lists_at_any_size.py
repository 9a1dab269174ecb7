"""Indexes for every filter of the list of payments.

Two former indexes become partial, because most withdrawals have no owner and no reference. The list
of a kind, of a status, and of both for one owner have an index now. A final payment is in these
indexes once, because the index of pending payments is another one.

Building the indexes blocks writes for some seconds per million payments. On a large database, an
operator may build them before the upgrade, while everything runs (docs/deployment/postgres.md). Then this
migration finds them.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INDEXES = {
    "payments_pending": "(kind, created_at, id) WHERE finalized_at IS NULL",
    "payments_final": "(kind, (failure_reason IS NULL), created_at, id) WHERE finalized_at IS NOT NULL",
    "payments_final_of_owner": "(owner, kind, (failure_reason IS NULL), created_at, id)"
    " WHERE finalized_at IS NOT NULL AND owner IS NOT NULL",
    "payments_of_owner": "(owner, created_at, id) WHERE owner IS NOT NULL",
    "payments_of_reference": "(account_reference, created_at, id) WHERE account_reference IS NOT NULL",
}

# PostgreSQL leaves an invalid index behind if CREATE INDEX CONCURRENTLY fails.
_DROP_INVALID = """
DO $$
DECLARE
    invalid record;
BEGIN
    FOR invalid IN
        SELECT indexrelid::regclass AS name FROM pg_index
        WHERE indrelid = 'mkwanja.payments'::regclass AND NOT indisvalid
    LOOP
        EXECUTE format('DROP INDEX %s', invalid.name);
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(_DROP_INVALID)
    for name, definition in _INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON mkwanja.payments {definition}")
    op.execute("DROP INDEX mkwanja.payments_by_owner")
    op.execute("DROP INDEX mkwanja.payments_by_account_reference")


def downgrade() -> None:
    op.execute("CREATE INDEX payments_by_owner ON mkwanja.payments (owner, created_at, id)")
    op.execute(
        "CREATE INDEX payments_by_account_reference ON mkwanja.payments (account_reference, created_at, id)"
    )
    for name in _INDEXES:
        op.execute(f"DROP INDEX mkwanja.{name}")
