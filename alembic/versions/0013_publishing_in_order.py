"""Publishes events in the order of the feed, and remembers only how far it is.

Before, each payment had `event_due` while an event of it was unpublished, and each publication had
a row in `event_publications`. Processes of the previous release still use both while they run, so
this release leaves them as they are. It neither reads nor writes them.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# An event of a payment with `event_due` that has no recorded publication.
_UNPUBLISHED = """
    FROM mkwanja.payments AS payment
    JOIN mkwanja.payment_history AS history
        ON history.payment_id = payment.id AND history.event_body IS NOT NULL
    JOIN mkwanja.events AS event ON event.history_id = history.id
    WHERE payment.event_due IS NOT NULL AND NOT EXISTS (
        SELECT FROM mkwanja.event_publications AS publication WHERE publication.history_id = history.id)
"""


def upgrade() -> None:
    op.execute("""
        CREATE TABLE mkwanja.event_publisher (
            is_only_row       boolean DEFAULT true NOT NULL,
            published_through bigint NOT NULL,
            publisher         uuid,
            turn_ends_at      timestamptz,

            CONSTRAINT there_is_one_publisher PRIMARY KEY (is_only_row),
            CONSTRAINT publisher_has_one_row CHECK (is_only_row),
            CONSTRAINT turn_has_an_end CHECK ((publisher IS NULL) = (turn_ends_at IS NULL))
        )
    """)
    # The first unpublished event, and all events that were listed after it, are published after the
    # upgrade. Some of them were published before, and are published again with the same ids.
    # Events without a position get one later, so they are published too.
    op.execute(f"""
        INSERT INTO mkwanja.event_publisher (published_through)
        SELECT coalesce(
            (SELECT min(event.position) - 1 {_UNPUBLISHED}),
            (SELECT max(position) FROM mkwanja.events),
            0)
    """)


def downgrade() -> None:
    # The previous release publishes the events that this release has not published.
    op.execute("""
        UPDATE mkwanja.payments AS payment SET event_due = now()
        FROM mkwanja.payment_history AS history
        LEFT JOIN mkwanja.events AS event ON event.history_id = history.id
        WHERE history.payment_id = payment.id AND history.event_body IS NOT NULL
          AND coalesce(event.position > (SELECT published_through FROM mkwanja.event_publisher), true)
    """)
    op.execute("DROP TABLE mkwanja.event_publisher")
