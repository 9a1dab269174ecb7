"""Events that have no position in the feed yet, as a queue: to list a batch costs the batch,
however many wait.

Before, they were found as those that were not listed, among all payments that owe an announcement.
With many of those (Redis was away for a day) that took longer than a statement may.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # `number` is drawn in the commit that makes the fact, under its payment's lock: so a payment's
    # events keep their order.
    """
    CREATE TABLE mkwanja.unlisted_events (
        number     bigint GENERATED ALWAYS AS IDENTITY,
        history_id uuid NOT NULL,
        payment_id uuid NOT NULL,
        sequence   integer NOT NULL,

        CONSTRAINT unlisted_events_have_an_order PRIMARY KEY (number),
        CONSTRAINT event_is_queued_once UNIQUE (history_id)
    )
    """,
    # In and out by triggers, not by the code: while the release before this one still runs, it
    # writes history and lists too.
    """
    CREATE FUNCTION mkwanja.queue_for_listing() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO mkwanja.unlisted_events (history_id, payment_id, sequence)
        VALUES (NEW.id, NEW.payment_id, NEW.sequence);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER event_is_queued_for_listing AFTER INSERT ON mkwanja.payment_history
    FOR EACH ROW WHEN (NEW.event_body IS NOT NULL) EXECUTE FUNCTION mkwanja.queue_for_listing()
    """,
    # It runs with its owner's rights, so that the role of the processes needs no right to delete.
    """
    CREATE FUNCTION mkwanja.take_from_queue() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
    BEGIN
        DELETE FROM mkwanja.unlisted_events AS waiting USING listed WHERE waiting.history_id = listed.history_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER event_is_taken_from_queue AFTER INSERT ON mkwanja.events
    REFERENCING NEW TABLE AS listed FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.take_from_queue()
    """,
    """
    INSERT INTO mkwanja.unlisted_events (history_id, payment_id, sequence)
    SELECT id, payment_id, sequence FROM (
        SELECT history.id, history.payment_id, history.sequence,
            max(history.recorded_at) OVER (PARTITION BY history.payment_id ORDER BY history.sequence) AS recorded_at
        FROM mkwanja.payments AS payment
        JOIN mkwanja.payment_history AS history
            ON history.payment_id = payment.id AND history.event_body IS NOT NULL
        WHERE payment.event_due IS NOT NULL
          AND NOT EXISTS (SELECT FROM mkwanja.events AS event WHERE event.history_id = history.id)
    ) AS waiting ORDER BY recorded_at, payment_id, sequence
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER event_is_taken_from_queue ON mkwanja.events")
    op.execute("DROP FUNCTION mkwanja.take_from_queue()")
    op.execute("DROP TRIGGER event_is_queued_for_listing ON mkwanja.payment_history")
    op.execute("DROP FUNCTION mkwanja.queue_for_listing()")
    op.execute("DROP TABLE mkwanja.unlisted_events")
