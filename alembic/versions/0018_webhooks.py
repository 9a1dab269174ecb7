"""Endpoints of backends, the deliveries of events to them, and a record of each attempt.

Nothing here has a trigger or a key on a table of payments, so payments cost the same as before. The
processes of the previous release do not know these tables.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE mkwanja.webhook_endpoints (
        id                    uuid PRIMARY KEY,
        caller_key            text NOT NULL,     -- the backend that owns the endpoint
        url                   text NOT NULL,
        event_types           text[],            -- NULL: all
        description           text,
        status                text NOT NULL,
        status_reason         text,
        sealed_key            bytea NOT NULL,    -- signs the messages
        previous_sealed_key   bytea,             -- also signs, until the time beside it
        previous_key_until    timestamptz,
        position              bigint NOT NULL,   -- events of the feed up to here have their deliveries
        last_number           bigint NOT NULL DEFAULT 0,
        failing_since         timestamptz,       -- the first failure since the last success
        turn                  uuid,              -- the worker that sends at present, and until when
        turn_ends_at          timestamptz,
        woken_until           timestamptz,       -- until then, no sweep wakes a worker again
        created_at            timestamptz NOT NULL,
        updated_at            timestamptz NOT NULL,
        deleted_at            timestamptz,

        CONSTRAINT status_is_known CHECK (status IN ('enabled', 'disabled', 'paused')),
        CONSTRAINT status_has_its_reason CHECK ((status = 'enabled') = (status_reason IS NULL)),
        CONSTRAINT previous_key_has_an_end CHECK
            ((previous_sealed_key IS NULL) = (previous_key_until IS NULL)),
        CONSTRAINT turn_has_an_end CHECK ((turn IS NULL) = (turn_ends_at IS NULL))
    )
    """,
    """
    CREATE INDEX webhook_endpoints_of_caller ON mkwanja.webhook_endpoints (caller_key, created_at)
    WHERE deleted_at IS NULL
    """,
    """
    CREATE TABLE mkwanja.webhook_deliveries (
        endpoint_id      uuid NOT NULL REFERENCES mkwanja.webhook_endpoints (id),
        number           bigint NOT NULL,
        cause            text NOT NULL,
        event_id         uuid NOT NULL,
        event_type       text NOT NULL,
        payment_id       uuid,
        position         bigint,                 -- in the feed, if the feed caused it
        body             text,                   -- only of a test; others are in payment_history
        status           text NOT NULL,
        attempts         integer NOT NULL DEFAULT 0,
        is_sending       boolean NOT NULL DEFAULT false,
        next_attempt_at  timestamptz,            -- while it is sent: when another worker may send it
        retry_until      timestamptz NOT NULL,
        created_at       timestamptz NOT NULL,
        ended_at         timestamptz,

        CONSTRAINT deliveries_are_numbered PRIMARY KEY (endpoint_id, number),
        CONSTRAINT event_has_one_delivery UNIQUE (endpoint_id, position),
        CONSTRAINT cause_is_known CHECK (cause IN ('event', 'test', 'redelivery')),
        CONSTRAINT status_is_known CHECK (status IN ('pending', 'delivered', 'failed')),
        CONSTRAINT only_pending_has_a_next_attempt CHECK
            ((status = 'pending') = (next_attempt_at IS NOT NULL)),
        CONSTRAINT end_has_a_time CHECK ((status = 'pending') = (ended_at IS NULL)),
        CONSTRAINT only_pending_is_sent CHECK (status = 'pending' OR NOT is_sending)
    )
    """,
    """
    CREATE INDEX webhook_deliveries_due ON mkwanja.webhook_deliveries (endpoint_id, next_attempt_at)
    WHERE next_attempt_at IS NOT NULL
    """,
    """
    CREATE INDEX webhook_deliveries_waiting ON mkwanja.webhook_deliveries (endpoint_id, payment_id, number)
    WHERE next_attempt_at IS NOT NULL
    """,
    """
    CREATE TABLE mkwanja.webhook_attempts (
        endpoint_id      uuid NOT NULL,
        delivery_number  bigint NOT NULL,
        number           integer NOT NULL,
        attempted_at     timestamptz NOT NULL,
        outcome          text NOT NULL,
        http_status      integer,
        milliseconds     integer NOT NULL,
        answer           bytea NOT NULL,

        CONSTRAINT delivery_attempts_are_numbered PRIMARY KEY (endpoint_id, delivery_number, number),
        CONSTRAINT attempt_has_a_delivery FOREIGN KEY (endpoint_id, delivery_number)
            REFERENCES mkwanja.webhook_deliveries (endpoint_id, number),
        CONSTRAINT answer_is_short CHECK (octet_length(answer) <= 1024)
    )
    """,
    """
    CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.webhook_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in ("webhook_attempts", "webhook_deliveries", "webhook_endpoints"):
        op.execute(f"DROP TABLE mkwanja.{table}")
