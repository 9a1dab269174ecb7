"""Follows the feed of events, and holds up others by an open transaction of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.databases import connection

_PAGES_MAX = 1000  # only so that a cursor that does not move fails a test and does not hang it

# Locks, not `pg_stat_activity`: that shows one transaction always the same.
_WAITING_FOR_US = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"


class Reader:
    """Follows the feed from its end as it is now, or from its beginning."""

    def __init__(self, client: Client, *, limit: int = 100) -> None:
        self._client = client
        self._limit = limit
        self.cursor: str | None = None
        self.events: list[Any] = []

    async def read(self) -> list[Any]:
        """Every page up to an empty one; what they held."""
        found: list[Any] = []
        for _ in range(_PAGES_MAX):
            page = await self._page()
            assert len(page["items"]) <= self._limit
            assert isinstance(page["next_cursor"], str)
            if not page["items"]:
                assert self.cursor in (None, page["next_cursor"]), "an empty page moved the cursor"
                self.cursor = page["next_cursor"]
                self.events += found
                return found
            assert page["next_cursor"] != self.cursor
            self.cursor = page["next_cursor"]
            found += page["items"]
        raise AssertionError("the feed has no end")

    async def skip(self) -> Reader:
        """This reader, at the end of what there is."""
        await self.read()
        self.events.clear()
        return self

    async def _page(self) -> Any:
        after = {"after": self.cursor} if self.cursor is not None else {}
        return (
            (await self._client.get("/v1/events", limit=str(self._limit), **after))
            .expect(200)
            .json()
        )

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


@asynccontextmanager
async def open_transaction(
    system: System, statement: str
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Somebody else's open transaction, in which `statement` was run, for the block; then it is
    rolled back.
    """
    async with connection(system.stack.database_url) as raw:
        transaction = raw.transaction()
        await transaction.start()
        await raw.execute(statement)
        try:
            yield raw
        finally:
            await transaction.rollback()


async def wait_for_blocked(system: System, raw: asyncpg.Connection[asyncpg.Record]) -> None:
    await system.eventually(
        lambda: raw.fetchval(_WAITING_FOR_US), awaited="somebody who waits for our lock"
    )
