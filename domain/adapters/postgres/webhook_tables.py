"""The tables of webhooks. `tables.py` adds them to its own."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

_moment = DateTime(timezone=True)


def add_webhook_tables(metadata: MetaData) -> None:
    """Adds the endpoints, their deliveries, and the attempts of deliveries to `metadata`."""
    endpoints = Table(
        "webhook_endpoints",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("caller_key", Text, nullable=False),
        Column("url", Text, nullable=False),
        Column("event_types", ARRAY(Text)),
        Column("description", Text),
        Column("status", Text, nullable=False),
        Column("status_reason", Text),
        Column("sealed_key", LargeBinary, nullable=False),
        Column("previous_sealed_key", LargeBinary),
        Column("previous_key_until", _moment),
        Column("position", BigInteger, nullable=False),
        Column("last_number", BigInteger, nullable=False, server_default=text("0")),
        Column("failing_since", _moment),
        Column("turn", Uuid),
        Column("turn_ends_at", _moment),
        Column("woken_until", _moment),
        Column("created_at", _moment, nullable=False),
        Column("updated_at", _moment, nullable=False),
        Column("deleted_at", _moment),
    )
    Index(
        "webhook_endpoints_of_caller",
        endpoints.c.caller_key,
        endpoints.c.created_at,
        postgresql_where=endpoints.c.deleted_at.is_(None),
    )
    deliveries = Table(
        "webhook_deliveries",
        metadata,
        Column("endpoint_id", Uuid, primary_key=True),
        Column("number", BigInteger, primary_key=True),
        Column("cause", Text, nullable=False),
        Column("event_id", Uuid, nullable=False),
        Column("event_type", Text, nullable=False),
        Column("payment_id", Uuid),
        Column("position", BigInteger),
        Column("body", Text),
        Column("status", Text, nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("is_sending", Boolean, nullable=False, server_default=text("false")),
        Column("next_attempt_at", _moment),
        Column("retry_until", _moment, nullable=False),
        Column("created_at", _moment, nullable=False),
        Column("ended_at", _moment),
        ForeignKeyConstraint(["endpoint_id"], [endpoints.c.id]),
        UniqueConstraint("endpoint_id", "position", name="event_has_one_delivery"),
    )
    is_waiting = deliveries.c.next_attempt_at.isnot(None)
    Index(
        "webhook_deliveries_due",
        deliveries.c.endpoint_id,
        deliveries.c.next_attempt_at,
        postgresql_where=is_waiting,
    )
    Index(
        "webhook_deliveries_waiting",
        deliveries.c.endpoint_id,
        deliveries.c.payment_id,
        deliveries.c.number,
        postgresql_where=is_waiting,
    )
    Index(
        "webhook_deliveries_ended",
        deliveries.c.ended_at,
        postgresql_where=deliveries.c.ended_at.isnot(None),
    )
    Table(
        "webhook_attempts",
        metadata,
        Column("endpoint_id", Uuid, primary_key=True),
        Column("delivery_number", BigInteger, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("attempted_at", _moment, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("http_status", Integer),
        Column("milliseconds", Integer, nullable=False),
        Column("answer", LargeBinary, nullable=False),
        ForeignKeyConstraint(
            ["endpoint_id", "delivery_number"],
            [deliveries.c.endpoint_id, deliveries.c.number],
            name="attempt_has_a_delivery",
        ),
    )
