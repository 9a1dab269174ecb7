"""Payments, their attempts, history, callbacks and brakes, in a schema of their own.

Each constraint's name says what the constraint guarantees, so an error that quotes the name is
clear. Grants and row level security are set after every migration, in env.py.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FINAL = "stage IN ('succeeded', 'failed')"

_TABLES = f"""
CREATE TABLE mkwanja.payments (
    id                    uuid PRIMARY KEY,
    kind                  text NOT NULL,
    stage                 text NOT NULL,
    caller_key            text NOT NULL,
    owner                 text,                  -- NULL: a backend's own payment
    amount_kes            integer NOT NULL,      -- whole shillings
    phone_number          text,
    paybill               text,
    till                  text,
    account_reference     text,
    description           text,
    remarks               text,
    purpose               text,
    metadata              json NOT NULL,         -- json, not jsonb: it keeps the text and its order
    idempotency_key       text NOT NULL,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    finalized_at          timestamptz,
    receipt               text,                  -- M-PESA's number for money moved
    recipient_name        text,
    failure_reason        text,
    failure_code          text,                  -- Daraja's own code, if it gave one
    failure_safe_to_retry boolean,
    needs_review          boolean NOT NULL DEFAULT false,
    sequence              integer NOT NULL,      -- of the newest history entry
    attempt_id            uuid,                  -- of the newest claim; later writes must match it
    lease_until           timestamptz,           -- by this database's clock
    next_step_at          timestamptz,
    event_due             timestamptz,           -- set while an event is not yet published

    CONSTRAINT kind_is_known CHECK (kind IN ('deposit', 'withdrawal', 'bill_payment')),
    CONSTRAINT stage_is_known CHECK (
        stage IN ('accepted', 'submitting', 'awaiting_result', 'in_doubt', 'succeeded', 'failed')),
    CONSTRAINT amount_within_provider_limits CHECK (amount_kes BETWEEN 1 AND 250000),
    CONSTRAINT parties_fit_the_kind CHECK (CASE kind
        WHEN 'bill_payment' THEN phone_number IS NULL AND (paybill IS NULL) <> (till IS NULL)
        ELSE phone_number IS NOT NULL AND paybill IS NULL AND till IS NULL END),
    CONSTRAINT nothing_waits_for_nobody CHECK ({_FINAL} OR next_step_at IS NOT NULL),
    CONSTRAINT final_has_a_time CHECK (({_FINAL}) = (finalized_at IS NOT NULL)),
    CONSTRAINT failed_has_a_reason CHECK ((stage = 'failed') = (failure_reason IS NOT NULL)),
    CONSTRAINT submitting_has_a_lease CHECK (
        stage <> 'submitting' OR (attempt_id IS NOT NULL AND lease_until IS NOT NULL))
);
-- The index is partial, because a payment has no receipt for most of its life. NULL then costs nothing.
CREATE UNIQUE INDEX receipt_belongs_to_one_payment ON mkwanja.payments (receipt) WHERE receipt IS NOT NULL;
-- Finished rows are in neither of the next two indexes, so they cost the sweeper nothing.
CREATE INDEX payments_due ON mkwanja.payments (stage, next_step_at) WHERE next_step_at IS NOT NULL;
CREATE INDEX payments_event_due ON mkwanja.payments (event_due) WHERE event_due IS NOT NULL;
CREATE INDEX payments_newest ON mkwanja.payments (created_at, id);
CREATE INDEX payments_by_owner ON mkwanja.payments (owner, created_at, id);
CREATE INDEX payments_by_phone_number ON mkwanja.payments (phone_number, created_at, id);
CREATE INDEX payments_by_account_reference ON mkwanja.payments (account_reference, created_at, id);
CREATE INDEX payments_by_idempotency_key ON mkwanja.payments (idempotency_key);
CREATE INDEX payments_to_review ON mkwanja.payments (created_at, id) WHERE needs_review;

-- One row per claim, written in the commit of the claim.
CREATE TABLE mkwanja.attempts (
    id         uuid PRIMARY KEY,
    payment_id uuid NOT NULL REFERENCES mkwanja.payments,
    number     integer NOT NULL,
    claimed_at timestamptz NOT NULL,
    outcome    text,                             -- NULL: under way, or its worker is gone
    ended_at   timestamptz,

    CONSTRAINT outcome_is_known CHECK (outcome IN
        ('not_acted', 'refused', 'failed', 'acknowledged', 'resendable', 'duplicate', 'unknown')),
    CONSTRAINT attempts_are_numbered UNIQUE (payment_id, number)
);

CREATE TABLE mkwanja.provider_ids (
    kind        text NOT NULL,
    value       text NOT NULL,
    payment_id  uuid NOT NULL REFERENCES mkwanja.payments,
    attempt_id  uuid REFERENCES mkwanja.attempts,
    recorded_at timestamptz NOT NULL,

    CONSTRAINT provider_id_belongs_to_one_payment PRIMARY KEY (kind, value)
);
CREATE INDEX provider_ids_of_payment ON mkwanja.provider_ids (payment_id);

CREATE TABLE mkwanja.idempotency_keys (
    caller_key    text NOT NULL,
    key           text NOT NULL,
    fingerprint   bytea NOT NULL,
    payment_id    uuid NOT NULL REFERENCES mkwanja.payments,
    answer_status integer NOT NULL,
    answer_body   bytea NOT NULL,                -- the first answer, repeated byte for byte
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,

    CONSTRAINT one_payment_per_key PRIMARY KEY (caller_key, key)
);

-- Insert-only: one row per transition or flag. The same commit stores the body of its event.
CREATE TABLE mkwanja.payment_history (
    id             uuid PRIMARY KEY,             -- also the event's id
    payment_id     uuid NOT NULL REFERENCES mkwanja.payments,
    sequence       integer NOT NULL,             -- 1, 2, … per payment
    recorded_at    timestamptz NOT NULL,
    what           text NOT NULL,
    previous_stage text,                         -- NULL for the first entry
    stage          text NOT NULL,
    attempt_id     uuid,
    detail         json NOT NULL,
    event_type     text,                         -- NULL: no event is published
    event_body     text,

    CONSTRAINT history_is_numbered UNIQUE (payment_id, sequence),
    CONSTRAINT event_has_a_body CHECK ((event_type IS NULL) = (event_body IS NULL))
);

-- Insert-only: an event was published at this time. It may have been published more than once.
CREATE TABLE mkwanja.event_publications (
    history_id   uuid NOT NULL REFERENCES mkwanja.payment_history,
    published_at timestamptz NOT NULL
);
CREATE INDEX event_publications_of_history ON mkwanja.event_publications (history_id);

-- Insert-only, without foreign key or unique constraint: storing a message never fails because of
-- its content.
CREATE TABLE mkwanja.callbacks (
    id               uuid NOT NULL,              -- ours, made on receipt
    payment_id       uuid NOT NULL,
    operation        text NOT NULL,
    received_at      timestamptz NOT NULL,
    source_address   text NOT NULL,
    source_allowed   boolean NOT NULL,
    content_type     text,
    body             bytea NOT NULL,             -- as received, with secrets replaced
    body_sha256      bytea NOT NULL,             -- of the original
    disposition      text NOT NULL,              -- the effect of the message
    is_flagged       boolean NOT NULL            -- a person should look at it
);
CREATE INDEX callbacks_by_id ON mkwanja.callbacks (id);
CREATE INDEX callbacks_of_payment ON mkwanja.callbacks (payment_id, received_at);
CREATE INDEX callbacks_flagged ON mkwanja.callbacks (received_at) WHERE is_flagged;

-- Each inquiry is stored before it is sent, with a number per payment, so that an answer counts once.
CREATE TABLE mkwanja.inquiries (
    payment_id  uuid NOT NULL REFERENCES mkwanja.payments,
    number      integer NOT NULL,
    api         text NOT NULL,
    asked_at    timestamptz NOT NULL,
    answered_at timestamptz,
    answer      json,

    CONSTRAINT inquiries_are_numbered PRIMARY KEY (payment_id, number)
);

-- Insert-only: requests to Daraja and its answers, with secrets and phone numbers masked.
CREATE TABLE mkwanja.daraja_exchanges (
    id          uuid PRIMARY KEY,
    payment_id  uuid NOT NULL,
    attempt_id  uuid NOT NULL,
    api         text NOT NULL,
    recorded_at timestamptz NOT NULL,
    request     json NOT NULL,
    was_written boolean NOT NULL,                -- whether the first byte was sent
    http_status integer,                         -- NULL: no answer came
    answer      text,
    meaning     text NOT NULL
);
CREATE INDEX daraja_exchanges_of_payment ON mkwanja.daraja_exchanges (payment_id, recorded_at);

-- The WHERE of the claim reads these rows: while a brake is engaged, no money goes out.
CREATE TABLE mkwanja.brakes (
    name       text PRIMARY KEY,
    is_engaged boolean NOT NULL DEFAULT false,
    reason     text,
    changed_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT brake_is_known CHECK (name IN ('kill_switch', 'breaker')),
    CONSTRAINT engaged_has_a_reason CHECK (NOT is_engaged OR reason IS NOT NULL)
);
INSERT INTO mkwanja.brakes (name) VALUES ('kill_switch'), ('breaker');
"""

_INSERT_ONLY = ("payment_history", "event_publications", "callbacks", "daraja_exchanges")

_REFUSE_CHANGE = """
CREATE FUNCTION mkwanja.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is insert-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    # The driver accepts one statement at a time.
    for statement in _TABLES.rstrip(";\n").split(";\n"):
        op.execute(statement)
    op.execute(_REFUSE_CHANGE)
    for table in _INSERT_ONLY:
        op.execute(
            f"CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()"
        )


def downgrade() -> None:
    for table in (
        "brakes", "daraja_exchanges", "inquiries", "callbacks", "event_publications", "payment_history",
        "idempotency_keys", "provider_ids", "attempts", "payments",
    ):  # fmt: skip
        op.execute(f"DROP TABLE mkwanja.{table}")
    op.execute("DROP FUNCTION mkwanja.refuse_change()")
