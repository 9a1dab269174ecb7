"""Faults of Redis: each kind is reported by its name until the fault is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from domain.adapters.redis.faults import FaultKind
from domain.errors import QueueUnavailable
from tests.integration.raw_server import RawServer
from tests.integration.redis_as_sold import (
    KEYS_AND_CHANNELS,
    PASSWORD,
    limited_user,
    shards,
    tls_before,
    url_of_user,
    watched_by_sentinels,
)
from tests.integration.redis_uses import USES, client_of
from tests.stack.servers import RedisServer


def _with(url: str, **parts: str) -> str:
    return urlunsplit(urlsplit(url)._replace(**parts))


async def _no_mending(_admin: Redis) -> None:
    """Change nothing, because a running server cannot mend this fault."""


def _command(*arguments: str) -> Callable[[Redis], Awaitable[Any]]:
    return lambda admin: admin.execute_command(*arguments)  # type: ignore[no-untyped-call]


# For each refusal: the server's settings, whether the limited user connects, the commands that
# cause and repair it, the use that it blocks, and the kind of fault.
REFUSED: dict[str, tuple[list[str], bool, Any, Any, str, FaultKind]] = {
    "wrong password": (
        [limited_user("on >other ~* &* +@all").replace(">L1mited-Passw0rd", "")], True, None,
        _command("ACL", "SETUSER", "limited", ">L1mited-Passw0rd"), "rate", FaultKind.CREDENTIALS,
    ),
    "no right to scripts": (
        [limited_user(f"{KEYS_AND_CHANNELS} +@all -@dangerous -@scripting")], True, None,
        _command("ACL", "SETUSER", "limited", "+@scripting"), "rate",
        FaultKind.PERMISSION,
    ),
    "no right to a channel": (
        [limited_user("~* resetchannels +@all")], True, None,
        _command("ACL", "SETUSER", "limited", "&payment-events*"), "bell", FaultKind.PERMISSION,
    ),
    "no right to our keys": (
        [limited_user("resetkeys ~theirs:* &* +@all")], True, None,
        _command("ACL", "SETUSER", "limited", "~*"), "write copy", FaultKind.PERMISSION,
    ),
    "no right to the keys of jobs": (
        [limited_user("resetkeys ~mkwanja:* &* +@all")], True, None,
        _command("ACL", "SETUSER", "limited", "~arq:*"), "jobs", FaultKind.PERMISSION,
    ),
    "a replica": (
        [], False, _command("REPLICAOF", "127.0.0.1", "9"),
        _command("REPLICAOF", "NO", "ONE"), "wake",
        FaultKind.READ_ONLY,
    ),
    "a full Redis": (
        ["maxmemory-policy noeviction"], False, _command("CONFIG", "SET", "maxmemory", "1"),
        _command("CONFIG", "SET", "maxmemory", "0"), "write copy", FaultKind.FULL,
    ),
    "too few replicas": (
        [], False, _command("CONFIG", "SET", "min-replicas-to-write", "3"),
        _command("CONFIG", "SET", "min-replicas-to-write", "0"), "wake", FaultKind.CANNOT_SAVE,
    ),
    "a renamed command": (
        ['rename-command EVALSHA ""'], False, None, _no_mending, "rate", FaultKind.COMMAND,
    ),
}  # fmt: skip


class TestRefused:
    """A refusal is not an outage. Its kind is logged once, and so is its end."""

    @pytest.mark.parametrize("case", list(REFUSED))
    async def test_a_fault_is_logged_once_and_reported_until_it_is_repaired(
        self, case: str
    ) -> None:
        settings, is_limited, spoil, mend, use, kind = REFUSED[case]
        async with RedisServer(settings=settings) as server, Redis.from_url(server.url) as admin:
            if spoil is not None:
                await spoil(admin)
            async with client_of(url_of_user(server.url) if is_limited else server.url) as client:
                with capture_logs() as logs:
                    for _ in range(20):
                        with pytest.raises(Exception) as caught:  # noqa: PT011 - arq's loop raises redis-py's errors
                            await USES[use](client)
                        if use == "jobs":
                            client.faults.record_failure("jobs", caught.value)
                        else:
                            assert isinstance(caught.value, QueueUnavailable)
                lines = [line for line in logs if line["event"].startswith("redis")]
                events = [(line["event"], line["kind"]) for line in lines]
                assert events == [("redis_refuses", kind)]
                assert client.faults.kinds == [kind]
                assert client.faults.report.startswith(f"refuses: {kind}: ")
                for secret in (
                    server.url,
                    urlsplit(server.url).password or "-",
                    "L1mited-Passw0rd",
                ):
                    assert secret not in json.dumps(logs, default=str) + client.faults.report
                await mend(admin)
                if mend is _no_mending:
                    return
                await client.connection_pool.disconnect()
                await USES[use](client)
                if use == "jobs":
                    client.faults.record_success("jobs", is_write=True)
                assert client.faults.report == "ok"

    async def test_a_connection_leaves_a_primary_that_became_a_replica(self) -> None:
        """The old primary keeps its connections open and refuses every write.

        The name in the URL now leads to another server.
        """
        async with (
            RedisServer(password=PASSWORD) as old,
            RedisServer(password=PASSWORD) as new,
            Forwarder(old) as name,
            client_of(f"redis://default:{PASSWORD}@127.0.0.1:{name.port}/0") as client,
        ):
            await USES["wake"](client)
            name.target = new
            async with Redis.from_url(old.url) as admin:
                await admin.replicaof("127.0.0.1", "9")
            with pytest.raises(QueueUnavailable):
                await USES["wake"](client)
            await USES["wake"](client)
            assert client.faults.report == "ok"

    async def test_several_shards_are_a_fault(self) -> None:
        """A shard without our keys names the shard that has them.

        At start each process rejects such a cluster.
        """
        async with shards(2) as servers:
            found = []
            for server in servers:
                async with client_of(server.url) as client:
                    with suppress(QueueUnavailable):
                        await USES["wake"](client)
                    found.append(client.faults.kinds)
                    assert await client.count_shards() == 2
        assert sorted(found) == [[], [FaultKind.CLUSTER]]

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            (lambda url: _with(url, path="/99"), FaultKind.DATABASE_NUMBER),
            (lambda url: url.replace("default:", "default:x"), FaultKind.CREDENTIALS),
            (
                lambda url: _with(url, netloc=urlsplit(url).netloc.rpartition("@")[2]),
                FaultKind.CREDENTIALS,
            ),
            (lambda url: _with(url, scheme="rediss"), FaultKind.PROTOCOL),
        ],
    )
    async def test_a_wrong_url_is_reported_as_its_kind_of_fault(
        self, change: Callable[[str], str], kind: FaultKind
    ) -> None:
        async with RedisServer() as server:
            await _expect_fault(change(server.url), kind)

    async def test_a_database_number_in_cluster_mode_is_a_fault(self) -> None:
        async with shards(1) as (server,):
            await _expect_fault(_with(server.url, path="/3"), FaultKind.DATABASE_NUMBER)

    async def test_a_certificate_that_cannot_be_verified_is_named(self, tmp_path: Path) -> None:
        """The signer is unknown, or the certificate is for another host."""
        async with RedisServer() as server:
            async with tls_before(server, tmp_path) as tls:
                await _expect_fault(tls.url, FaultKind.CERTIFICATE)
            async with tls_before(server, tmp_path, host="another.example") as tls:
                await _expect_fault(tls.url, FaultKind.CERTIFICATE, ca_file=tls.certificate)

    async def test_a_server_that_expects_tls_is_reported_as_a_wrong_protocol(
        self, tmp_path: Path
    ) -> None:
        """The fault is reported after a few closed connections. One of them proves nothing."""
        async with RedisServer() as server, tls_before(server, tmp_path) as tls:
            await _expect_fault(_with(tls.url, scheme="redis"), FaultKind.PROTOCOL, after_uses=5)

    async def test_a_web_server_is_reported_as_a_wrong_protocol(self) -> None:
        async with WebServer() as server:
            await _expect_fault(f"redis://127.0.0.1:{server.port}/0", FaultKind.PROTOCOL)

    async def test_sentinels_without_our_primary_are_a_fault(self) -> None:
        async with watched_by_sentinels(count=1) as watched:
            other_name = watched.url.replace("/payments/", "/others/")
            await _expect_fault(other_name, FaultKind.SENTINEL)
            without_password = watched.url.partition("?")[0]
            await _expect_fault(without_password, FaultKind.CREDENTIALS)


class Forwarder(RawServer):
    """Forwards new connections to `target`."""

    def __init__(self, target: RedisServer) -> None:
        super().__init__()
        self.target = target

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.target.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while chunk := await source.read(65536):
                sink.write(chunk)
            sink.close()

        await asyncio.gather(pump(reader, there), pump(there_reader, writer))


class WebServer(RawServer):
    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def _expect_fault(
    url: str, kind: FaultKind, *, after_uses: int = 1, ca_file: Path | None = None
) -> None:
    async with client_of(url, ca_file=ca_file) as client:
        for _ in range(after_uses):
            with pytest.raises(QueueUnavailable):
                await USES["wake"](client)
        assert client.faults.kinds == [kind]
