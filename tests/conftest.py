"""Fixtures of all tests. No test reaches another machine.

Servers and stacks start when a test first requests them.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from tests import sampling
from tests.stack.cleanup import TemporaryFolder
from tests.stack.databases import alembic
from tests.stack.databases_to_borrow import DatabasesToBorrow
from tests.stack.external import GivenPostgres, GivenRedis, postgres_server, redis_server
from tests.stack.install import temporary_folder
from tests.stack.lending import Lending
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.starter import Starter

# The time of an example depends on the load of the machine, and not on the code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("sample", settings.get_profile("any-machine"), max_examples=20)


# The collection makes no garbage, and takes a sixth less time if Python does not look for any.
# `pytest_collection_finish` exempts what it made from every later search.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    sampling.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    sampling.add_marks(config)
    settings.load_profile("sample" if sampling.is_sample(config) else "any-machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = sampling.files_of(items)
    sampling.select(config, items)
    sampling.remember(config, files, items)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.stash[sampling.ENDS_FILE] = nextitem is None or nextitem.path != item.path


def _is_ours(host: str) -> bool:
    """Whether tests may reach `host`: this machine, or a host in DATABASE_URL or REDIS_URL."""
    given = [urlsplit(os.environ.get(name, "")).hostname for name in ("DATABASE_URL", "REDIS_URL")]
    if host in {"localhost", "", *given}:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    found = [entry for name in given if name for entry in socket.getaddrinfo(name, None)]
    return address.is_loopback or address.is_unspecified or host in {one[4][0] for one in found}


@pytest.fixture(autouse=True, scope="session")
def _only_local_connections() -> Iterator[None]:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_ours(str(address[0])):
            raise ConnectionRefusedError(
                f"a test tried to reach {address[0]}; tests stay on this machine"
            )
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """The folder of the servers' data and logs."""
    own: TemporaryFolder = temporary_folder()
    yield own.path
    own.remove()


@pytest.fixture(scope="session")
async def postgres(folder: Path) -> AsyncIterator[PostgresServer | GivenPostgres]:
    """The PostgreSQL of this test process."""
    async with postgres_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
async def redis_of_run(folder: Path) -> AsyncIterator[RedisServer | GivenRedis]:
    """The Redis of this test process."""
    async with redis_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
async def template(postgres: PostgresServer | GivenPostgres, starter: Starter) -> str:
    """A database as `alembic upgrade head` leaves it, for copies; no process connects to it."""
    url = await postgres.create_database()
    status, output = await alembic("upgrade", "head", url=url)
    assert status == 0, output
    return url


@pytest.fixture(scope="session")
def databases_to_borrow(
    postgres: PostgresServer | GivenPostgres, template: str
) -> DatabasesToBorrow:
    """The databases of this test process, for tests without a running stack."""
    return DatabasesToBorrow(postgres, template)


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """Starts the commands of the Procfile quickly."""
    with Starter() as starter:
        yield starter


@pytest.fixture(scope="session")
async def lending(
    postgres: PostgresServer | GivenPostgres,
    template: str,
    starter: Starter,
) -> AsyncIterator[Lending]:
    """The running stacks of this test process."""
    async with Lending(postgres, template, starter) as lending:
        yield lending
