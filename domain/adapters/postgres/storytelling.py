"""Reads everything that is stored about one payment, for its story (`domain/story`).

One statement reads it all, so it is all of one moment. Only operators call it: no caller of the
HTTP API sees what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from domain.adapters.masking import mask_text
from domain.adapters.postgres.brakes import ENGAGED_BRAKES
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.payment_columns import as_moment, payment_from
from domain.adapters.postgres.rows import attempts_from
from domain.adapters.postgres.statements import sql
from domain.attempts import Attempt
from domain.payment import Payment
from domain.story import (
    PaymentRecord,
    StoredEntry,
    StoredExchange,
    StoredInquiry,
    StoredMessage,
)
from domain.values import join_caller_key, split_caller_key

# An attacker who knows a callback address can fill a payment with messages. A story has the oldest.
_MESSAGES_MAX = 100
_EXCHANGES_MAX = 200

_OF_PAYMENT = "WHERE payment_id = :id"
_RECORD = sql(f"""
SELECT now() AS read_at,
    (SELECT row_to_json(payment) FROM mkwanja.payments AS payment WHERE id = :id) AS payment,
    (SELECT json_agg(attempt ORDER BY number) FROM mkwanja.attempts AS attempt {_OF_PAYMENT})
        AS attempts,
    (SELECT json_agg(known) FROM mkwanja.provider_ids AS known {_OF_PAYMENT}) AS provider_ids,
    (SELECT json_agg(entry ORDER BY sequence) FROM (
        SELECT sequence, recorded_at, what, previous_stage, history.stage, attempt_id, detail,
            event_type, event.position <= publisher.published_through AS is_published
        FROM mkwanja.payment_history AS history
        LEFT JOIN mkwanja.events AS event ON event.history_id = history.id
        CROSS JOIN (SELECT published_through FROM mkwanja.event_publisher WHERE is_only_row)
            AS publisher
        {_OF_PAYMENT}) AS entry) AS history,
    (SELECT json_agg(inquiry ORDER BY number) FROM mkwanja.inquiries AS inquiry {_OF_PAYMENT})
        AS inquiries,
    (SELECT json_agg(message ORDER BY received_at, id) FROM (
        SELECT id, operation, received_at, source_address, source_allowed, content_type,
            encode(body, 'hex') AS body, disposition, is_flagged, word, receipt
        FROM mkwanja.callbacks {_OF_PAYMENT}
        ORDER BY received_at, id LIMIT {_MESSAGES_MAX}) AS message) AS messages,
    (SELECT count(*) FROM mkwanja.callbacks {_OF_PAYMENT}) AS message_count,
    (SELECT json_agg(exchange ORDER BY recorded_at, id) FROM (
        SELECT * FROM mkwanja.daraja_exchanges {_OF_PAYMENT}
        ORDER BY recorded_at, id LIMIT {_EXCHANGES_MAX}) AS exchange) AS exchanges,
    (SELECT count(*) FROM mkwanja.daraja_exchanges {_OF_PAYMENT}) AS exchange_count,
    (SELECT json_agg(name) FROM ({ENGAGED_BRAKES}) AS brake) AS brakes
""")


class StoryReader:
    """Reads the records of payments. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, payment_id: UUID, *, unmask: bool = False) -> PaymentRecord | None:
        """The record of the payment, or None if there is no such payment.

        Phone numbers are masked wherever a text has them, unless `unmask`.
        """
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_RECORD, {"id": payment_id})
        if row["payment"] is None:
            return None
        record = _record_from(row)
        return record if unmask else mask_record(record)


def _record_from(row: Mapping[str, Any]) -> PaymentRecord:
    payment = orjson.loads(row["payment"])
    attempts = attempts_from(_parse(row["attempts"]), _parse(row["provider_ids"]))
    return PaymentRecord(
        payment=payment_from(payment, attempts.get(payment["id"], ())),
        read_at=row["read_at"],
        history=tuple(_entry_from(entry) for entry in _parse(row["history"])),
        inquiries=tuple(_inquiry_from(inquiry) for inquiry in _parse(row["inquiries"])),
        messages=tuple(_message_from(message) for message in _parse(row["messages"])),
        message_count=row["message_count"],
        exchanges=tuple(_exchange_from(exchange) for exchange in _parse(row["exchanges"])),
        exchange_count=row["exchange_count"],
        brakes=frozenset(_parse(row["brakes"])),
    )


def _entry_from(row: Mapping[str, Any]) -> StoredEntry:
    has_event = row["event_type"] is not None
    return StoredEntry(
        sequence=row["sequence"],
        at=as_moment(row["recorded_at"]),
        name=row["what"],
        previous_stage=row["previous_stage"],
        stage=row["stage"],
        attempt_id=_as_id(row["attempt_id"]),
        detail=row["detail"],
        event_type=row["event_type"],
        is_published=bool(row["is_published"]) if has_event else None,
    )


def _inquiry_from(row: Mapping[str, Any]) -> StoredInquiry:
    return StoredInquiry(
        number=row["number"],
        operation=row["api"],
        asked_at=as_moment(row["asked_at"]),
        answered_at=as_moment(row["answered_at"]) if row["answered_at"] else None,
        outcome=row["verdict"],
        code=row["code"],
        is_probe=row["is_probe"],
        is_of_former_account=row["of_former_account"],
    )


def _message_from(row: Mapping[str, Any]) -> StoredMessage:
    return StoredMessage(
        id=UUID(row["id"]),
        operation=row["operation"],
        at=as_moment(row["received_at"]),
        source_address=row["source_address"],
        is_source_allowed=row["source_allowed"],
        content_type=row["content_type"],
        body=bytes.fromhex(row["body"]),
        disposition=row["disposition"],
        is_flagged=row["is_flagged"],
        outcome=row["word"],
        receipt=row["receipt"],
    )


def _exchange_from(row: Mapping[str, Any]) -> StoredExchange:
    return StoredExchange(
        id=UUID(row["id"]),
        attempt_id=_as_id(row["attempt_id"]),
        operation=row["api"],
        at=as_moment(row["recorded_at"]),
        request=row["request"],
        was_written=row["was_written"],
        http_status=row["http_status"],
        answer=row["answer"],
        outcome=row["meaning"],
    )


def _as_id(text: str | None) -> UUID | None:
    return UUID(text) if text is not None else None


def _parse(rows: str | None) -> list[Any]:
    return orjson.loads(rows) if rows else []


def mask_record(record: PaymentRecord) -> PaymentRecord:
    """`record` with phone numbers masked. Requests to Daraja are stored masked already."""
    return replace(
        record,
        payment=mask_payment(record.payment),
        history=tuple(
            replace(entry, detail={name: mask_text(text) for name, text in entry.detail.items()})
            for entry in record.history
        ),
        messages=tuple(
            replace(message, body=_mask_bytes(message.body)) for message in record.messages
        ),
    )


def mask_payment(payment: Payment) -> Payment:
    """`payment` with phone numbers masked in every text that Daraja or the caller wrote.

    A CheckoutRequestID ends with the digits of the phone number. A caller may use the phone number
    as the account reference, as the owner, or as a part of the idempotency key. The subject of an
    app user's token may be one.
    """
    request = payment.request
    return replace(
        payment,
        caller_key=join_caller_key(*map(_mask, split_caller_key(payment.caller_key))),
        idempotency_key=_mask(payment.idempotency_key),
        recipient_name=_mask_if_set(payment.recipient_name),
        attempts=tuple(_mask_attempt(attempt) for attempt in payment.attempts),
        request=replace(
            request,
            owner=_mask_if_set(request.owner),
            phone_number=_mask_if_set(request.phone_number),
            account_reference=_mask_if_set(request.account_reference),
            description=_mask_if_set(request.description),
            remarks=_mask_if_set(request.remarks),
            metadata={_mask(key): _mask(text) for key, text in request.metadata.items()},
        ),
    )


def mask_view(value: Any) -> Any:
    """`value`, made of JSON, with phone numbers masked in every text. Our own ids stay readable."""
    match value:
        case dict():
            return {name: mask_view(inner) for name, inner in value.items()}
        case list():
            return [mask_view(inner) for inner in value]
        case str():
            return _mask(value)
        case _:
            return value


def _mask_attempt(attempt: Attempt) -> Attempt:
    masked = frozenset((kind, _mask(value)) for kind, value in attempt.provider_ids)
    return replace(attempt, provider_ids=masked)


def _mask_if_set(text: str | None) -> str | None:
    return _mask(text) if text is not None else None


def _mask(text: str) -> str:
    """`text` masked. A UUID stays, although its last digits may look like a phone number."""
    try:
        return text if str(UUID(text)) == text else mask_text(text)
    except ValueError:
        return mask_text(text)


def _mask_bytes(body: bytes) -> bytes:
    return mask_text(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
