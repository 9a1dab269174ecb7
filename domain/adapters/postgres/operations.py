"""Held operations: rows among the brakes, held and released in the commit of the answer that says
so.

The claim reads them without a lock (`claiming.py`). A claim that commits just before a hold costs
one refused request and no money, so nothing needs to wait. Every statement here changes rows only
where that is due: the usual answer changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import structlog

from domain.adapters.postgres.brakes import (
    COUNT_REFUSALS,
    HOLD_OPERATION,
    RELEASE_OPERATIONS,
    TAKE_OPERATION_PROBE,
)
from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Transaction
from domain.operations import SETTINGS_REFUSALS_MAX, Operation, OperationAnswer, OperationHealth

log = structlog.get_logger()


async def change_operations(transaction: Transaction, effects: BatchEffects) -> bool:
    """Takes probes, holds and releases operations, as `effects` say.

    False if a probe was taken by another worker.
    """
    for operation in sorted(effects.probed):
        if not await transaction.rows(TAKE_OPERATION_PROBE, {"name": operation.value}):
            return False
        log.warning("operation_probed", operation=operation.value)
    heard = effects.operation_answers
    await _release(transaction, [item for item in heard if item.health is OperationHealth.WORKS])
    for operation in sorted({item.operation for item in heard}):
        await _hold(transaction, operation, [item for item in heard if item.operation is operation])
    return True


async def _release(transaction: Transaction, heard: Sequence[OperationAnswer]) -> None:
    newest: dict[str, OperationAnswer] = {}
    for item in sorted(heard, key=lambda item: item.since):
        newest[item.operation.value] = item
    if not newest:
        return
    parameters = {"names": list(newest), "since": [item.since for item in newest.values()]}
    for row in await transaction.rows(RELEASE_OPERATIONS, parameters):
        log.warning("operation_released", operation=row.name)


async def _hold(
    transaction: Transaction, operation: Operation, heard: Sequence[OperationAnswer]
) -> None:
    """Holds `operation` at its first refusal as a product, or at the third refusal of our
    settings in a row.
    """
    count = Counter(item.health for item in heard)
    refused = [item for item in heard if item.health is not OperationHealth.WORKS]
    if not refused:
        return
    last = max(refused, key=lambda item: item.since)
    parameters = {"name": operation.value, "since": last.since, "cool_down": last.cool_down}
    code = last.code or "no code"
    if count[OperationHealth.PRODUCT_REFUSED]:
        reason = f"Daraja refuses the operation to our app ({code})"
    else:
        counted = {
            "name": operation.value,
            "since": last.since,
            "count": count[OperationHealth.SETTINGS_REFUSED],
        }
        [refusals] = [row.refusals for row in await transaction.rows(COUNT_REFUSALS, counted)] or [
            0
        ]
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
