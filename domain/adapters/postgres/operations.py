"""Held operations: rows among the brakes, held and released in the commit of the answer that says so.

The claim reads them without a lock (`claiming.py`). A claim that commits just before a hold costs one refused request and
no money, so nothing needs to wait. Every statement here changes rows only where that is due: the usual answer changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import text

from domain.adapters.postgres.engine import Transaction
from domain.changes import Decided
from domain.operations import (
    COOL_DOWN_MAX,
    OPERATION_OF_KIND,
    OPERATION_OF_QUESTION,
    SETTINGS_REFUSALS_MAX,
    Heard,
    Operation,
    Standing,
)

log = structlog.get_logger()


def case_sql(column: str, operations: Mapping[Any, Operation]) -> str:
    """The SQL that gives the operation for the value in `column`."""
    cases = [f"WHEN '{value}' THEN '{name}'" for value, name in operations.items()]
    return f"CASE {column} {' '.join(cases)} END"


OPERATION_OF_KIND_SQL = case_sql("kind", OPERATION_OF_KIND)
OPERATION_OF_STEP_SQL = case_sql("step.name", OPERATION_OF_QUESTION)

# What a probe does to its row: the next cool-down begins, twice as long.
PROBED_SQL = f"""probes = probes + 1, probed_at = now(),
        cool_down = least(cool_down * 2, interval '{COOL_DOWN_MAX.total_seconds():.0f} seconds'),
        probe_at = now() + least(cool_down * 2, interval '{COOL_DOWN_MAX.total_seconds():.0f} seconds')"""

_TAKE_PROBE = text(f"""
UPDATE mkwanja.brakes SET {PROBED_SQL}
WHERE name = :name AND is_engaged AND probe_at <= now() RETURNING name
""")

# An answer to a request that is older than the last change says nothing about the time since.
_HOLD = text("""
WITH held AS (
    UPDATE mkwanja.brakes SET is_engaged = true, reason = :reason, changed_at = now(), refusals = 0, probes = 0,
        probed_at = NULL, cool_down = CAST(:cool_down AS interval), probe_at = now() + CAST(:cool_down AS interval)
    WHERE name = :name AND NOT is_engaged AND changed_at <= :since RETURNING *
), noted AS (
    INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
    SELECT changed_at, name, is_engaged, reason FROM held
)
SELECT probe_at FROM held
""")
_COUNT = text("""
UPDATE mkwanja.brakes SET refusals = refusals + :count
WHERE name = :name AND NOT is_engaged AND changed_at <= :since RETURNING refusals
""")
_WORKS = text("""
WITH heard AS (
    SELECT * FROM unnest(CAST(:names AS text[]), CAST(:since AS timestamptz[])) AS heard(name, since)
), found AS (
    SELECT brake.name, brake.is_engaged FROM mkwanja.brakes AS brake JOIN heard ON heard.name = brake.name
    WHERE CASE WHEN brake.is_engaged THEN brake.changed_at < heard.since ELSE brake.refusals > 0 END
    ORDER BY brake.name FOR UPDATE OF brake
), changed AS (
    UPDATE mkwanja.brakes AS brake SET is_engaged = false, reason = NULL, refusals = 0,
        changed_at = CASE WHEN found.is_engaged THEN now() ELSE brake.changed_at END
    FROM found WHERE brake.name = found.name
    RETURNING brake.name, brake.changed_at, found.is_engaged AS was_held
), noted AS (
    INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
    SELECT changed_at, name, false, 'Daraja accepted the operation again' FROM changed WHERE was_held
)
SELECT name FROM changed WHERE was_held
""")


async def change_operations(transaction: Transaction, decisions: Sequence[Decided]) -> bool:
    """Takes probes, holds and releases operations, as `decisions` say. False if a probe was taken by another worker."""
    for operation in sorted(decided.takes_probe for decided in decisions if decided.takes_probe):
        if not await transaction.rows(_TAKE_PROBE, {"name": operation.value}):
            return False
        log.warning("operation_probed", operation=operation.value)
    heard = [decided.heard for decided in decisions if decided.heard is not None]
    await _release(transaction, [item for item in heard if item.standing is Standing.WORKS])
    for operation in sorted({item.operation for item in heard}):
        await _hold(transaction, operation, [item for item in heard if item.operation is operation])
    return True


async def _release(transaction: Transaction, heard: Sequence[Heard]) -> None:
    newest: dict[str, Heard] = {}
    for item in sorted(heard, key=lambda item: item.since):
        newest[item.operation.value] = item
    if not newest:
        return
    parameters = {"names": list(newest), "since": [item.since for item in newest.values()]}
    for row in await transaction.rows(_WORKS, parameters):
        log.warning("operation_released", operation=row.name)


async def _hold(transaction: Transaction, operation: Operation, heard: Sequence[Heard]) -> None:
    """Holds `operation` at its first refusal as a product, or at the third refusal of our settings in a row."""
    count = Counter(item.standing for item in heard)
    refused = [item for item in heard if item.standing is not Standing.WORKS]
    if not refused:
        return
    last = max(refused, key=lambda item: item.since)
    parameters = {"name": operation.value, "since": last.since, "cool_down": last.cool_down}
    code = last.code or "no code"
    if count[Standing.PRODUCT_REFUSED]:
        reason = f"Daraja refuses the operation to our app ({code})"
    else:
        counted = {"name": operation.value, "since": last.since, "count": count[Standing.SETTINGS_REFUSED]}
        [refusals] = [row.refusals for row in await transaction.rows(_COUNT, counted)] or [0]
        if refusals < SETTINGS_REFUSALS_MAX:
            return
        reason = f"Daraja refused our settings {refusals} times in a row ({code})"
    for row in await transaction.rows(_HOLD, {**parameters, "reason": reason}):
        log.error("operation_held", operation=operation.value, reason=reason, next_probe_at=row.probe_at.isoformat())
