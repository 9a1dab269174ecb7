"""A PostgreSQL and a Redis that run already: the servers in DATABASE_URL and REDIS_URL.

Each stack creates its own database in that PostgreSQL and uses an empty database number of that
Redis. It removes both at its end. If it lacks the rights for this, `note` says so, and the stack
uses the given database. The stack may not stop, kill or freeze these servers. A test reads
`can_be_stopped` to skip with a reason.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tests.stack import cleanup, databases
from tests.stack.servers import PostgresServer, RedisServer

_DATABASE_NUMBERS = range(16)  # Redis's own default
_MARK = "mkwanja:stack:in-use"  # shows other stacks that this database number is in use
_MARK_SECONDS = 86_400  # after this time the number of a killed stack is free again


class NotOursError(Exception):
    """The server belongs to another person, so we do not stop, freeze or empty it."""


class _GivenServer:
    """The common part of both servers: the stack may not stop them."""

    can_be_stopped = False
    note = ""

    def freeze(self) -> NoReturn:
        """Raises NotOursError, like all of these methods."""
        raise NotOursError(
            "DATABASE_URL or REDIS_URL names this server, so the stack may not stop or freeze it"
        )

    async def stop(self) -> NoReturn:
        """Refused."""
        self.freeze()

    thaw = freeze
    start = restart = kill = stop


class GivenPostgres(_GivenServer):
    """The server in DATABASE_URL, perhaps behind a pooler in transaction mode."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._created: list[str] = []
        self._registration = 0

    @property
    def admin_url(self) -> str:
        """The given URL, with the rights of its role."""
        return self.url

    async def __aenter__(self) -> Self:
        self._registration = cleanup.register(self._drop_all_now)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._drop_all()
        finally:
            cleanup.unregister(self._registration)

    async def create_database(self, *, template: str | None = None) -> str:
        """Creates a database and returns its URL, or the given URL if that is not allowed."""
        try:
            url = await databases.create_database(self.url, template=template)
        except asyncpg.InsufficientPrivilegeError as error:
            return self._fall_back(f"does not let this role create databases ({error})")
        self._created.append(url)
        try:
            async with databases.connection(url):
                return url
        except (asyncpg.PostgresError, OSError) as error:
            # For example, the server may be a pooler that knows only the databases in its list.
            await self.drop_database(url)
            return self._fall_back(f"did not let us use the database that we created ({error})")

    async def drop_database(self, url: str) -> None:
        """Drops a database of `create_database`, but not the given one."""
        if url in self._created:
            await databases.drop_database(self.url, url)
            self._created.remove(url)

    def _fall_back(self, reason: str) -> str:
        name = databases.database_name(self.url)
        self.note = f"PostgreSQL {reason}; the stack uses the given database {name!r}"
        return self.url

    async def _drop_all(self) -> None:
        for url in list(self._created):
            await self.drop_database(url)

    def _drop_all_now(self) -> None:
        with suppress(Exception):  # the program ends; the remaining databases are printed below
            asyncio.run(self._drop_all())
        for url in self._created:
            name = databases.database_name(url)
            print(f"left on the server: database {name}", file=sys.stderr)  # noqa: T201


class GivenRedis(_GivenServer):
    """The server in REDIS_URL.

    Channels have no database number, so all stacks on this Redis receive each other's events.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._is_ours = False

    async def __aenter__(self) -> Self:
        given = _number_of(self.url)
        for number in (given, *(other for other in _DATABASE_NUMBERS if other != given)):
            if await self._try_to_reserve(number):
                self.url = _with_number(self.url, number)
                self._is_ours = True
                return self
        self.note = f"Redis has no empty database; the stack uses {given} and does not flush it"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._is_ours:
            with suppress(RedisError):  # if Redis is gone, so are our keys
                async with Redis.from_url(self.url) as client:
                    await client.flushdb()

    async def flush(self) -> None:
        """Deletes every key in our own database number."""
        if not self._is_ours:
            raise NotOursError(
                "this Redis database was not empty when the stack started, so the stack "
                "does not flush it"
            )
        async with (
            Redis.from_url(self.url) as client,
            client.pipeline(transaction=True) as together,
        ):
            together.flushdb()
            together.set(_MARK, "", ex=_MARK_SECONDS)
            await together.execute()

    async def _try_to_reserve(self, number: int) -> bool:
        try:
            async with Redis.from_url(_with_number(self.url, number)) as client:
                if await client.dbsize() > 0:
                    return False
                # Set the mark, then count again: if two stacks start at once, at most one gets the
                # number.
                if not await client.set(_MARK, "", ex=_MARK_SECONDS, nx=True):
                    return False
                if await client.dbsize() == 1:
                    return True
                await client.delete(_MARK)
        except ResponseError:  # this Redis has fewer numbers, or we have no right to this one
            pass
        return False


def postgres_server(folder: Path, *, fast: bool = True) -> PostgresServer | GivenPostgres:
    """Returns the server in DATABASE_URL, else an embedded one in `folder`."""
    if url := os.environ.get("DATABASE_URL"):
        return GivenPostgres(url)
    return PostgresServer(folder, fast=fast)


def redis_server(folder: Path) -> RedisServer | GivenRedis:
    """Returns the server in REDIS_URL, else an embedded one in `folder`."""
    if url := os.environ.get("REDIS_URL"):
        return GivenRedis(url)
    return RedisServer(folder)


def _number_of(url: str) -> int:
    path = urlsplit(url).path.strip("/")
    return int(path) if path.isdigit() else 0


def _with_number(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))
