"""Which accounts the payments belong to whose outcome is still open, or that are asked about
once more.
"""

from __future__ import annotations

from sqlalchemy import text

from domain.account import Account
from domain.adapters.postgres.engine import Database
from domain.attempts import Outcome
from domain.stages import Stage

# Only payments with a step ahead of them: those have an index, so that a long past costs nothing.
# An accepted payment can be sent by any account, because none of its attempts can have acted.
_OPEN = text(f"""
SELECT attempt.account, count(DISTINCT payment.id) AS payments
FROM mkwanja.payments AS payment JOIN mkwanja.attempts AS attempt ON attempt.payment_id = payment.id
WHERE payment.next_step_at IS NOT NULL AND payment.stage <> '{Stage.ACCEPTED}'
    AND attempt.outcome IS DISTINCT FROM '{Outcome.NOT_ACTED}'
GROUP BY attempt.account ORDER BY payments DESC
""")


class Accounts:
    """Reads. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_payments(self) -> dict[Account | None, int]:
        """How many open payments each account sent; None: those older than the record of
        accounts.
        """
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_OPEN)
        return {
            Account.from_text(row.account) if row.account else None: row.payments for row in rows
        }
