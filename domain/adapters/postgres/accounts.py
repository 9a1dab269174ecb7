"""Counts, by account, the payments that are still open or that we will inquire about again."""

from __future__ import annotations

from sqlalchemy import text

from domain.account import Account
from domain.adapters.postgres.engine import Database
from domain.attempts import Outcome
from domain.stages import Stage

# This counts only payments that still have a next step. An index covers them, so old payments cost
# nothing. Accepted payments are left out: any account can send them, because none of their attempts
# can have acted.
_OPEN = text(f"""
SELECT attempt.account, count(DISTINCT payment.id) AS payments
FROM mkwanja.payments AS payment JOIN mkwanja.attempts AS attempt ON attempt.payment_id = payment.id
WHERE payment.next_step_at IS NOT NULL AND payment.stage <> '{Stage.ACCEPTED}'
    AND attempt.outcome IS DISTINCT FROM '{Outcome.NOT_ACTED}'
GROUP BY attempt.account ORDER BY payments DESC
""")


class Accounts:
    """Reads the accounts of open payments. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_payments(self) -> dict[Account | None, int]:
        """The number of open payments that each account sent.

        None stands for payments that were sent before accounts were stored.
        """
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_OPEN)
        return {
            Account.from_text(row.account) if row.account else None: row.payments for row in rows
        }
