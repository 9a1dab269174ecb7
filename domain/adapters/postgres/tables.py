"""The tables for SQLAlchemy, from which the code builds queries.

A test compares them with the schema that the migrations (`alembic/versions`) make. The migrations
define the constraints and explain why they exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.types import TypeEngine

from domain.adapters.postgres.payment_columns import PAYMENT_COLUMNS
from domain.adapters.postgres.webhook_tables import add_webhook_tables

SCHEMA = "mkwanja"

# The schema that this release needs. /readyz compares it with the database, and a test compares it
# with the newest migration.
REVISION = "0021"


def is_at_least(found: str, revision: str) -> bool:
    """Whether the revision `found` is `revision` or a newer one. Revisions are numbered."""
    return found.isdecimal() and found >= revision


metadata = MetaData(schema=SCHEMA)

_moment = DateTime(timezone=True)
_TYPES: Mapping[str, TypeEngine[Any]] = {
    "uuid": Uuid(),
    "text": Text(),
    "int": Integer(),
    "boolean": Boolean(),
    "json": JSON(),
    "timestamptz": _moment,
}

payments = Table(
    "payments",
    metadata,
    *(
        Column(
            column.name,
            _TYPES[column.type],
            primary_key=column.name == "id",
            nullable=column.is_nullable,
        )
        for column in PAYMENT_COLUMNS
    ),
)
Index(
    "receipt_belongs_to_one_payment",
    payments.c.receipt,
    unique=True,
    postgresql_where=payments.c.receipt.isnot(None),
)
Index("payments_event_due", payments.c.event_due, postgresql_where=payments.c.event_due.isnot(None))
Index("payments_newest", payments.c.created_at, payments.c.id)
Index(
    "payments_of_owner",
    payments.c.owner,
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.owner.isnot(None),
)
Index(
    "payments_pending",
    payments.c.kind,
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.finalized_at.is_(None),
)
Index(
    "payments_final",
    payments.c.kind,
    text("(failure_reason IS NULL)"),
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.finalized_at.isnot(None),
)
Index(
    "payments_final_of_owner",
    payments.c.owner,
    payments.c.kind,
    text("(failure_reason IS NULL)"),
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.finalized_at.isnot(None) & payments.c.owner.isnot(None),
)
Index("payments_by_caller", payments.c.caller_key, payments.c.created_at)
Index("payments_by_phone_number", payments.c.phone_number, payments.c.created_at, payments.c.id)
Index(
    "payments_of_reference",
    payments.c.account_reference,
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.account_reference.isnot(None),
)
Index("payments_by_idempotency_key", payments.c.idempotency_key)
Index(
    "payments_to_review",
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.needs_review,
)

# The payments that have a next step, with the step and its time. Triggers on `payments` keep it
# equal to the columns there. Those are in no index, so most updates of a payment write no index.
due_steps = Table(
    "due_steps",
    metadata,
    Column("next_step", Text, primary_key=True),
    Column("next_step_at", _moment, primary_key=True),
    Column("payment_id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("claimed_at", _moment, nullable=False),
    Column("outcome", Text),
    Column("ended_at", _moment),
    Column("account", Text),
    UniqueConstraint("payment_id", "number", name="attempts_are_numbered"),
)

provider_ids = Table(
    "provider_ids",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False),
    Column("attempt_id", Uuid, ForeignKey(attempts.c.id)),
    Column("recorded_at", _moment, nullable=False),
)
Index("provider_ids_of_payment", provider_ids.c.payment_id)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller_key", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False),
    Column("answer_status", Integer, nullable=False),
    Column("answer_body", LargeBinary, nullable=False),
    Column("created_at", _moment, nullable=False),
    Column("expires_at", _moment, nullable=False),
)

Index("idempotency_keys_by_expiry", idempotency_keys.c.expires_at)

payment_history = Table(
    "payment_history",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("recorded_at", _moment, nullable=False),
    Column("what", Text, nullable=False),
    Column("previous_stage", Text),
    Column("stage", Text, nullable=False),
    Column("attempt_id", Uuid),
    Column("detail", JSON, nullable=False),
    Column("event_type", Text),
    Column("event_body", Text),
    UniqueConstraint("payment_id", "sequence", name="history_is_numbered"),
)
# The decisions of operators (`console.py`).
Index(
    "payment_history_decisions",
    payment_history.c.recorded_at,
    postgresql_where=payment_history.c.what.in_(
        ["resolved_paid", "resolved_unpaid", "reviewed", "inquiry_asked_for"]
    ),
)

event_publications = Table(
    "event_publications",
    metadata,
    Column("history_id", Uuid, ForeignKey(payment_history.c.id), nullable=False),
    Column("published_at", _moment, nullable=False),
)
Index("event_publications_of_history", event_publications.c.history_id)

# This table and `daraja_exchanges` have monthly partitions (`partitions.py`).
callbacks = Table(
    "callbacks",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("operation", Text, nullable=False),
    Column("received_at", _moment, nullable=False),
    Column("source_address", Text, nullable=False),
    Column("source_allowed", Boolean, nullable=False),
    Column("content_type", Text),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("disposition", Text, nullable=False),
    Column("is_flagged", Boolean, nullable=False),
    Column("word", Text),
    Column("receipt", Text),
)
Index("callbacks_by_id", callbacks.c.id)
Index("callbacks_of_payment", callbacks.c.payment_id, callbacks.c.received_at)
Index("callbacks_flagged", callbacks.c.received_at, postgresql_where=callbacks.c.is_flagged)

inquiries = Table(
    "inquiries",
    metadata,
    Column("payment_id", Uuid, ForeignKey(payments.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("api", Text, nullable=False),
    Column("asked_at", _moment, nullable=False),
    Column("answered_at", _moment),
    Column("verdict", Text),
    Column("code", Text),
    Column("is_probe", Boolean, nullable=False, server_default=text("false")),
    Column("of_former_account", Boolean, nullable=False, server_default=text("false")),
)

daraja_exchanges = Table(
    "daraja_exchanges",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, nullable=False),
    Column("attempt_id", Uuid),
    Column("api", Text, nullable=False),
    Column("recorded_at", _moment, nullable=False),
    Column("request", JSON, nullable=False),
    Column("was_written", Boolean, nullable=False),
    Column("http_status", Integer),
    Column("answer", Text),
    Column("meaning", Text, nullable=False),
)
Index("daraja_exchanges_of_payment", daraja_exchanges.c.payment_id, daraja_exchanges.c.recorded_at)

brakes = Table(
    "brakes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_engaged", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text),
    Column("changed_at", _moment, nullable=False, server_default=text("now()")),
    Column("payment_id", Uuid),
    Column("probes", Integer, nullable=False, server_default=text("0")),
    Column("probed_at", _moment),
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("cool_down", Interval),
    Column("probe_at", _moment),
)

brake_history = Table(
    "brake_history",
    metadata,
    Column("changed_at", _moment, nullable=False),
    Column("name", Text, nullable=False),
    Column("is_engaged", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    # Set only by the console.
    Column("operator", Text),
)
Index("brake_history_by_time", brake_history.c.changed_at)

# Who saw phone numbers and names of a payment in full, in the console.
console_disclosures = Table(
    "console_disclosures",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, nullable=False),
    Column("disclosed_at", _moment, nullable=False),
    Column("operator", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
Index(
    "console_disclosures_of_payment",
    console_disclosures.c.payment_id,
    console_disclosures.c.disclosed_at,
)

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("history_id", Uuid, ForeignKey(payment_history.c.id), nullable=False),
    Column("owner", Text),
    UniqueConstraint("history_id", name="event_is_listed_once"),
)
Index("events_by_owner", events.c.owner, events.c.position)

# A trigger on `payment_history` adds rows, and a trigger on `events` deletes them.
unlisted_events = Table(
    "unlisted_events",
    metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("history_id", Uuid, nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("sequence", Integer, nullable=False),
    UniqueConstraint("history_id", name="event_is_queued_once"),
)

# How many months of a partitioned table are kept. No row: all of them.
retention = Table(
    "retention",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("kept_months", Integer, nullable=False),
)

# One row: up to which position of `events` all events are published, and which process has the turn
# to publish the next ones.
event_publisher = Table(
    "event_publisher",
    metadata,
    Column("is_only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("published_through", BigInteger, nullable=False),
    Column("publisher", Uuid),
    Column("turn_ends_at", _moment),
)

# What busy callers and phone numbers have used of a limit of a day (`meters.py`).
limit_meters = Table(
    "limit_meters",
    metadata,
    Column("day", Date, primary_key=True),
    Column("limit_name", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("amount", BigInteger),
    Column("count_after", BigInteger),
)

limit_changes = Table(
    "limit_changes",
    metadata,
    Column("day", Date, primary_key=True),
    Column("limit_name", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

add_webhook_tables(metadata)
