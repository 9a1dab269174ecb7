"""The due steps of payments in a small table of their own, so that most updates are HOT.

An update of a row writes all of its indexes, if it changes an indexed column. The due step changes
with each update of a payment, and was indexed. Now triggers copy it to `due_steps`, where the
sweeper looks for it. They do so for each writer, so a process of the previous release loses no
step. Only its sweeper is slower: it reads all payments, because its index is gone.
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # A writer that has locked a row and then waits for us would deadlock with a weaker lock. All of
    # this takes a moment, however many payments there are.
    "LOCK TABLE mkwanja.payments IN ACCESS EXCLUSIVE MODE",
    """
    CREATE TABLE mkwanja.due_steps (
        next_step    text NOT NULL,
        next_step_at timestamptz NOT NULL,
        payment_id   uuid NOT NULL,
        kind         text NOT NULL,     -- of the payment

        CONSTRAINT due_steps_have_an_order PRIMARY KEY (next_step, next_step_at, payment_id)
    )
    """,
    """
    INSERT INTO mkwanja.due_steps (next_step, next_step_at, payment_id, kind)
    SELECT next_step, next_step_at, id, kind FROM mkwanja.payments WHERE next_step_at IS NOT NULL
    """,
    """
    CREATE FUNCTION mkwanja.add_due_steps() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO mkwanja.due_steps (next_step, next_step_at, payment_id, kind)
        SELECT next_step, next_step_at, id, kind FROM accepted WHERE next_step_at IS NOT NULL
        ON CONFLICT DO NOTHING;  -- a restore of rows may have filled this table first
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER due_steps_are_added AFTER INSERT ON mkwanja.payments
    REFERENCING NEW TABLE AS accepted FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.add_due_steps()
    """,
    # The payment's row is locked, so no other transaction changes its step meanwhile. A plan that was
    # made while the table was small must not read all of it when it is large.
    """
    CREATE FUNCTION mkwanja.move_due_step() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
    BEGIN
        UPDATE mkwanja.due_steps SET next_step = NEW.next_step, next_step_at = NEW.next_step_at
        WHERE next_step = OLD.next_step AND next_step_at = OLD.next_step_at AND payment_id = OLD.id;
        IF NOT FOUND THEN
            INSERT INTO mkwanja.due_steps (next_step, next_step_at, payment_id, kind)
            VALUES (NEW.next_step, NEW.next_step_at, NEW.id, NEW.kind)
            ON CONFLICT DO NOTHING;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER due_step_is_moved AFTER UPDATE ON mkwanja.payments FOR EACH ROW
    WHEN (NEW.next_step_at IS NOT NULL AND (OLD.next_step_at IS DISTINCT FROM NEW.next_step_at
        OR OLD.next_step IS DISTINCT FROM NEW.next_step))
    EXECUTE FUNCTION mkwanja.move_due_step()
    """,
    # This one runs with its owner's rights, so the role of the processes needs no right to delete.
    """
    CREATE FUNCTION mkwanja.remove_due_step() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
    BEGIN
        DELETE FROM mkwanja.due_steps
        WHERE next_step = OLD.next_step AND next_step_at = OLD.next_step_at AND payment_id = OLD.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER due_step_is_removed AFTER UPDATE ON mkwanja.payments FOR EACH ROW
    WHEN (OLD.next_step_at IS NOT NULL AND NEW.next_step_at IS NULL)
    EXECUTE FUNCTION mkwanja.remove_due_step()
    """,
    "DROP INDEX mkwanja.payments_due",
    # A HOT update needs room on the row's own page.
    "ALTER TABLE mkwanja.payments SET (fillfactor = 80)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("LOCK TABLE mkwanja.payments IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER TABLE mkwanja.payments RESET (fillfactor)")
    op.execute(
        "CREATE INDEX payments_due ON mkwanja.payments (next_step, next_step_at)"
        " WHERE next_step_at IS NOT NULL"
    )
    for trigger, function in (
        ("due_steps_are_added", "add_due_steps"),
        ("due_step_is_moved", "move_due_step"),
        ("due_step_is_removed", "remove_due_step"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON mkwanja.payments")
        op.execute(f"DROP FUNCTION mkwanja.{function}()")
    op.execute("DROP TABLE mkwanja.due_steps")
