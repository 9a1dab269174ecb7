"""Reads rows of tables other than `payments` (`payment_columns.py`), and sends rows to a statement.

Rows are sent as arrays (`columns` and `unnest`) or as JSON (`records` and `recordset`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from domain.account import Account
from domain.adapters.postgres.payment_columns import as_moment, as_uuid
from domain.attempts import Attempt, IdKind, Outcome, ProviderId
from domain.kinds import Kind
from domain.lifecycle.submit import NextStep
from domain.stages import Stage, Step


def next_step_from(row: Any) -> NextStep:
    """The fields of a payment that its next step needs."""
    step = Step(row.next_step) if row.next_step else None
    return NextStep(
        payment_id=as_uuid(row.id),
        kind=Kind(row.kind),
        stage=Stage(row.stage),
        is_expired=row.is_expired,
        step=step,
    )


def attempts_from(
    attempt_rows: Iterable[Mapping[str, Any]], id_rows: Iterable[Mapping[str, Any]]
) -> dict[Any, tuple[Attempt, ...]]:
    """Attempts by payment, each with its provider ids. The rows come from the driver or from JSON.

    A key of the result is a payment's id as in the rows: a UUID, or a text of JSON.

    If a message arrived before we stored the ids of its attempt, we do not know which attempt the
    message's ids belong to. Such ids count as ids of the newest attempt, so that we can inquire by
    them as well.
    """
    ids_by_attempt: dict[Any, set[ProviderId]] = defaultdict(set)
    ids_without_attempt: dict[Any, set[ProviderId]] = defaultdict(set)
    for row in id_rows:
        attempt_id = row["attempt_id"]
        ids = (
            ids_without_attempt[row["payment_id"]]
            if attempt_id is None
            else ids_by_attempt[attempt_id]
        )
        ids.add((IdKind(row["kind"]), row["value"]))
    attempts: dict[Any, list[Attempt]] = defaultdict(list)
    for row in attempt_rows:
        attempts[row["payment_id"]].append(
            Attempt(
                id=as_uuid(row["id"]),
                number=row["number"],
                outcome=Outcome(row["outcome"]) if row["outcome"] else None,
                provider_ids=frozenset(ids_by_attempt[row["id"]]),
                claimed_at=as_moment(row["claimed_at"]),
                ended_at=as_moment(row["ended_at"]) if row["ended_at"] else None,
                account=Account.from_text(row["account"]) if row["account"] else None,
            )
        )
    for payment_id, ids in ids_without_attempt.items():
        if of_payment := attempts.get(payment_id):
            newest = of_payment[-1]
            of_payment[-1] = replace(newest, provider_ids=newest.provider_ids | ids)
    return {payment_id: tuple(of_payment) for payment_id, of_payment in attempts.items()}


def columns(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    """One array per column, for `unnest`. The SQL text is the same for any number of rows."""
    return {name: [row[name] for row in rows] for name in names}


def unnest(types: dict[str, str]) -> str:
    """The FROM clause that turns the arrays of `columns` back into rows, with the alias `batch`."""
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in types.items())
    return f"unnest({arrays}) AS batch({', '.join(types)})"


def records(rows: Sequence[dict[str, Any]]) -> str | None:
    """`rows` as one parameter for `recordset`, or None if there are no rows."""
    return orjson.dumps(rows).decode() if rows else None


def recordset(name: str, types: dict[str, str]) -> str:
    """The FROM clause that turns the parameter `name` back into rows, with the alias `batch`.

    One parameter of JSON costs less than one array per column, because the driver converts each
    array by itself.
    """
    columns_ = ", ".join(f"{column} {kind}" for column, kind in types.items())
    return f"json_to_recordset(:{name}) AS batch({columns_})"


def bytea_text(value: bytes) -> str:
    """A value of a `bytea` column for `records`."""
    return f"\\x{value.hex()}"
