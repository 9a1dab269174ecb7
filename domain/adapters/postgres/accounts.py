"""Counts, by account, the payments that are still open or that we will inquire about again."""

from __future__ import annotations

from domain.account import Account
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql
from domain.attempts import Outcome
from domain.stages import Stage

# The query counts only payments that still have a next step. They are in `due_steps`, so finished
# payments cost nothing. Accepted payments are not counted. Any account can send them, because
# Daraja cannot have acted on their attempts.
_OPEN = sql(f"""
SELECT attempt.account, count(DISTINCT payment.id) AS payments
FROM mkwanja.due_steps AS due
JOIN mkwanja.payments AS payment ON payment.id = due.payment_id
JOIN mkwanja.attempts AS attempt ON attempt.payment_id = payment.id
WHERE payment.stage <> '{Stage.ACCEPTED}'
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
