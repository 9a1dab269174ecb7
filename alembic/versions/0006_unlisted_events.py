"""A queue of events that have no position in the feed yet.

The cost of listing a batch no longer depends on the length of the queue. Before, the sweeper
searched these events among all payments with an unpublished event. If there were many, for example
after a day without Redis, the search took longer than the limit of a statement.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # The commit that stores the fact draws `number` under the payment's lock, so the events of a
    # payment keep their order.
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
    # Triggers fill and empty the queue, not the code, because processes of the previous release may
    # still write history and list events.
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
    # The function runs with its owner's rights, so the role of the processes needs no right to
    # delete.
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
