"""Holds and releases operations, in the commit of the answer that requires it.

A held operation is a row among the brakes. The claim reads these rows without a lock
(`claiming.py`). If a claim commits just before its operation is held, Daraja refuses one request,
and no money moves. So a hold need not wait for claims. A normal answer changes no row here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from domain.adapters.postgres.brakes import (
    COUNT_REFUSALS,
    HOLD_OPERATION,
    START_OPERATION_PROBE,
)
from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Calls
from domain.operations import SETTINGS_REFUSALS_MAX, Operation, OperationAnswer, OperationHealth

log = structlog.get_logger()


def working_operations(effects: BatchEffects) -> list[dict[str, Any]]:
    """The operations that answered as they should, for `RELEASE_OPERATIONS`."""
    newest: dict[Operation, OperationAnswer] = {}
    for item in sorted(effects.operation_answers, key=lambda item: item.since):
        if item.health is OperationHealth.WORKS:
            newest[item.operation] = item
    return [{"name": item.operation.value, "since": item.since} for item in newest.values()]


async def change_operations(transaction: Calls, effects: BatchEffects) -> bool:
    """Starts probes and holds operations, according to `effects`.

    `write` has released operations already. Returns False if another worker started the probe
    first.
    """
    for operation in sorted(effects.probed_operations):
        if not await transaction.rows(START_OPERATION_PROBE, {"name": operation.value}):
            return False
        log.warning("operation_probed", operation=operation.value)
    answers = effects.operation_answers
    for operation in sorted({item.operation for item in answers}):
        await _hold(
            transaction, operation, [item for item in answers if item.operation is operation]
        )
    return True


async def _hold(
    transaction: Calls, operation: Operation, answers: Sequence[OperationAnswer]
) -> None:
    """Holds `operation` if Daraja refused it to our app, or refused our settings too often."""
    counts = Counter(item.health for item in answers)
    refusing = [item for item in answers if item.health is not OperationHealth.WORKS]
    if not refusing:
        return
    last = max(refusing, key=lambda item: item.since)
    parameters = {"name": operation.value, "since": last.since, "cool_down": last.cool_down}
    code = last.code or "no code"
    if counts[OperationHealth.PRODUCT_REFUSED]:
        reason = f"Daraja refuses the operation to our app ({code})"
    else:
        count_parameters = {
            "name": operation.value,
            "since": last.since,
            "count": counts[OperationHealth.SETTINGS_REFUSED],
        }
        rows = await transaction.rows(COUNT_REFUSALS, count_parameters)
        [refusals] = [row.refusals for row in rows] or [0]
        if refusals < SETTINGS_REFUSALS_MAX:
            return
        reason = f"Daraja refused our settings {refusals} times in a row ({code})"
    for row in await transaction.rows(HOLD_OPERATION, {**parameters, "reason": reason}):
        log.error(
            "operation_held",
            operation=operation.value,
            reason=reason,
            next_probe_at=row.probe_at.isoformat(),
        )
