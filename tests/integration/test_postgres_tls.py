"""A connection uses TLS as its URL requires. The server has a self-signed certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.statements import sql
from domain.errors import StoreUnavailable
from tests.certificates import certificate_pem, key_pem
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Front:
    """Adds TLS to the PostgreSQL of the tests, which is built without TLS.

    Counts the encrypted and the plain connections.
    """

    def __init__(self, folder: Path, upstream: int) -> None:
        self.root, self.key = folder / "server.pem", folder / "server.front.key"
        self.encrypted = self.plain = 0
        self._upstream = upstream
        self._write_certificate()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.root, self.key)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the request for TLS, then forward all bytes."""
        pipes: list[asyncio.StreamWriter] = [writer]
        with suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(8)
            if first == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._tls)
                self.encrypted += 1
                first = b""
            else:
                self.plain += 1
            back, forth = await asyncio.open_connection("127.0.0.1", self._upstream)
            pipes.append(forth)
            forth.write(first)
            await asyncio.wait(
                [
                    asyncio.create_task(_pipe(reader, forth)),
                    asyncio.create_task(_pipe(back, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        for pipe in pipes:
            pipe.close()

    def _write_certificate(self) -> None:
        """Write a self-signed certificate for 127.0.0.1."""
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.root.write_bytes(certificate_pem(private_key, hosts=["127.0.0.1"], is_ca=True))
        self.key.write_bytes(key_pem(private_key))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()


@dataclass(frozen=True)
class Server:
    """The front, and the URL of a database behind it."""

    front: Front
    url: str
    port: int


@pytest.fixture
async def server(postgres: PostgresServer | GivenPostgres, tmp_path: Path) -> AsyncIterator[Server]:
    """A PostgreSQL with TLS."""
    if not isinstance(postgres, PostgresServer):
        pytest.skip("DATABASE_URL names a server that is not ours")
    front = Front(tmp_path, postgres.port)
    listener = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    yield Server(front, postgres.url.replace(f":{postgres.port}/", f":{port}/"), port)
    listener.close()


async def is_encrypted(server: Server, url: str) -> bool:
    before = server.front.encrypted, server.front.plain
    database = Database(url, pool_size=1, application_name="mkwanja-tls")
    try:
        async with database.transaction() as transaction:
            assert (await transaction.rows(sql("SELECT 42")))[0][0] == 42
    finally:
        await database.close()
    return (server.front.encrypted, server.front.plain) == (before[0] + 1, before[1])


@pytest.mark.parametrize(
    ("query", "encrypted"),
    [
        ("", True), ("sslmode=disable", False), ("sslmode=allow", False), ("sslmode=prefer", True),
        ("sslmode=require&channel_binding=require&supa=x&pgbouncer=true", True),
        ("sslrootcert={root}", True), ("sslmode=verify-full&sslrootcert={root}", True),
        ("sslmode=require&sslcert={root}&sslkey={key}", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "hosts", ["127.0.0.1:{port}", "127.0.0.1:{port},127.0.0.1:{port}"], ids=["one", "two"]
)
@pytest.mark.sampled(8)
async def test_a_connection_is_as_safe_as_its_url_says(
    server: Server, hosts: str, query: str, encrypted: bool
) -> None:
    named = query.format(root=server.front.root, key=server.front.key)
    url = server.url.replace(f"127.0.0.1:{server.port}", hosts.format(port=server.port))
    assert await is_encrypted(server, f"{url}?{named}") is encrypted


@pytest.mark.parametrize(
    "query", ["sslmode=verify-full&sslrootcert=system", "sslmode=verify-ca", "sslaccept=strict"]
)
async def test_a_server_whose_certificate_cannot_be_verified_is_not_used(
    server: Server, query: str
) -> None:
    for url in (
        server.url,
        server.url.replace(f":{server.port}/", f":{server.port},127.0.0.1:{server.port}/"),
    ):
        with pytest.raises(StoreUnavailable):
            await is_encrypted(server, f"{url}?{query}")


async def test_a_host_that_the_certificate_does_not_name_is_refused(server: Server) -> None:
    url = server.url.replace("127.0.0.1", "localhost")
    assert await is_encrypted(server, f"{url}?sslmode=verify-ca&sslrootcert={server.front.root}")
    with pytest.raises(StoreUnavailable):
        await is_encrypted(server, f"{url}?sslmode=verify-full&sslrootcert={server.front.root}")


async def test_if_the_url_requires_tls_a_server_without_tls_is_not_used(
    postgres: PostgresServer, server: Server
) -> None:
    for query in ("sslmode=require", "ssl=true", "sslmode=require&sslnegotiation=direct"):
        with pytest.raises(StoreUnavailable):
            await is_encrypted(server, f"{postgres.url}?{query}")
    assert not await is_encrypted(server, f"{postgres.url}?sslmode=prefer")
