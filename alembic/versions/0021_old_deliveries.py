"""Deliveries of webhooks that ended long ago can be deleted, with their attempts.

Only a function of the owner deletes them (`old_deliveries.py`). Triggers still refuse every change of
an attempt, every other deletion, and the deletion of an attempt of the last months. Deliveries that wait for an endpoint that
was deleted end, because they can never be sent. The processes of the previous release go on.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# A retention has three months at least, and an attempt is older than the end of its delivery.
_STATEMENTS = (
    "SET LOCAL lock_timeout = '10s'",
    """
    CREATE INDEX webhook_deliveries_ended ON mkwanja.webhook_deliveries (ended_at)
    WHERE ended_at IS NOT NULL
    """,
    "DROP TRIGGER is_insert_only ON mkwanja.webhook_attempts",
    """
    CREATE TRIGGER is_insert_only BEFORE UPDATE OR TRUNCATE ON mkwanja.webhook_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()
    """,
    """
    CREATE TRIGGER is_deleted_by_its_function BEFORE DELETE ON mkwanja.webhook_attempts
    FOR EACH STATEMENT WHEN (current_setting('mkwanja.deletes_old_deliveries', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION mkwanja.refuse_change()
    """,
    """
    CREATE TRIGGER is_kept BEFORE DELETE ON mkwanja.webhook_attempts
    FOR EACH ROW WHEN (OLD.attempted_at > now() - interval '2 months')
    EXECUTE FUNCTION mkwanja.refuse_change()
    """,
    """
    UPDATE mkwanja.webhook_deliveries AS delivery
    SET status = 'failed', is_sending = false, next_attempt_at = NULL, ended_at = endpoint.deleted_at
    FROM mkwanja.webhook_endpoints AS endpoint
    WHERE endpoint.id = delivery.endpoint_id AND endpoint.deleted_at IS NOT NULL
        AND delivery.next_attempt_at IS NOT NULL
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX mkwanja.webhook_deliveries_ended")
    for trigger in ("is_kept", "is_deleted_by_its_function", "is_insert_only"):
        op.execute(f"DROP TRIGGER {trigger} ON mkwanja.webhook_attempts")
    op.execute("""
        CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.webhook_attempts
        FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()
    """)
    # A release that does not know this retention keeps all deliveries.
    op.execute("DELETE FROM mkwanja.retention WHERE table_name = 'webhook_deliveries'")
