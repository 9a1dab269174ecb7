"""Reads rows of tables other than `payments` (`payment_columns.py`), and builds `unnest` arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from domain.account import Account
from domain.adapters.postgres.payment_columns import as_uuid
from domain.attempts import Attempt, IdKind, Outcome, ProviderId
from domain.kinds import Kind
from domain.lifecycle.submit import Due
from domain.stages import Stage, Step


def due_from(row: Any) -> Due:
    """The fields of a payment that its next step needs."""
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
    """Attempts by payment, each with its provider ids.

    If a message arrived before we stored the ids of its attempt, we do not know which attempt the
    message's ids belong to. Such ids count as ids of the newest attempt, so that we can inquire by
    them as well.
    """
    ids_by_attempt: dict[UUID, set[ProviderId]] = defaultdict(set)
    ids_without_attempt: dict[UUID, set[ProviderId]] = defaultdict(set)
    for row in id_rows:
        ids = (
            ids_by_attempt[as_uuid(row.attempt_id)]
            if row.attempt_id
            else ids_without_attempt[as_uuid(row.payment_id)]
        )
        ids.add((IdKind(row.kind), row.value))
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for row in attempt_rows:
        attempts[as_uuid(row.payment_id)].append(
            Attempt(
                id=as_uuid(row.id),
                number=row.number,
                outcome=Outcome(row.outcome) if row.outcome else None,
                provider_ids=frozenset(ids_by_attempt[as_uuid(row.id)]),
                claimed_at=row.claimed_at,
                ended_at=row.ended_at,
                account=Account.from_text(row.account) if row.account else None,
            )
        )
    for payment_id, ids in ids_without_attempt.items():
        if of_payment := attempts.get(payment_id):
            newest = of_payment[-1]
            of_payment[-1] = replace(newest, provider_ids=newest.provider_ids | ids)
    return {payment_id: tuple(of_payment) for payment_id, of_payment in attempts.items()}


def columns(
    rows: Sequence[dict[str, Any]], names: Iterable[str], prefix: str = ""
) -> dict[str, list[Any]]:
    """One array per column, for `unnest`. The SQL text is the same for any number of rows."""
    return {f"{prefix}_{name}" if prefix else name: [row[name] for row in rows] for name in names}


def unnest(types: dict[str, str], prefix: str = "") -> str:
    """The FROM clause that turns the arrays of `columns` back into rows, with the alias `batch`."""
    arrays = ", ".join(
        f"CAST(:{f'{prefix}_{name}' if prefix else name} AS {kind}[])"
        for name, kind in types.items()
    )
    return f"unnest({arrays}) AS batch({', '.join(types)})"
