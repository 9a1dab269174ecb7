"""A PostgreSQL and a Redis that are already there: what DATABASE_URL and REDIS_URL name, used with
care.

Each stack gets a database of its own on the one and an empty database number on the other, and
removes what it made. Where the given rights do not allow that, it says so in `note` and uses what
it was given. Stopping, killing and freezing are not ours to do here; `can_be_stopped` lets a test
skip with a reason.
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
_MARK = "mkwanja:stack:in-use"  # makes an empty database number ours, for other stacks to see
_MARK_SECONDS = 86_400  # a stack that was killed does not keep its number for ever


class NotOursError(Exception):
    """The server belongs to somebody else: it is not stopped, frozen or emptied by us."""


class _GivenServer:
    """What both have in common: they cannot be stopped."""

    can_be_stopped = False
    note = ""

    async def start(self) -> None:
        """Refused, like all of these."""
        self._refuse()

    async def stop(self) -> None:
        """Refused."""
        self._refuse()

    async def restart(self) -> None:
        """Refused."""
        self._refuse()

    async def kill(self) -> None:
        """Refused."""
        self._refuse()

    def freeze(self) -> None:
        """Refused."""
        self._refuse()

    def thaw(self) -> None:
        """Refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotOursError(
            "the server was given by DATABASE_URL or REDIS_URL; it is not ours to stop"
        )


class GivenPostgres(_GivenServer):
    """The server that DATABASE_URL names; perhaps a pooler in transaction mode before it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._created: list[str] = []
        self._registration = 0

    @property
    def admin_url(self) -> str:
        """Whatever rights the given role has."""
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
        """Create a database and return its URL; where that is not allowed, the given one."""
        try:
            url = await databases.create_database(self.url, template=template)
        except asyncpg.InsufficientPrivilegeError as error:
            return self._fall_back(f"may not create databases ({error})")
        self._created.append(url)
        try:
            async with databases.connection(url):
                return url
        except (
            asyncpg.PostgresError,
            OSError,
        ) as error:  # a pooler that knows only the databases in its list
            await self.drop_database(url)
            return self._fall_back(f"did not let us use the database that we created ({error})")

    async def drop_database(self, url: str) -> None:
        """Drop a database of `create_database`; the given one stays."""
        if url in self._created:
            await databases.drop_database(self.url, url)
            self._created.remove(url)

    def _fall_back(self, why: str) -> str:
        self.note = f"PostgreSQL {why}; using the given database {databases.database_name(self.url)!r} itself"
        return self.url

    async def _drop_all(self) -> None:
        for url in list(self._created):
            await self.drop_database(url)

    def _drop_all_now(self) -> None:
        with suppress(Exception):  # the caller is ending; what is left is named below
            asyncio.run(self._drop_all())
        for url in self._created:
            print(f"left on the server: database {databases.database_name(url)}", file=sys.stderr)  # noqa: T201


class GivenRedis(_GivenServer):
    """The server that REDIS_URL names. Channels know no database numbers: all stacks on it hear
    each other's events.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._is_ours = False

    async def __aenter__(self) -> Self:
        given = _number_of(self.url)
        for number in (given, *(other for other in _DATABASE_NUMBERS if other != given)):
            if await self._take(number):
                self.url = _with_number(self.url, number)
                self._is_ours = True
                return self
        self.note = f"Redis has no empty database for us; using {given}, which will not be flushed"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._is_ours:
            with suppress(RedisError):  # gone already, and what we put there with it
                async with Redis.from_url(self.url) as client:
                    await client.flushdb()

    async def flush(self) -> None:
        """Forget everything in our own database number."""
        if not self._is_ours:
            raise NotOursError(
                "this Redis database was not empty when we came; it is not ours to flush"
            )
        async with (
            Redis.from_url(self.url) as client,
            client.pipeline(transaction=True) as together,
        ):
            together.flushdb()
            together.set(_MARK, "", ex=_MARK_SECONDS)
            await together.execute()

    async def _take(self, number: int) -> bool:
        try:
            async with Redis.from_url(_with_number(self.url, number)) as client:
                if await client.dbsize() > 0:
                    return False
                # Marked first and counted again: of two stacks that come at once, at most one gets
                # it.
                if not await client.set(_MARK, "", ex=_MARK_SECONDS, nx=True):
                    return False
                if await client.dbsize() == 1:
                    return True
                await client.delete(_MARK)
        except ResponseError:  # fewer numbers than we thought, or no right to this one
            pass
        return False


def postgres_server(
    folder: Path, *, fast: bool, connections_max: int
) -> PostgresServer | GivenPostgres:
    """The server that DATABASE_URL names, else one of our own in `folder`."""
    if url := os.environ.get("DATABASE_URL"):
        return GivenPostgres(url)
    return PostgresServer(folder, fast=fast, connections_max=connections_max)


def redis_server(folder: Path) -> RedisServer | GivenRedis:
    """The server that REDIS_URL names, else one of our own in `folder`."""
    if url := os.environ.get("REDIS_URL"):
        return GivenRedis(url)
    return RedisServer(folder)


def _number_of(url: str) -> int:
    path = urlsplit(url).path.strip("/")
    return int(path) if path.isdigit() else 0


def _with_number(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))
