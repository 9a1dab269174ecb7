"""Redis as hosts sell it: cluster mode, users with few rights, self-signed TLS, Sentinels."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis

from tests.certificates import certificate_pem, key_pem
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import RedisServer

PASSWORD = "L1mited-Passw0rd"
# The rights that a user needs, as in docs/deployment/redis.md.
KEYS_AND_CHANNELS = "resetkeys ~mkwanja:* ~arq:* resetchannels &payment-events &payment-events:*"
_REPLICATION = (f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0")
_SLOTS = 16384
_PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def shards(count: int, *, replicas: int = 0) -> AsyncIterator[Sequence[RedisServer]]:
    """Starts the servers of one cluster, and replicas of the first server."""
    async with AsyncExitStack() as stack:
        servers, bus_ports = [], [reserve_port() for _ in range(count + replicas)]
        for port in bus_ports:
            stack.callback(release_port, port)
            settings = [
                *("cluster-enabled yes", f"cluster-port {port}"),
                *("cluster-require-full-coverage no", *_REPLICATION),
            ]
            server = RedisServer(settings=settings, password=PASSWORD)
            servers.append(await stack.enter_async_context(server))
        clients = [
            await stack.enter_async_context(Redis.from_url(server.url)) for server in servers
        ]
        share = _SLOTS // count
        for number, client in enumerate(clients[:count]):
            last = _SLOTS - 1 if number == count - 1 else (number + 1) * share - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        for server, port in zip(servers[1:], bus_ports[1:], strict=True):
            await clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, port)

        async def all_know_each_other() -> bool:
            infos = [await client.execute_command("CLUSTER INFO") for client in clients]
            states = {(info["cluster_state"], info["cluster_size"]) for info in infos}
            return states == {("ok", str(count))}

        await _until(all_know_each_other)
        first_id = await clients[0].execute_command("CLUSTER", "MYID")
        for client in clients[count:]:
            await client.execute_command("CLUSTER", "REPLICATE", first_id)
            await _until(partial(_is_in_sync, client))
        yield servers


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await look():  # noqa: ASYNC110 - Redis sends no event
            await asyncio.sleep(0.05)


async def _is_in_sync(replica: Redis) -> bool:
    return bool((await replica.info("replication"))["master_link_status"] == "up")


def limited_user(rights: str) -> str:
    """Returns the line of redis.conf for the user of `url_of_user`, with these rights."""
    return f"user limited on >{PASSWORD} {rights}"


def url_of_user(server_url: str) -> str:
    parts = urlsplit(server_url)
    return urlunsplit(parts._replace(netloc=f"limited:{PASSWORD}@{parts.hostname}:{parts.port}"))


@dataclass(frozen=True, slots=True)
class Tls:
    """A server behind TLS, and the file with its certificate."""

    url: str
    certificate: Path


@asynccontextmanager
async def tls_before(
    server: RedisServer, folder: Path, *, host: str = "127.0.0.1"
) -> AsyncIterator[Tls]:
    """Puts TLS in front of `server`, with a self-signed certificate for `host`.

    It runs in a thread of its own. The event loop of a test stands still while the test starts a
    process, and our clients wait only a second for a connection.
    """
    certificate, key = self_signed(folder, host)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    ready: Future[Callable[[], object]] = Future()
    serving = asyncio.create_task(
        asyncio.to_thread(lambda: asyncio.run(_serve_tls(listener, context, server.port, ready)))
    )
    stop = await asyncio.wrap_future(ready)
    parts = urlsplit(server.url)
    netloc = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
    try:
        yield Tls(urlunsplit(parts._replace(scheme="rediss", netloc=netloc)), certificate)
    finally:
        stop()
        await serving


async def _serve_tls(
    listener: socket.socket,
    context: ssl.SSLContext,
    port_behind: int,
    ready: Future[Callable[[], object]],
) -> None:
    """Serves until a call of the function that it puts into `ready`."""
    streams: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port_behind)
        writers.extend((behind_writer, writer))
        for source, sink in ((reader, behind_writer), (behind_reader, writer)):
            streams.add(asyncio.create_task(pump(source, sink)))

    serving = await asyncio.start_server(serve, sock=listener, ssl=context)
    is_over = asyncio.Event()
    ready.set_result(partial(asyncio.get_running_loop().call_soon_threadsafe, is_over.set))
    await is_over.wait()
    serving.close()
    for stream in streams:
        stream.cancel()
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*streams, return_exceptions=True)


def self_signed(folder: Path, host: str) -> tuple[Path, Path]:
    """Writes a self-signed certificate and its key as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    certificate_file, key_file = folder / "redis.pem", folder / "redis.key"
    certificate_file.write_bytes(certificate_pem(key, hosts=[host]))
    key_file.write_bytes(key_pem(key))
    return certificate_file, key_file


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary, its replica, and the Sentinels that watch them."""

    primary: RedisServer
    replica: RedisServer
    sentinels: Sequence[RedisServer]
    url: str


@asynccontextmanager
async def watched_by_sentinels(count: int = 3) -> AsyncIterator[Watched]:
    """Starts a primary that Sentinels replace within about a second after its death."""
    async with AsyncExitStack() as stack:

        async def start(*settings: str, is_sentinel: bool = False) -> RedisServer:
            server = RedisServer(password=PASSWORD, settings=settings, is_sentinel=is_sentinel)
            return await stack.enter_async_context(server)

        primary = await start(*_REPLICATION)
        replica = await start(*_REPLICATION, f"replicaof 127.0.0.1 {primary.port}")
        async with Redis.from_url(replica.url) as client:
            await _until(partial(_is_in_sync, client))
        watch = [
            f"sentinel monitor payments 127.0.0.1 {primary.port} {count // 2 + 1}",
            f"sentinel auth-pass payments {PASSWORD}",
            "sentinel down-after-milliseconds payments 500",
            "sentinel failover-timeout payments 5000",
        ]
        sentinels = [await start(*watch, is_sentinel=True) for _ in range(count)]

        async def knows_all(client: Redis) -> bool:
            state = (await client.sentinel_masters()).get("payments", {})  # type: ignore[no-untyped-call]
            return (state.get("num-slaves"), state.get("num-other-sentinels")) == (1, count - 1)

        for sentinel in sentinels:
            async with Redis(port=sentinel.port, password=PASSWORD) as client:
                await _until(partial(knows_all, client))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        url = f"redis+sentinel://default:{PASSWORD}@{hosts}/payments/0?sentinel_password={PASSWORD}"
        yield Watched(primary, replica, sentinels, url)


@dataclass(frozen=True)
class Sold:
    """The settings of an operator for one kind of Redis."""

    url: str
    ca_file: Path | None = None
    verify: Literal["none"] | None = None


@asynccontextmanager
async def _one_shard(_folder: Path) -> AsyncIterator[Sold]:
    async with shards(1) as (server,):
        yield Sold(server.url)


@asynccontextmanager
async def _few_rights(_folder: Path) -> AsyncIterator[Sold]:
    user = limited_user(f"{KEYS_AND_CHANNELS} +@all -@admin -@dangerous")
    async with RedisServer(settings=[user]) as server:
        yield Sold(url_of_user(server.url))


@asynccontextmanager
async def _own_certificate(folder: Path) -> AsyncIterator[Sold]:
    async with RedisServer() as server, tls_before(server, folder) as tls:
        yield Sold(tls.url, ca_file=tls.certificate)


@asynccontextmanager
async def _unchecked_certificate(folder: Path) -> AsyncIterator[Sold]:
    async with RedisServer() as server, tls_before(server, folder, host="another.example") as tls:
        yield Sold(tls.url, verify="none")


@asynccontextmanager
async def _sentinels(_folder: Path) -> AsyncIterator[Sold]:
    async with watched_by_sentinels() as watched:
        yield Sold(watched.url)


KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Sold]]] = {
    "a cluster of one shard": _one_shard,
    "a user without @dangerous and @admin": _few_rights,
    "a self-signed certificate": _own_certificate,
    "a certificate that is not checked": _unchecked_certificate,
    "Sentinels": _sentinels,
}
