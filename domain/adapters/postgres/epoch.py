"""Which life of the database this is: its epoch changes when a backup was restored, and when
another server took over.

Nothing must be told to the service for that, and no right beyond PUBLIC's is needed. A restored
backup runs in a server that was started for it, or in a new database, or its tables were made or
filled anew. A mere restart changes the epoch as well, which only costs the copies in Redis that
were made before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from sqlalchemy import text

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.postgres.engine import Database
from domain.errors import StoreUnavailable

EPOCH = """(SELECT concat_ws('-',
    to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS'),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    pg_relation_filenode('mkwanja.idempotency_keys')))"""

_LOOK = text(f"SELECT {EPOCH} AS epoch")

# A restore takes longer than this, so the first look after it is a new one.
_FRESH_SECONDS = 2.0
_PATIENCE_SECONDS = 1.0


class Epochs:
    """The present epoch, looked up every few seconds at most."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: str | None = None
        self._fresh_until = -1.0
        self._looks: Lane[None, str] = Lane(
            self._look, key=lambda _: 0, shared=lambda _: 0, abandoned=Abandoned.DROP
        )

    async def current(self) -> str | None:
        """The epoch.

        While Postgres is away it is the last one that was seen; None if there was none.
        """
        if self._clock() >= self._fresh_until:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    self._known = await self._looks.submit(None)
                self._fresh_until = self._clock() + _FRESH_SECONDS
            except (StoreUnavailable, TimeoutError):
                self._fresh_until = self._clock() + _PATIENCE_SECONDS
        return self._known

    async def _look(self, _looks: Sequence[None]) -> list[str]:
        async with self._database.transaction() as transaction:
            [row] = await transaction.rows(_LOOK)
        return [row.epoch]
