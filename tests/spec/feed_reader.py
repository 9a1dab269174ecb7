"""Reads the feed of events, and blocks other transactions by an open transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.databases import connection

_PAGES_MAX = 1000  # if the cursor does not move, the test fails after this many pages

# `pg_stat_activity` does not work here: inside one transaction it always shows the same rows.
_BLOCKED_BY_US = (
    "SELECT count(*) FROM pg_locks"
    " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
)


class Reader:
    """Reads the feed from its beginning, unless `skip` moves it to the present end."""

    def __init__(self, client: Client, *, limit: int = 100) -> None:
        self._client = client
        self._limit = limit
        self.cursor: str | None = None
        self.events: list[Any] = []

    async def read(self) -> list[Any]:
        """Read pages up to an empty one, and return their events."""
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
        """Move this reader to the present end of the feed."""
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
    """An open transaction that has run `statement`; it is rolled back after the block."""
    async with connection(system.stack.database_url) as raw:
        transaction = raw.transaction()
        await transaction.start()
        await raw.execute(statement)
        try:
            yield raw
        finally:
            await transaction.rollback()


async def wait_for_blocked(system: System, raw: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait until another transaction waits for a lock of `raw`."""
    await system.eventually(
        lambda: raw.fetchval(_BLOCKED_BY_US), awaited="a transaction that waits for our lock"
    )
