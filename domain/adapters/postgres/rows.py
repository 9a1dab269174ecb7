"""Rows to payments and back. One place knows the columns of `payments`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from domain.account import SendAccount
from domain.attempts import Attempt, IdKind, Outcome, ProviderId
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.lifecycle.accept import NewPayment
from domain.lifecycle.submit import Due
from domain.payment import Payment
from domain.stages import Stage, Step
from domain.values import Purpose

# Columns that an acceptance writes, with the type of their array in `unnest`.
ACCEPTED_COLUMNS = {
    "id": "uuid", "kind": "text", "caller_key": "text", "owner": "text", "amount_kes": "int", "phone_number": "text",
    "paybill": "text", "till": "text", "account_reference": "text", "description": "text", "remarks": "text",
    "purpose": "text", "metadata": "text", "idempotency_key": "text", "moves_money_out": "boolean",
    "expires_after": "interval", "fingerprint": "bytea", "answer_body": "bytea", "history_id": "uuid",
}  # fmt: skip

# Columns that a change may write.
CHANGED_COLUMNS = {
    "id": "uuid", "stage": "text", "updated_at": "timestamptz", "finalized_at": "timestamptz", "receipt": "text",
    "recipient_name": "text", "failure_reason": "text", "failure_code": "text", "failure_safe_to_retry": "boolean",
    "needs_review": "boolean", "sequence": "int", "attempt_id": "uuid", "lease_until": "timestamptz",
    "next_step_at": "timestamptz", "next_step": "text", "event_due": "timestamptz", "amount_settled_kes": "int",
}  # fmt: skip


def payment_from(row: Any, attempts: tuple[Attempt, ...] = ()) -> Payment:
    """The payment of a row of `payments`, whichever query it came from."""
    failure = None
    if row.failure_reason is not None:
        failure = Failure(FailureReason(row.failure_reason), bool(row.failure_safe_to_retry), row.failure_code)
    metadata = row.metadata
    stage = Stage(row.stage)
    # Older processes wrote none, and knew of no other amount than the payment's own.
    settled = row.amount_settled_kes or row.amount_kes
    return Payment(
        id=_uuid(row.id),
        kind=Kind(row.kind),
        stage=stage,
        caller_key=row.caller_key,
        owner=row.owner,
        amount_kes=row.amount_kes,
        phone_number=row.phone_number,
        paybill=row.paybill,
        till=row.till,
        account_reference=row.account_reference,
        description=row.description,
        remarks=row.remarks,
        purpose=Purpose(row.purpose) if row.purpose else None,
        metadata=json.loads(metadata) if isinstance(metadata, str) else metadata,
        idempotency_key=row.idempotency_key,
        created_at=row.created_at,
        expires_at=row.expires_at or row.created_at,  # a row that was over before there was the column
        updated_at=row.updated_at,
        finalized_at=row.finalized_at,
        receipt=row.receipt,
        recipient_name=row.recipient_name,
        failure=failure,
        needs_review=row.needs_review,
        sequence=row.sequence,
        attempt_id=_uuid(row.attempt_id) if row.attempt_id else None,
        lease_until=row.lease_until,
        next_step_at=row.next_step_at,
        event_due=row.event_due,
        amount_settled_kes=settled if stage is Stage.SUCCEEDED else None,
        attempts=attempts,
    )


def due_from(row: Any) -> Due:
    """A payment as a step needs to know it."""
    step = Step(row.next_step) if row.next_step else None
    return Due(
        payment_id=_uuid(row.id), kind=Kind(row.kind), stage=Stage(row.stage), is_expired=row.is_expired, step=step
    )


def _uuid(value: Any) -> UUID:
    # asyncpg's own UUID class is a subclass that compares and hashes alike but pickles and prints differently.
    return UUID(int=value.int)


def attempts_from(attempt_rows: Iterable[Any], id_rows: Iterable[Any]) -> dict[UUID, tuple[Attempt, ...]]:
    """Attempts by payment, each with the ids that Daraja gave it.

    A message may have named ids before any attempt was on record that they could belong to. They open a way to ask as well,
    and count as those of the newest attempt.
    """
    ids: dict[UUID, set[ProviderId]] = defaultdict(set)
    ids_of_payment: dict[UUID, set[ProviderId]] = defaultdict(set)
    for row in id_rows:
        found = ids[_uuid(row.attempt_id)] if row.attempt_id else ids_of_payment[_uuid(row.payment_id)]
        found.add((IdKind(row.kind), row.value))
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for row in attempt_rows:
        attempts[_uuid(row.payment_id)].append(
            Attempt(
                id=_uuid(row.id),
                number=row.number,
                outcome=Outcome(row.outcome) if row.outcome else None,
                provider_ids=frozenset(ids[_uuid(row.id)]),
                claimed_at=row.claimed_at,
                ended_at=row.ended_at,
                account=SendAccount.from_text(row.account) if row.account else None,
            )
        )
    for payment_id, unclaimed in ids_of_payment.items():
        if of_payment := attempts.get(payment_id):
            of_payment[-1] = replace(of_payment[-1], provider_ids=of_payment[-1].provider_ids | unclaimed)
    return {payment_id: tuple(found) for payment_id, found in attempts.items()}


def accepted_values(new: NewPayment, body: bytes, history_id: UUID) -> dict[str, Any]:
    """The row of `ACCEPTED_COLUMNS` for a new payment."""
    request = new.request
    return {
        "id": new.id,
        "kind": request.kind.value,
        "caller_key": new.caller.key,
        "owner": request.owner,
        "amount_kes": request.amount_kes,
        "phone_number": request.phone_number,
        "paybill": request.paybill,
        "till": request.till,
        "account_reference": request.account_reference,
        "description": request.description,
        "remarks": request.remarks,
        "purpose": request.purpose.value if request.purpose else None,
        "metadata": json.dumps(request.metadata),
        "idempotency_key": new.idempotency_key,
        "moves_money_out": RULES[request.kind].moves_money_out,
        "expires_after": new.expires_after,
        "fingerprint": new.fingerprint,
        "answer_body": body,
        "history_id": history_id,
    }


def changed_values(payment: Payment) -> dict[str, Any]:
    """The row of `CHANGED_COLUMNS` for a changed payment."""
    failure = payment.failure
    return {
        "id": payment.id,
        "stage": payment.stage.value,
        "updated_at": payment.updated_at,
        "finalized_at": payment.finalized_at,
        "receipt": payment.receipt,
        "recipient_name": payment.recipient_name,
        "failure_reason": failure.reason.value if failure else None,
        "failure_code": failure.provider_code if failure else None,
        "failure_safe_to_retry": failure.safe_to_retry if failure else None,
        "needs_review": payment.needs_review,
        "sequence": payment.sequence,
        "attempt_id": payment.attempt_id,
        "lease_until": payment.lease_until,
        "next_step_at": payment.next_step_at,
        "next_step": payment.next_step.value if payment.next_step else None,
        "event_due": payment.event_due,
        "amount_settled_kes": payment.amount_settled_kes,
    }


def columns(rows: Sequence[dict[str, Any]], names: Iterable[str], prefix: str = "") -> dict[str, list[Any]]:
    """Rows as one array per column, the form that `unnest` takes: the SQL text stays the same for any number."""
    return {f"{prefix}_{name}" if prefix else name: [row[name] for row in rows] for name in names}


def unnest(types: dict[str, str], prefix: str = "") -> str:
    """The FROM clause that turns arrays named like their columns back into rows; `prefix` as in `columns`."""
    arrays = ", ".join(f"CAST(:{f'{prefix}_{name}' if prefix else name} AS {kind}[])" for name, kind in types.items())
    return f"unnest({arrays}) AS sent({', '.join(types)})"
