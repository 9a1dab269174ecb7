"""The epoch: it changes when a backup is restored, or when another server takes over.

The service detects the change by itself, and needs no right beyond those of PUBLIC. A restore
starts a server, creates a database, or creates or fills the tables anew. Each of these changes the
epoch. A restart of the server also changes the epoch. Then the older copies of first answers in
Redis become invalid, which does no harm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable

EPOCH = """(SELECT concat_ws('-',
    to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS'),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    pg_relation_filenode('mkwanja.idempotency_keys')))"""

_READ_EPOCH = sql(f"SELECT {EPOCH} AS epoch")

# The reader returns the epoch from memory for this long. A restore takes longer, so the first read
# after a restore always reads the epoch from the database.
_FRESH_SECONDS = 2.0
_PATIENCE_SECONDS = 1.0


class EpochReader:
    """Reads the current epoch from the database, every few seconds at most."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._last_epoch: str | None = None
        self._fresh_until = -1.0
        self._reads: Lane[None, str] = Lane(
            self._read_batch, key=lambda _: 0, shared=lambda _: 0, abandoned=Abandoned.DROP
        )

    async def current(self) -> str | None:
        """The epoch. While Postgres is unreachable, the last epoch that was read, or None."""
        if self._clock() >= self._fresh_until:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    self._last_epoch = await self._reads.submit(None)
                self._fresh_until = self._clock() + _FRESH_SECONDS
            except (StoreUnavailable, TimeoutError):
                self._fresh_until = self._clock() + _PATIENCE_SECONDS
        return self._last_epoch

    async def _read_batch(self, _batch: Sequence[None]) -> list[str]:
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_READ_EPOCH)
        return [row.epoch]
