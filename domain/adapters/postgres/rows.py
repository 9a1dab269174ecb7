"""Rows of other tables than `payments` (`payment_columns.py`), and arrays for `unnest`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from domain.account import SendAccount
from domain.adapters.postgres.payment_columns import as_uuid
from domain.attempts import Attempt, IdKind, Outcome, ProviderId
from domain.kinds import Kind
from domain.lifecycle.submit import Due
from domain.stages import Stage, Step


def due_from(row: Any) -> Due:
    """A payment as a step needs to know it."""
    step = Step(row.next_step) if row.next_step else None
    return Due(
        payment_id=as_uuid(row.id),
        kind=Kind(row.kind),
        stage=Stage(row.stage),
        is_expired=row.is_expired,
        step=step,
    )


def attempts_from(
    attempt_rows: Iterable[Any], id_rows: Iterable[Any]
) -> dict[UUID, tuple[Attempt, ...]]:
    """Attempts by payment, each with the ids that Daraja gave it.

    A message may have named ids before any attempt was on record that they could belong to. They
    open a way to ask as well, and count as those of the newest attempt.
    """
    ids: dict[UUID, set[ProviderId]] = defaultdict(set)
    ids_of_payment: dict[UUID, set[ProviderId]] = defaultdict(set)
    for row in id_rows:
        found = (
            ids[as_uuid(row.attempt_id)]
            if row.attempt_id
            else ids_of_payment[as_uuid(row.payment_id)]
        )
        found.add((IdKind(row.kind), row.value))
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for row in attempt_rows:
        attempts[as_uuid(row.payment_id)].append(
            Attempt(
                id=as_uuid(row.id),
                number=row.number,
                outcome=Outcome(row.outcome) if row.outcome else None,
                provider_ids=frozenset(ids[as_uuid(row.id)]),
                claimed_at=row.claimed_at,
                ended_at=row.ended_at,
                account=SendAccount.from_text(row.account) if row.account else None,
            )
        )
    for payment_id, unclaimed in ids_of_payment.items():
        if of_payment := attempts.get(payment_id):
            of_payment[-1] = replace(
                of_payment[-1], provider_ids=of_payment[-1].provider_ids | unclaimed
            )
    return {payment_id: tuple(found) for payment_id, found in attempts.items()}


def columns(
    rows: Sequence[dict[str, Any]], names: Iterable[str], prefix: str = ""
) -> dict[str, list[Any]]:
    """Rows as one array per column, the form that `unnest` takes: the SQL text stays the same
    for any number.
    """
    return {f"{prefix}_{name}" if prefix else name: [row[name] for row in rows] for name in names}


def unnest(types: dict[str, str], prefix: str = "") -> str:
    """The FROM clause that turns arrays named like their columns back into rows; `prefix` as in
    `columns`.
    """
    arrays = ", ".join(
        f"CAST(:{f'{prefix}_{name}' if prefix else name} AS {kind}[])"
        for name, kind in types.items()
    )
    return f"unnest({arrays}) AS sent({', '.join(types)})"
