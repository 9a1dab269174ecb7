"""A pool of connections to one Postgres, which reconnects when a server comes back.

The driver's own pool sends a statement to clean up each connection that is returned. We set nothing
that outlives a transaction, so that round trip would be wasted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from domain.adapters.postgres.functions import Function
from domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

ROLLBACK_SECONDS = 1

# If a read-only session is older than this, it is replaced, because by now the database may accept
# writes, or another host may be the primary.
_READ_ONLY_FRESH_SECONDS = 1.0


class Row(asyncpg.Record):  # type: ignore[misc]  # the driver has no types
    """A row whose columns are also attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Connection: TypeAlias = "asyncpg.Connection[Row]"
Connect: TypeAlias = Callable[[], Awaitable[Connection]]


class Session:
    """A connection of the pool. `is_read_only` is what its last transaction found."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.opened_at = time.monotonic()
        self.is_read_only = False
        self._calls: dict[Function, PreparedStatement[Row]] = {}

    @property
    def is_stale(self) -> bool:
        """Whether a read-only session is too old to be reused.

        A new session finds out whether the database is still read-only, or where the primary is
        now.
        """
        age_seconds = time.monotonic() - self.opened_at
        return self.is_read_only and age_seconds > _READ_ONLY_FRESH_SECONDS

    async def call(self, function: Function, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Calls `function` in one round trip. The first call needs one more.

        The statement has no name, so the driver sends its text with each call, and a pooler may run
        each call on another connection. Only the types of its parameters and its columns are kept
        here. They never change, because the function's name contains a hash of them.
        """
        statement = self._calls.get(function)
        if statement is None:
            statement = await self.connection.prepare(function.call.text, name="")
            self._calls[function] = statement
        rows: Sequence[Row] = await statement.fetch(*function.call.order(parameters))
        return rows


class Pool:
    """At most `size` sessions. The one that was returned last is used first."""

    def __init__(self, connect: Connect, *, size: int) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._idle: list[Session] = []
        self._borrowed: set[Session] = set()
        self._retired_before = 0.0

    async def borrow(self, *, wait_seconds: float) -> Session:
        """A session, from now on for the caller alone. Raises StoreUnavailable."""
        if self._places.locked():
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._places.acquire()
            except TimeoutError as error:
                raise StoreUnavailable from error
        else:
            await self._places.acquire()  # at once, so it needs no time limit
        try:
            session = self._find_idle() or Session(await self._connect())
        except BaseException as error:
            self._places.release()
            if isinstance(error, Exception):
                # Whatever the error is (for example no such database or role), there is no
                # connection, so nothing was done.
                raise StoreUnavailable from error
            raise
        self._borrowed.add(session)
        return session

    async def give_back(self, session: Session, *, in_order: bool) -> None:
        """Returns a session, or discards it if it cannot be rolled back at once."""
        connection = session.connection
        is_usable = False
        try:
            if not in_order and not connection.is_closed():
                async with asyncio.timeout(ROLLBACK_SECONDS):
                    await connection.execute("ROLLBACK")
            is_usable = not connection.is_closed()
        except Exception:  # noqa: BLE001 - after any error, this connection is not used again
            is_usable = False
        finally:
            if is_usable:
                self._idle.append(session)
            else:
                connection.terminate()
            self._borrowed.discard(session)
            self._places.release()

    def retire_all(self) -> None:
        """Retires all connections that are open now: they are not used again."""
        self._retired_before = time.monotonic()

    async def close(self) -> None:
        """Closes the idle connections, and ends the borrowed ones."""
        for session in self._borrowed:
            session.connection.terminate()
        while self._idle:
            connection = self._idle.pop().connection
            with suppress(Exception):
                await connection.close(timeout=ROLLBACK_SECONDS)

    def _find_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.connection.is_closed():
                continue
            if session.opened_at >= self._retired_before and not session.is_stale:
                return session
            # Terminate, because a normal close would wait for the answer of a dead server.
            session.connection.terminate()
        return None
