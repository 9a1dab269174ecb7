"""An overloaded process answers the requests that have a place, and rejects the rest with 503.

The health routes always answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import read_settings
from domain.callback_address import make_address
from gateway import callbacks
from gateway.edge.connections import Connections
from gateway.edge.load import INGRESS_PLACES_MAX
from gateway.edge.serving import listen
from tests.integration.conftest import PATIENCE_SECONDS, Store, locked, until
from tests.stack.databases import connection
from tests.stack.lending import Lending
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import RedisServer
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_ORIGIN = "https://app.example.co.ke"
_SILENT = 2500
_AT_ONCE = INGRESS_PLACES_MAX + 100
_PROMISED_TO_WAIT = 1000  # rules.md §10
_FILES = 8000
_NUMBERS = itertools.count()
_TURNED_AWAY = b"Too many requests are waiting already"
_BATCHES_UNDER_WAY = 2 * 200  # writes that may have started before their clients left
_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_SECRET = "a-secret-of-the-receiver-of-this-test"


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        pytest.skip("this machine does not allow so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _FILES), hard))
    named: dict[str, str | None] = {"CORS_ALLOWED_ORIGINS": _ORIGIN}
    async with lending.stack(Shape(processes=("web",), process_env={"web": named})) as stack:
        yield stack
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Peers:
    """Clients that send raw bytes. The fixture closes their connections after the test."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def open(
        self, port: int, sent: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        writer.write(sent)
        return reader, writer

    async def open_all(self, port: int, requests: Sequence[bytes]) -> list[asyncio.StreamReader]:
        """Send each request on a connection of its own, as fast as possible.

        The streams are made afterwards, because they cost several times as much as the sockets.
        """
        sockets = []
        for request in requests:
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(request)
            one.setblocking(False)
            sockets.append(one)
        readers = []
        for one in sockets:
            reader, writer = await asyncio.open_connection(sock=one)
            self._writers.append(writer)
            readers.append(reader)
        return readers

    async def send(self, port: int, request: bytes) -> bytes:
        """Send the request, and return the whole answer."""
        reader, _ = await self.open(port, request)
        return await _rest(reader)

    async def is_healthy(self, port: int) -> bool:
        return (await self.send(port, _HEALTH))[9:12] == b"200"

    async def disconnect(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = Peers()
    yield peers
    await peers.disconnect()


def _deposit(
    stack: Stack, *more: str, token: str = "", key: str = "", number: int | None = None
) -> bytes:
    # A new phone each time, because a phone has limits.
    number = next(_NUMBERS) if number is None else number
    body = f'{{"amount":3,"phone_number":"0711{number:06}"}}'
    fields = [
        "POST /v1/deposits HTTP/1.1",
        "Host: pay.example",
        "Connection: close",
        f"Authorization: Bearer {token or stack.issuer.backend_token()}",
        "Content-Type: application/json",
        f"X-Idempotency-Key: {key or uuid4()}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return ("\r\n".join([*fields, "", ""]) + body).encode()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read(-1)
    except ConnectionError:
        return b""


def _port(stack: Stack) -> int:
    return urlsplit(stack.web_url).port or 0


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/deposits HTTP/1.1\r\nHo"], ids=["silent", "half a head"]
)
async def test_thousands_of_slow_connections_block_no_good_request(
    stack: Stack, peers: Peers, sent: bytes
) -> None:
    """Meanwhile, 2,500 connections send nothing, or send half a head."""
    for _ in range(_SILENT):
        await peers.open(_port(stack), sent)
    answers = [await peers.send(_port(stack), _deposit(stack)) for _ in range(20)]
    assert Counter(answer[9:12] for answer in answers) == {b"202": 20}


@asynccontextmanager
async def _frozen_postgres(stack: Stack, peers: Peers) -> AsyncIterator[None]:
    """Freeze PostgreSQL during the block. At the end of the block, the process is still healthy."""
    if not stack.postgres.can_be_stopped:
        pytest.skip("this PostgreSQL is not ours to freeze")
    assert await peers.is_healthy(_port(stack))
    stack.postgres.freeze()
    try:
        yield
        assert await peers.is_healthy(_port(stack))
    finally:
        stack.postgres.thaw()


async def _flood(
    stack: Stack, peers: Peers, requests: Sequence[bytes]
) -> list[asyncio.Task[bytes]]:
    """Send all requests at once, and return as soon as the process rejected one of them.

    PostgreSQL must be frozen.
    """
    # On a full machine, the first requests end before the last ones come, if these come slowly.
    readers = await peers.open_all(_port(stack), requests)
    answering = [asyncio.create_task(_rest(reader)) for reader in readers]
    for answer in asyncio.as_completed(answering, timeout=PATIENCE_SECONDS):
        if _TURNED_AWAY in await answer:
            return answering
    raise AssertionError("the process rejected no request")


async def test_a_request_beyond_the_bound_is_answered_503(stack: Stack, peers: Peers) -> None:
    """PostgreSQL is frozen, and 1,000 or more requests wait.

    The 503 has Retry-After, is sent at once, and web pages may read it too.
    """
    token = stack.issuer.backend_token()
    requests = [_deposit(stack, f"Origin: {_ORIGIN}", token=token) for _ in range(_AT_ONCE)]
    async with _frozen_postgres(stack, peers):
        answering = await _flood(stack, peers, requests)
    answers = await asyncio.gather(*answering)
    turned_away = [answer for answer in answers if _TURNED_AWAY in answer]
    assert 0 < len(turned_away) <= _AT_ONCE - _PROMISED_TO_WAIT
    for answer in turned_away:
        head, _, body = answer.partition(b"\r\n\r\n")
        problem = json.loads(body)
        assert (problem["status"], problem["code"]) == (503, "unavailable")
        assert problem["retryable"] is True
        assert b"Retry-After: " in head
        assert b"Access-Control-Allow-Origin: " + _ORIGIN.encode() in head
    # Every other request was accepted, or got a 503 because PostgreSQL was away. None was cut off.
    assert {answer[9:12] for answer in answers} <= {b"202", b"503"}

    async def accepts_again() -> bool:
        return (await peers.send(_port(stack), _deposit(stack)))[9:12] == b"202"

    assert await until(accepts_again)
    assert await _shed(stack, "overloaded") == len(turned_away)


async def test_a_request_whose_client_is_gone_keeps_no_place(stack: Stack, peers: Peers) -> None:
    """PostgreSQL is frozen, and all clients of a flood close their connections.

    The next thousand requests get places, and the abandoned requests create no payments.
    """
    token, later = stack.issuer.backend_token("leaving"), stack.issuer.backend_token("staying")
    leaving, before = Peers(), await _shed(stack, "abandoned")

    async def are_gone() -> bool:
        gone = await _shed(stack, "abandoned") - before
        return gone >= _PROMISED_TO_WAIT - _BATCHES_UNDER_WAY

    async with _frozen_postgres(stack, peers):
        requests = [_deposit(stack, token=token) for _ in range(_AT_ONCE)]
        answering = await _flood(stack, leaving, requests)
        await leaving.disconnect()
        await asyncio.gather(*answering)
        assert await until(are_gone)
        opened = [
            await peers.open(_port(stack), _deposit(stack, token=later))
            for _ in range(_PROMISED_TO_WAIT)
        ]
    answers = await asyncio.gather(*(_rest(reader) for reader, _ in opened))
    assert [answer for answer in answers if _TURNED_AWAY in answer] == []
    assert {answer[9:12] for answer in answers} <= {b"202", b"503"}
    async with connection(stack.database_url) as raw:
        counted = "SELECT count(*) FROM mkwanja.payments WHERE caller_key LIKE '%leaving'"
        assert await raw.fetchval(counted) <= _BATCHES_UNDER_WAY


@pytest.mark.sampled(1)
@pytest.mark.parametrize("flood", ["one key", "one key, other bodies", "many keys", "reads"])
async def test_a_caller_that_floods_leaves_room_for_the_others(
    stack: Stack, peers: Peers, flood: str
) -> None:
    other, token = stack.issuer.backend_token(f"after {flood}"), stack.issuer.backend_token(flood)
    head = "GET /v1/payments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    read = f"{head}Authorization: Bearer {token}\r\n\r\n".encode()
    make_request: dict[str, Callable[[], bytes]] = {
        "one key": lambda: _deposit(stack, token=token, key="one-key", number=1),
        "one key, other bodies": lambda: _deposit(stack, token=token, key="other-bodies"),
        "many keys": lambda: _deposit(stack, token=token),
        "reads": lambda: read,
    }
    requests = [make_request[flood]() for _ in range(_AT_ONCE)]
    async with _frozen_postgres(stack, peers):
        answering = await _flood(stack, peers, requests)
        opened = [await peers.open(_port(stack), _deposit(stack, token=other)) for _ in range(50)]
    answers = await asyncio.gather(*(_rest(reader) for reader, _ in opened))
    assert Counter(answer[9:12] for answer in answers) == {b"202": 50}
    # These were rejected at once. The rest may wait: the process checks one key's bodies in turn.
    turned_away = [one for one in answering if one.done() and _TURNED_AWAY in one.result()]
    assert 0 < len(turned_away) <= _AT_ONCE - _PROMISED_TO_WAIT
    for one in answering:
        one.cancel()


async def _shed(stack: Stack, reason: str) -> float:
    peers = Peers()
    metrics = await peers.send(_port(stack), _HEALTH.replace(b"/healthz", b"/metrics"))
    await peers.disconnect()
    found = re.search(rf'mkwanja_requests_shed_total{{reason="{reason}"}} (\S+)', metrics.decode())
    return float(found[1]) if found else 0.0


@pytest.fixture
async def receiver(
    database_url: str, redis_of_run: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """The port of a callback receiver that serves eight calls at once, two of them per address."""
    monkeypatch.setattr(callbacks, "CALLBACKS_PLACES_MAX", 8)
    monkeypatch.setattr(callbacks, "ADDRESS_PLACES_MAX", 2)
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_of_run.url,
        "CALLBACK_SECRETS": _SECRET,
        "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }.items():
        monkeypatch.setenv(name, value)
    port = reserve_port()
    async with listen(
        callbacks.callbacks_app(read_settings(CallbackSettings)), port, Connections()
    ):
        yield port
    release_port(port)


def _call(
    payment_id: UUID, operation: str = "deposit", *, token: str = "", length: int = 2
) -> bytes:
    """Return a callback. If `length` is larger than 2, its body is not whole."""
    path = make_address("", _SECRET, payment_id, operation)
    path = path if not token else path.rpartition("/")[0] + "/" + token
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}"
    return f"{head}\r\n\r\n{{}}".encode()


async def test_a_forged_call_displaces_no_genuine_one(
    receiver: int, store: Store, peers: Peers
) -> None:
    """The receiver rejects a wrong token at once, and a forged call takes no place.

    A genuine call beyond the bound gets 503. When Daraja sends it again, the receiver accepts it.
    """
    payment_id, _ = await store.claimed()
    waiting_for_us = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    async with locked(store, payment_id):
        # A call with half a body takes no place either, genuine or not.
        for _ in range(5):
            await peers.open(receiver, _call(payment_id, length=9))
            await peers.open(receiver, _call(payment_id, length=9, token="0" * 64))
        genuine = [asyncio.create_task(peers.send(receiver, _call(payment_id))) for _ in range(2)]
        await until(lambda: store.one(waiting_for_us))
        forged = [await peers.send(receiver, _call(payment_id, token="0" * 64)) for _ in range(20)]
        assert {answer[9:12] for answer in forged} == {b"403"}
        third = await peers.send(receiver, _call(payment_id))
        assert third[9:12] == b"503"
        assert b"Retry-After: " in third
        assert third.endswith(b"\r\n\r\n")  # without a body
        assert await peers.is_healthy(receiver)
    assert {(await call)[9:12] for call in genuine} == {b"200"}
    assert (await peers.send(receiver, _call(payment_id)))[9:12] == b"200"


async def test_a_flooded_address_leaves_room_for_the_others(
    receiver: int, store: Store, peers: Peers
) -> None:
    """The receiver answers 503 to the calls beyond an address's share.

    It accepts callbacks for other payments, and for other operations of the same payment.
    """
    leaked, _ = await store.claimed()
    others = [_call((await store.claimed())[0]) for _ in range(4)]
    opened = [await peers.open(receiver) for _ in range(300)]
    for _, writer in opened:
        writer.write(_call(leaked))
    flood = [asyncio.create_task(_rest(reader)) for reader, _ in opened]
    answers = [await peers.send(receiver, call) for call in (*others, _call(leaked, "status-1"))]
    assert Counter(answer[9:12] for answer in answers) == {b"200": 5}
    assert {(await one)[9:12] for one in flood} == {b"200", b"503"}


async def test_calls_to_many_addresses_are_still_bounded(
    receiver: int, store: Store, peers: Peers
) -> None:
    ids = [(await store.claimed())[0] for _ in range(5)]
    async with connection(store.url) as raw, raw.transaction():
        await raw.execute("SELECT FROM mkwanja.payments WHERE id = ANY($1) FOR UPDATE", ids)
        calls = [
            asyncio.create_task(peers.send(receiver, _call(one))) for one in ids for _ in range(2)
        ]
        done, _ = await asyncio.wait(
            calls, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        assert {one.result()[9:12] for one in done} == {b"503"}
    assert Counter([(await one)[9:12] for one in calls]) == {b"200": 8, b"503": 2}
