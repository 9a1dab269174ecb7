"""Locks the payments of a batch of changes, and loads all that their decisions need, in one call.

Each statement of the function sees what was committed before it began. So the statements after the
lock read the payments, and all that belongs to them, as the last change left them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from domain.adapters.postgres.brakes import ENGAGED_BRAKES, WAIT_FOR_BRAKES
from domain.adapters.postgres.engine import Calls
from domain.adapters.postgres.evidence import (
    INQUIRIES,
    MESSAGES,
    UNCONFIRMED_RECEIPTS,
    evidence_from,
)
from domain.adapters.postgres.functions import TRANSACTION_LIMITS, Function
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.rows import attempts_from
from domain.attempts import IdKind, ProviderId
from domain.changes import Change, Context, Reads
from domain.evidence import Evidence
from domain.payment import Payment

# The function begins its transaction, so it also sets the limits of the transaction. Rows are
# locked in id order. Each column of the result has the rows of one table as JSON, or NULL for none.
LOAD = Function(
    "load_changes",
    parameters={
        "lock_timeout": "text",
        "ids": "uuid[]",
        # The provider ids that the changes bring: kinds and values.
        "kinds": "text[]",
        "provider_values": "text[]",
        # Other payments whose own id is an OriginatorConversationID in the batch.
        "originators": "uuid[]",
        "receipts": "text[]",
        # The payments whose decisions read evidence, and whether one of the decisions is a claim.
        "evidence_ids": "uuid[]",
        "first_evidence_id": "uuid",
        "last_evidence_id": "uuid",
        "has_claim": "boolean",
    },
    returns={
        "began_at": "timestamptz",
        "payments": "json",
        "attempts": "json",
        "provider_ids": "json",
        "originators": "json",
        "receipts": "json",
        "inquiries": "json",
        "messages": "json",
        "brakes": "json",
    },
    joins_tables=True,
    body=f"""
DECLARE
    unconfirmed text[] := '{{}}';
BEGIN
    {TRANSACTION_LIMITS}
    PERFORM FROM mkwanja.payments WHERE id = ANY(:ids) ORDER BY id FOR UPDATE;
    began_at := now();
    SELECT json_agg(payment) INTO payments
    FROM mkwanja.payments AS payment WHERE id = ANY(:ids);
    SELECT json_agg(attempt ORDER BY number) INTO attempts
    FROM mkwanja.attempts AS attempt WHERE payment_id = ANY(:ids);
    SELECT json_agg(known) INTO provider_ids FROM (
        SELECT kind, value, payment_id, attempt_id FROM mkwanja.provider_ids
        WHERE payment_id = ANY(:ids)
        UNION
        SELECT kind, value, payment_id, attempt_id
        FROM unnest(:kinds, :provider_values) AS brought(kind, value)
        JOIN mkwanja.provider_ids AS stored USING (kind, value)
    ) AS known;
    IF cardinality(:originators) > 0 THEN
        SELECT json_agg(id) INTO originators FROM mkwanja.payments WHERE id = ANY(:originators);
    END IF;
    IF cardinality(:evidence_ids) > 0 THEN
        IF :has_claim THEN
            {WAIT_FOR_BRAKES}
        END IF;
        SELECT json_agg(inquiry) INTO inquiries FROM ({INQUIRIES}) AS inquiry;
        SELECT json_agg(message) INTO messages FROM ({MESSAGES}) AS message;
        SELECT json_agg(brake) INTO brakes FROM ({ENGAGED_BRAKES}) AS brake;
        SELECT array_agg(receipt) INTO unconfirmed FROM ({UNCONFIRMED_RECEIPTS}) AS message;
    END IF;
    IF cardinality(:receipts || unconfirmed) > 0 THEN
        SELECT json_object_agg(receipt, id) INTO receipts
        FROM mkwanja.payments WHERE receipt = ANY(:receipts || unconfirmed);
    END IF;
    RETURN NEXT;
END
""",
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that the decisions of a batch need. `now` is the transaction's time.

    Owners are ids of payments as text, because most of them are only compared.

    * `id_owners`: the payment of each stored provider id that a payment of the batch has, or that
      a change of the batch brings.
    * `originators`: other payments whose own id is an OriginatorConversationID in the batch. Such
      an id needs no row in `provider_ids`: if we send a payment's own id, Daraja knows the payment
      by that id, even before it has acknowledged the send.
    * `receipt_owners`: the payments that have a receipt that this batch could store.
    """

    now: datetime
    payments: Mapping[UUID, Payment]
    id_owners: Mapping[ProviderId, str]
    originators: Mapping[ProviderId, str]
    receipt_owners: Mapping[str, str]
    evidence: Mapping[UUID, Evidence]

    def context(self, change: Change) -> Context:
        """What the decision of `change` may use besides its payment."""
        own = str(change.payment_id)
        evidence = self.evidence.get(change.payment_id, _NO_EVIDENCE)
        return Context(
            now=self.now,
            ids_of_others=frozenset(
                provider_id
                for provider_id in change.ids
                if self.id_owners.get(provider_id, own) != own
                or self.originators.get(provider_id, own) != own
            ),
            is_receipt_of_other=self.receipt_owners.get(change.receipt or "", own) != own,
            receipts_of_others=frozenset(
                receipt
                for receipt in evidence.unconfirmed_receipts
                if self.receipt_owners.get(receipt, own) != own
            ),
            evidence=evidence,
        )


_NO_EVIDENCE = Evidence()


async def load_changes(transaction: Calls, batch: Sequence[Change]) -> Loaded:
    """Locks the payments of `batch` in `transaction`, which this call begins, and loads them."""
    brought = {provider_id for change in batch for provider_id in change.ids}
    originators = _find_foreign_originators(batch)
    evidence_ids = [change.payment_id for change in batch if change.reads is not Reads.PAYMENT]
    parameters = {
        "ids": [change.payment_id for change in batch],
        "kinds": [kind for kind, _ in brought],
        "provider_values": [value for _, value in brought],
        "originators": list(originators.values()),
        "receipts": [change.receipt for change in batch if change.receipt],
        "evidence_ids": evidence_ids,
        "first_evidence_id": min(evidence_ids, default=None),
        "last_evidence_id": max(evidence_ids, default=None),
        "has_claim": any(change.reads is Reads.CLAIM for change in batch),
    }
    [row] = await transaction.call(LOAD, parameters)
    id_rows = _read(row["provider_ids"])
    attempts = attempts_from(_read(row["attempts"]), id_rows)
    payments = [
        payment_from(payment, attempts.get(payment["id"], ())) for payment in _read(row["payments"])
    ]
    stored = set(_read(row["originators"]))
    return Loaded(
        now=row["began_at"],
        payments={payment.id: payment for payment in payments},
        id_owners={
            (IdKind(known["kind"]), known["value"]): known["payment_id"] for known in id_rows
        },
        originators={
            provider_id: str(payment_id)
            for provider_id, payment_id in originators.items()
            if str(payment_id) in stored
        },
        receipt_owners=orjson.loads(row["receipts"]) if row["receipts"] else {},
        evidence=evidence_from(
            evidence_ids,
            inquiries=_read(row["inquiries"]),
            messages=_read(row["messages"]),
            brakes=_read(row["brakes"]),
        )
        if evidence_ids
        else {},
    )


def _read(rows: str | None) -> list[Any]:
    return orjson.loads(rows) if rows else []


def _find_foreign_originators(batch: Sequence[Change]) -> dict[ProviderId, UUID]:
    """The OriginatorConversationIDs in `batch` that could be another payment's own id."""
    return {
        provider_id: payment_id
        for change in batch
        for provider_id in change.ids
        if provider_id[0] == IdKind.ORIGINATOR_CONVERSATION
        and (payment_id := _parse_uuid(provider_id[1])) not in (None, change.payment_id)
    }


def _parse_uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None
