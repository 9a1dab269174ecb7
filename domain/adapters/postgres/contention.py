"""Transactions that other transactions may block for a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domain.adapters.postgres.engine import CONTENDED, Database, Transaction, sqlstate
from domain.errors import StoreUnavailable


@asynccontextmanager
async def blockable_transaction(database: Database) -> AsyncIterator[Transaction]:
    """A transaction that raises StoreUnavailable also if another one holds a lock for too long.

    Then nothing was written, and the same work may be tried again.
    """
    try:
        async with database.transaction() as transaction:
            yield transaction
    except Exception as error:
        if sqlstate(error) in CONTENDED:
            raise StoreUnavailable from error
        raise
