"""What is measured: the working tree, or an old commit that is unpacked to a temporary folder."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import statements
from tests.benchmarks.cases.common import Options
from tests.benchmarks.consumption import Consumption, read_consumption
from tests.paths import ROOT
from tests.stack import databases
from tests.stack.install import temporary_folder
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.stack import Stack

# The simulator accepts every rate. A case that wants a slower provider sets its own rate.
ENVIRONMENT = {"DARAJA_REQUESTS_PER_SECOND": "100000", "LOG_LEVEL": "INFO"}
TIME_SCALE = 0.001  # Daraja's delays of some seconds become some milliseconds


@dataclass(frozen=True, slots=True)
class Source:
    """A tree of our code. `name` is the heading of its column."""

    name: str
    root: Path


@contextmanager
def unpacked(commit: str) -> Iterator[Source]:
    """Unpacks a commit for the time of the block. It runs with our installed packages."""
    short = _git("rev-parse", "--short", f"{commit}^{{commit}}").decode().strip()
    archive = _git("archive", "--format=tar", short)
    folder = temporary_folder()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder.path, filter="data")
        yield Source(short, folder.path)
    finally:
        folder.remove()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


class DurablePostgres(PostgresServer):
    """A PostgreSQL that survives a power cut (fsync), as in production."""

    def __init__(
        self, *, has_statements: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(fast=False)
        self.has_statements = has_statements
        counted = statements.SETTINGS if has_statements else {}
        self._settings = {**self._settings, **counted, **(settings or {})}


class Site:
    """A started stack, and what its processes consume."""

    def __init__(self, stack: Stack, postgres: DurablePostgres) -> None:
        self.stack = stack
        self._postgres = postgres

    @property
    def pids(self) -> dict[str, int]:
        """The main process of each part, by the names in the figures."""
        stack = self.stack
        pids = {name.partition(".")[0]: stack.process(name).pid for name in stack.names}
        pids |= {"postgres": self._postgres.pid, "simulator": stack.process("simulator").pid}
        if isinstance(stack.redis, RedisServer):
            pids["redis"] = stack.redis.pid
        return pids

    async def begin(self) -> Consumption:
        """Begins to count. Returns what was used until now, for `used_since`."""
        if self._postgres.has_statements:
            await statements.forget(self.admin_url)
        return await read_consumption(self.pids, self.stack.database_url)

    async def used_since(self, earlier: Consumption) -> Consumption:
        """What was used after `begin`."""
        now = await read_consumption(self.pids, self.stack.database_url)
        return now.since(earlier)

    async def print_statements(self, title: str, number: int) -> None:
        """Prints what PostgreSQL spent on each statement since `begin`, if this was asked for."""
        if self._postgres.has_statements:
            table = await statements.format_costs(self.admin_url, number)
            sys.stderr.write(f"{title}, {number} of them:\n{table}\n")

    @property
    def admin_url(self) -> str:
        """The URL of the database for a superuser."""
        name = databases.database_name(self.stack.database_url)
        return databases.with_database(self._postgres.admin_url, name)


@asynccontextmanager
async def site(
    source: Source,
    options: Options,
    *processes: str,
    env: Mapping[str, str] | None = None,
    postgres: Mapping[str, str] | None = None,
) -> AsyncIterator[Site]:
    """Starts these processes of `source`, one of each kind, with servers of their own.

    `postgres` has settings of the PostgreSQL server.
    """
    settings: dict[str, Any] = {"processes": processes, "time_scale": TIME_SCALE}
    web = {"WEB_CONCURRENCY": str(options.web_processes)}
    settings["env"] = {**ENVIRONMENT, **web, **(env or {})}
    async with (
        DurablePostgres(has_statements=options.has_statements, settings=postgres) as server,
        Stack(postgres=server, root=source.root, **settings) as stack,
    ):
        yield Site(stack, server)
