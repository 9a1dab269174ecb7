"""Inquiries: the step that is due, answers to inquiries, and what messages report.

It also adds the history of the brakes and the order of events.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = """
-- The step that is due. Each kind of step has its own queue in due order (one index, without
-- finished rows).
ALTER TABLE mkwanja.payments ADD COLUMN next_step text;
UPDATE mkwanja.payments AS payment SET next_step = CASE
    WHEN stage = 'accepted' THEN 'submit'
    WHEN stage = 'submitting' THEN 'end_lease'
    WHEN kind = 'withdrawal' THEN 'status'
    WHEN kind = 'deposit' AND EXISTS (SELECT FROM mkwanja.provider_ids AS ids
        WHERE ids.payment_id = payment.id AND ids.kind = 'checkout_request_id' AND ids.attempt_id IS NOT NULL) THEN 'query'
    WHEN kind = 'bill_payment' AND EXISTS (SELECT FROM mkwanja.provider_ids AS ids
        WHERE ids.payment_id = payment.id AND ids.kind = 'originator_conversation_id' AND ids.attempt_id IS NOT NULL)
        THEN 'status'
    ELSE 'watch' END
WHERE next_step_at IS NOT NULL;
ALTER TABLE mkwanja.payments ADD CONSTRAINT next_step_is_known CHECK (
    next_step IN ('submit', 'end_lease', 'query', 'status', 'watch'));
ALTER TABLE mkwanja.payments ADD CONSTRAINT next_step_has_a_time CHECK ((next_step IS NULL) = (next_step_at IS NULL));
DROP INDEX mkwanja.payments_due;
CREATE INDEX payments_due ON mkwanja.payments (next_step, next_step_at) WHERE next_step_at IS NOT NULL;

ALTER TABLE mkwanja.inquiries DROP COLUMN answer;
-- The verdict of the first answer, and Daraja's own code if it gave one. Both are NULL before the
-- answer.
ALTER TABLE mkwanja.inquiries ADD COLUMN verdict text;
ALTER TABLE mkwanja.inquiries ADD COLUMN code text;
UPDATE mkwanja.inquiries SET answered_at = NULL;
ALTER TABLE mkwanja.inquiries ADD CONSTRAINT verdict_is_known CHECK (
    verdict IN ('paid', 'failed', 'under_way', 'not_found', 'no_result', 'vague', 'no_answer'));
ALTER TABLE mkwanja.inquiries ADD CONSTRAINT answered_has_a_verdict CHECK ((verdict IS NULL) = (answered_at IS NULL));

-- What the message reports. NULL in rows that are older than this column.
ALTER TABLE mkwanja.callbacks ADD COLUMN word text;
-- An exchange without an attempt is an inquiry.
ALTER TABLE mkwanja.daraja_exchanges ALTER COLUMN attempt_id DROP NOT NULL;

-- A probe of the breaker inquires about the payment that opened it. The time between probes grows.
ALTER TABLE mkwanja.brakes ADD COLUMN payment_id uuid;
ALTER TABLE mkwanja.brakes ADD COLUMN probes integer NOT NULL DEFAULT 0;
ALTER TABLE mkwanja.brakes ADD COLUMN probed_at timestamptz;

-- Insert-only: when and why payouts were stopped and released.
CREATE TABLE mkwanja.brake_history (
    changed_at timestamptz NOT NULL,
    name       text NOT NULL,
    is_engaged boolean NOT NULL,
    reason     text NOT NULL
);
CREATE INDEX brake_history_by_time ON mkwanja.brake_history (changed_at);

-- Insert-only: events in the order in which they can be read. One transaction at a time gives
-- positions, only to events that are committed already. A reader therefore never misses an event.
CREATE TABLE mkwanja.events (
    position   bigint GENERATED ALWAYS AS IDENTITY,
    history_id uuid NOT NULL REFERENCES mkwanja.payment_history,
    owner      text,

    CONSTRAINT event_has_one_position PRIMARY KEY (position),
    CONSTRAINT event_is_listed_once UNIQUE (history_id)
);
CREATE INDEX events_by_owner ON mkwanja.events (owner, position);
INSERT INTO mkwanja.events (history_id, owner)
SELECT history.id, payment.owner FROM mkwanja.payment_history AS history
JOIN mkwanja.payments AS payment ON payment.id = history.payment_id
WHERE history.event_body IS NOT NULL ORDER BY history.recorded_at, history.payment_id, history.sequence
"""

_INSERT_ONLY = ("brake_history", "events")

_DOWN = """
DROP TABLE mkwanja.events;
DROP TABLE mkwanja.brake_history;
ALTER TABLE mkwanja.brakes DROP COLUMN probed_at;
ALTER TABLE mkwanja.brakes DROP COLUMN probes;
ALTER TABLE mkwanja.brakes DROP COLUMN payment_id;
ALTER TABLE mkwanja.callbacks DROP COLUMN word;
ALTER TABLE mkwanja.inquiries DROP CONSTRAINT answered_has_a_verdict;
ALTER TABLE mkwanja.inquiries DROP COLUMN code;
ALTER TABLE mkwanja.inquiries DROP COLUMN verdict;
ALTER TABLE mkwanja.inquiries ADD COLUMN answer json;
DROP INDEX mkwanja.payments_due;
ALTER TABLE mkwanja.payments DROP COLUMN next_step;
CREATE INDEX payments_due ON mkwanja.payments (stage, next_step_at) WHERE next_step_at IS NOT NULL
"""


def upgrade() -> None:
    _run(_UP)
    for table in _INSERT_ONLY:
        op.execute(
            f"CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()"
        )


def downgrade() -> None:
    """Removes everything except the exchanges of inquiries. `attempt_id` thus stays nullable."""
    _run(_DOWN)


def _run(script: str) -> None:
    for statement in script.split(";\n"):  # the driver accepts one statement at a time
        op.execute(statement)
