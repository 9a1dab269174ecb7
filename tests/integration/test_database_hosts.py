"""If a DATABASE_URL names several hosts, the driver finds the host that accepts writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable
from tests.stack.external import GivenPostgres
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import PostgresServer
from tests.stack.standby import StandbyServer


class SaysNothing(asyncio.Protocol):
    """Answers nothing, as a host whose packets are dropped."""

    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).asked += 1
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport.close()


class HangsUp(SaysNothing):
    """Closes each connection, as a proxy whose server is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class IsFull(SaysNothing):
    """Refuses each connection, as a standby whose connections are all in use."""

    def data_received(self, data: bytes) -> None:
        fields = b"SFATAL\0C53300\0Msorry, too many clients already\0\0"
        answer = b"N" if len(data) == 8 else b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(answer)


Serve = type[SaysNothing]


@pytest.fixture(scope="module")
async def url(postgres: PostgresServer | GivenPostgres) -> str:
    """An empty database on a server at a known port."""
    if not postgres.can_be_stopped:
        pytest.skip("DATABASE_URL names a server that is not ours")
    return await postgres.create_database()


@asynccontextmanager
async def a_port(serve: Serve | None) -> AsyncIterator[int]:
    """A port where `serve` listens. Without `serve`, nothing listens there."""
    if serve is None:
        port = reserve_port()
        try:
            yield port
        finally:
            release_port(port)
        return
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def port_of(database: Database) -> int:
    async with database.transaction() as transaction:
        return int((await transaction.rows(sql("SELECT inet_server_port()")))[0][0])


def with_hosts(url: str, *ports: int, more: str = "") -> str:
    own = urlsplit(url).port
    hosts = ",".join(f"127.0.0.1:{port or own}" for port in ports)
    return url.replace(f"127.0.0.1:{own}", hosts, 1) + more


@asynccontextmanager
async def a_database(url: str, *, pool_size: int = 3) -> AsyncIterator[Database]:
    database = Database(url, pool_size=pool_size, application_name="mkwanja-hosts")
    try:
        yield database
    finally:
        await database.close()


@pytest.mark.parametrize("serve", [None, SaysNothing, HangsUp, IsFull])
@pytest.mark.parametrize("is_first", [True, False])
async def test_an_unusable_host_does_not_hide_a_usable_host(
    url: str, serve: Serve | None, is_first: bool
) -> None:
    """A silent host does not use up the time that a connection may take."""
    async with a_port(serve) as port:
        ports = (port, 0, port) if is_first else (0, port)
        async with a_database(with_hosts(url, *ports)) as database:
            for _ in range(3):
                assert await port_of(database) == urlsplit(url).port


async def test_the_host_that_was_found_last_is_tried_first(url: str) -> None:
    """Only the first new connection tries a silent first host."""

    class Counts(SaysNothing):
        asked = 0

    async with (
        a_port(Counts) as port,
        a_database(with_hosts(url, port, 0), pool_size=8) as database,
    ):
        await port_of(database)
        # Few at once: on a slow machine, many need so long that the silent host is tried too.
        for number in (2, 3, 4):
            await asyncio.gather(*(port_of(database) for _ in range(number)))
    assert Counts.asked == 1


@pytest.mark.parametrize("serve", [None, SaysNothing, HangsUp])
async def test_without_a_usable_host_the_store_is_unavailable(
    url: str, serve: Serve | None
) -> None:
    async with a_port(serve) as port, a_database(with_hosts(url, port, port)) as database:
        with pytest.raises(StoreUnavailable):
            await port_of(database)


async def assert_served_by(database: Database, server: PostgresServer, times: int = 5) -> None:
    ports = await asyncio.gather(*(port_of(database) for _ in range(times)))
    assert ports == [server.port] * times


async def test_the_pool_skips_a_standby_until_the_standby_is_promoted(url: str) -> None:
    """The URL needs no target_session_attrs. The pool drops its connections to a dead primary."""
    async with PostgresServer() as primary, StandbyServer(primary) as standby:
        both = primary.url.replace(
            f":{primary.port}/", f":{standby.port},127.0.0.1:{primary.port}/"
        )
        for attributes in ("read-write", "primary"):
            async with a_database(f"{both}?target_session_attrs={attributes}") as database:
                await assert_served_by(database, primary)
        async with a_database(both) as database:
            await assert_served_by(database, primary)
            await primary.kill()
            with pytest.raises(StoreUnavailable):
                await port_of(database)
            await standby.promote()
            await assert_served_by(database, standby, 9)


async def test_the_pool_leaves_a_silent_primary_with_all_its_connections() -> None:
    """The silent server does not close the connections.

    After one statement without an answer, the pool trusts none of them.
    """
    async with PostgresServer() as primary, StandbyServer(primary) as standby:
        both = primary.url.replace(
            f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/"
        )
        async with a_database(both, pool_size=5) as database:
            await assert_served_by(database, primary)
            await standby.promote()
            primary.freeze()
            try:
                with pytest.raises(StoreUnavailable):
                    await port_of(database)
                await assert_served_by(database, standby)
            finally:
                primary.thaw()
