"""What only the console reads and writes: disclosures, decisions, changes of brakes, traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.payment_columns import as_uuid
from domain.adapters.postgres.statements import sql

_DISCLOSE = sql("""
INSERT INTO mkwanja.console_disclosures (id, payment_id, disclosed_at, operator, reason)
VALUES (:id, :payment_id, now(), :operator, :reason)
""")
_DISCLOSURES = sql("""
SELECT disclosed_at, operator, reason FROM mkwanja.console_disclosures
WHERE payment_id = :payment_id ORDER BY disclosed_at DESC LIMIT :limit
""")
# The condition is that of the index `payment_history_decisions`.
_DECISIONS = sql("""
SELECT payment_id, recorded_at, what, stage, detail FROM mkwanja.payment_history
WHERE what IN ('resolved_paid', 'resolved_unpaid', 'reviewed', 'inquiry_asked_for')
ORDER BY recorded_at DESC LIMIT :limit
""")
_LAST_ENTRIES = sql("""
SELECT DISTINCT ON (payment_id) payment_id, recorded_at, what, stage, detail
FROM mkwanja.payment_history WHERE payment_id = ANY(:ids) ORDER BY payment_id, sequence DESC
""")
# The requests of the last minutes, by their ids, which contain their times.
_TRAFFIC_MINUTES = 5
_TRAFFIC = sql("""
SELECT api, meaning, count(*) AS count FROM mkwanja.daraja_exchanges
WHERE id >= :first_id GROUP BY api, meaning ORDER BY api, count DESC, meaning
""")
_BRAKE_CHANGES = sql("""
SELECT changed_at, name, is_engaged, reason, operator FROM mkwanja.brake_history
ORDER BY changed_at DESC LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Disclosure:
    """An operator saw the numbers and names of a payment in full."""

    disclosed_at: datetime
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """An entry of a payment's history, such as an operator's decision."""

    payment_id: UUID
    recorded_at: datetime
    name: str
    stage: str
    detail: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BrakeChange:
    """One change of a brake. `operator` is known if the change was made in the console."""

    changed_at: datetime
    name: str
    is_engaged: bool
    reason: str
    operator: str | None


@dataclass(frozen=True, slots=True)
class OperationTraffic:
    """How many requests for one of Daraja's operations had this outcome lately."""

    operation: str
    outcome: str
    count: int


class ConsoleStore:
    """Reads and writes for the console. Each method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record_disclosure(self, payment_id: UUID, *, operator: str, reason: str) -> None:
        """Records that the operator sees the payment's numbers, before the operator sees them."""
        parameters = {
            "id": uuid_utils.uuid7(),
            "payment_id": payment_id,
            "operator": operator,
            "reason": reason,
        }
        async with self._database.transaction() as transaction:
            await transaction.run(_DISCLOSE, parameters)

    async def disclosures(self, payment_id: UUID, *, limit: int) -> list[Disclosure]:
        """The last disclosures of a payment, newest first."""
        parameters = {"payment_id": payment_id, "limit": limit}
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_DISCLOSURES, parameters)
        return [Disclosure(row.disclosed_at, row.operator, row.reason) for row in rows]

    async def decisions(self, *, limit: int) -> list[Decision]:
        """The last decisions of operators about payments, newest first."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_DECISIONS, {"limit": limit})
        return [_decision_from(row) for row in rows]

    async def last_entries(self, ids: Sequence[UUID]) -> Mapping[UUID, Decision]:
        """The last entry of the history of each payment, by any actor."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_LAST_ENTRIES, {"ids": list(ids)})
        entries = [_decision_from(row) for row in rows]
        return {entry.payment_id: entry for entry in entries}

    async def traffic(self) -> list[OperationTraffic]:
        """The requests to Daraja of the last five minutes. It reads these rows and no others."""
        since_ms = int((time.time() - 60 * _TRAFFIC_MINUTES) * 1000)
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_TRAFFIC, {"first_id": UUID(int=since_ms << 80)})
        return [OperationTraffic(row.api, row.meaning, row.count) for row in rows]

    async def brake_changes(self, *, limit: int) -> list[BrakeChange]:
        """The last changes of all brakes, newest first."""
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_BRAKE_CHANGES, {"limit": limit})
        return [
            BrakeChange(row.changed_at, row.name, row.is_engaged, row.reason, row.operator)
            for row in rows
        ]


def _decision_from(row: Any) -> Decision:
    return Decision(
        as_uuid(row.payment_id), row.recorded_at, row.what, row.stage, json.loads(row.detail)
    )
