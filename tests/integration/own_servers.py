"""Servers and processes for the tests of the local stack, apart from those of the test run."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.stack.cleanup import TemporaryFolder
from tests.stack.databases import connection
from tests.stack.processes import Process
from tests.stack.servers import PostgresServer, RedisServer

LONG_SECONDS = 20.0  # enough for a busy machine; an idle machine needs no wait


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[PostgresServer]:
    """One PostgreSQL for the tests that can share it."""
    async with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
async def redis() -> AsyncIterator[RedisServer]:
    """One Redis for the tests that can share it."""
    async with RedisServer() as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for log files."""
    temporary = TemporaryFolder("mkwanja-test-")
    yield temporary.path
    temporary.remove()


def python(code: str, folder: Path, **env: str) -> Process:
    """Return a process that runs a few lines of Python, unbuffered."""
    command = [sys.executable, "-u", "-c", code]
    return Process("script", command, env=env, log=folder / "script.log", cwd=ROOT)


async def one(url: str, statement: str) -> Any:
    """Run a statement, and return the first value of its result."""
    async with connection(url) as connected:
        return await connected.fetchval(statement)
