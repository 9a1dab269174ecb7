"""Finds payments by whatever an operator has: an id, a receipt, a reference, a number, a key.

Each look-up reads an index, so it costs the same with any number of payments.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.listing import PageQuery
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.postgres.statements import sql
from domain.attempts import IdKind
from domain.payment import Payment
from domain.values import parse_storable_text, parse_written_phone_number

_BY_PROVIDER_ID = sql("""
SELECT DISTINCT payment_id FROM mkwanja.provider_ids
WHERE kind = ANY(CAST(:kinds AS text[])) AND value = :value LIMIT :limit
""")


class PaymentSearch:
    """Searches payments. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reading = PostgresReadingStore(database)

    async def find(self, text: str, *, limit: int) -> list[Payment]:
        """The payments that `text` names, newest first, at most `limit`.

        `text` is a payment's id, M-PESA's receipt, an account reference, an idempotency key, a
        phone number, or an id that Daraja gave.
        """
        if (payment_id := as_payment_id(text)) is not None:
            payment = await self._reading.payment(payment_id)
            if payment is not None:
                return [payment]
        found: dict[UUID, Payment] = {}
        for equal in _filters(text):
            for payment in await self._reading.page(PageQuery(equal=equal, limit=limit)):
                found[payment.id] = payment
        for payment_id in await self._ids_by_provider_id(text, limit):
            payment = await self._reading.payment(payment_id)
            if payment is not None:
                found[payment_id] = payment
        newest_first = sorted(found.values(), key=lambda each: (each.created_at, each.id))
        return newest_first[::-1][:limit]

    async def _ids_by_provider_id(self, text: str, limit: int) -> list[UUID]:
        parameters = {"kinds": [kind.value for kind in IdKind], "value": text, "limit": limit}
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_BY_PROVIDER_ID, parameters)
        return [UUID(int=row.payment_id.int) for row in rows]


def as_payment_id(text: str) -> UUID | None:
    """`text` as a payment's id, or None if it is no UUID."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _filters(text: str) -> list[dict[str, str]]:
    """The columns that can have `text` as their value, with the value as it is stored."""
    try:
        parse_storable_text(text)
    except ValueError:
        return []
    filters = [
        {"receipt": text.upper()},
        {"account_reference": text},
        {"idempotency_key": text},
    ]
    with suppress(ValueError):
        filters.append({"phone_number": parse_written_phone_number(text)})
    return filters
