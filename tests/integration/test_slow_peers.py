"""The server closes the connections of slow peers, and serves the others.

The server is the real one, with shorter time limits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.edge import connections, requests, serving
from gateway.edge.connections import Connections
from gateway.edge.plain_http import reject_ambiguous_http
from gateway.edge.problems import answer_with_problems
from gateway.edge.requests import read_bytes
from gateway.edge.serving import listen
from tests.integration.conftest import PATIENCE_SECONDS, until
from tests.stack.ports import release_port, reserve_port

_HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
_GOOD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_LARGE_REQUEST = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
_WAIT_REQUEST = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
_WORK_REQUEST = b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_LARGE = 32 * 1024 * 1024  # more than the buffers of the sockets hold
_AT_MOST = 60
_WAITING_MAX = 100


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs until the test ends. It answers GET /work after `working` is set."""

    port: int
    connections: Connections
    working: asyncio.Event
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def opened(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def status(self, data: bytes = _GOOD) -> bytes:
        """Return the answer's status, or nothing if the connection ends without an answer."""
        reader, _ = await self.opened(data)
        return (await _rest(reader))[9:12]


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes the connection. If it never does, the test fails here."""
    answer = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while data := await reader.read(65536):
                answer += data
    except ConnectionError:
        pass
    return bytes(answer)


def _app(working: asyncio.Event) -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await read_bytes(request, 1024))

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * _LARGE)

    async def long_work(_request: web.Request) -> web.Response:
        await working.wait()
        return web.Response()

    async def only_wait(request: web.Request) -> web.Response:
        connection = request.protocol
        assert isinstance(connection, connections.Connection)
        with connection.only_waiting():
            await working.wait()
        return web.Response()

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[answer_with_problems, reject_ambiguous_http])
    app.router.add_post("/echo", echo)
    app.router.add_get("/large", large)
    app.router.add_get("/work", long_work)
    app.router.add_get("/wait", only_wait)
    app.router.add_get("/healthz", healthz)
    return app


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """The server of both listening processes, with limits of fractions of a second."""
    for name in ("HEAD_SECONDS", "BODY_CUT_SECONDS", "ANSWER_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(connections, name, 0.5)
    monkeypatch.setattr(connections, "_CHECK_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    working = asyncio.Event()
    port, open_ones = reserve_port(), Connections(_AT_MOST, _WAITING_MAX)
    async with listen(_app(working), port, open_ones):
        server = Server(port, open_ones, working)
        yield server
        working.set()
        for writer in server.writers:
            writer.transport.abort()
    release_port(port)


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"GET /heal", b"", id="half a request line"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"", id="a head without an end"),
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nX: ", b"x", id="byte by byte"),
    ],
)
async def test_a_peer_that_does_not_finish_a_head_is_cut_off(
    server: Server, sent: bytes, drip: bytes
) -> None:
    """The time limit is for the whole head. Received parts do not extend it."""
    reader, writer = await server.opened(sent)

    async def go_on() -> None:
        while True:
            writer.write(drip)
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(go_on())
    assert await _rest(reader) == b""
    dripping.cancel()


@pytest.mark.parametrize("more", [b"", b"GET /heal"], ids=["nothing", "half a head"])
async def test_an_idle_connection_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """The limit for idle connections is longer than the limit for a head."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.7)
    reader, _ = await server.opened(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + more)
    assert (await _rest(reader)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n9\r\n{"],
    ids=["length", "chunks"],
)
async def test_an_unfinished_body_is_answered_408(server: Server, framing: bytes) -> None:
    """The problem is retryable, and the server closes the connection."""
    reader, _ = await server.opened(_HEAD + framing)
    answer = await _rest(reader)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert b'"code":"request_timeout"' in answer
    assert b'"retryable":true' in answer


async def test_a_malformed_later_chunk_is_answered_400_at_once(server: Server) -> None:
    """The server sends one answer, and does not wait for the rest of the body."""
    reader, writer = await server.opened(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await until(lambda: _are(server, 1))
    await asyncio.sleep(0.1)  # so that the two parts arrive separately
    writer.write(b"zz\r\n")
    answer = await _rest(reader)
    assert answer[9:12] == b"400"
    assert answer.count(b"HTTP/1.") == 1


async def test_a_peer_that_leaves_during_its_body_leaves_no_error(
    server: Server, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The server closes its connection too."""
    _, writer = await server.opened(_HEAD + b"Content-Length: 9\r\n\r\n{")
    await until(lambda: _are(server, 1))
    await asyncio.sleep(0)
    writer.transport.abort()
    await until(lambda: _are(server, 0))
    assert "request_failed" not in capsys.readouterr().out
    assert caplog.records == []


async def test_a_peer_that_does_not_read_its_answer_is_cut_off(server: Server) -> None:
    """The server closes the connection at the end of the time limit for an answer."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, _LARGE_REQUEST)
    await until(lambda: _are(server, 1))
    await until(lambda: _are(server, 0))
    raw.close()


async def test_a_connection_whose_request_is_being_served_is_not_closed(server: Server) -> None:
    """The request may take long, and its peers may open many connections meanwhile.

    A good request displaces the oldest silent connection.
    """
    reader, _ = await server.opened(_WORK_REQUEST)
    await until(lambda: _are(server, 1))
    silent = [await server.opened(b"GET /heal") for _ in range(2 * _AT_MOST)]
    assert await server.status() == b"200"
    assert len(server.connections) <= _AT_MOST
    for other, _ in silent:
        await _rest(other)  # until the server has closed it
    server.working.set()
    assert (await _rest(reader))[9:12] == b"200"


async def test_connections_whose_requests_only_wait_leave_room_for_others(server: Server) -> None:
    """They are not closed, however long they wait. Too many of them are refused."""
    waiting = [await server.opened(_WAIT_REQUEST) for _ in range(_WAITING_MAX)]
    await until(lambda: _are_waiting(server, _WAITING_MAX))
    silent = [await server.opened(b"GET /heal") for _ in range(2 * _AT_MOST)]
    assert await server.status() == b"200"
    reader, _ = await server.opened(_WAIT_REQUEST)
    assert (await reader.readuntil(b"\r\n\r\n"))[9:12] == b"503"
    for other, _ in silent:
        await _rest(other)  # until the server has closed it
    server.working.set()
    # More connections are open now than may be, so answers end them.
    heads = [await reader.readuntil(b"\r\n\r\n") for reader, _ in waiting]
    assert {head[9:12] for head in heads} == {b"200"}
    await until(lambda: _are_at_most(server, _AT_MOST))
    assert await server.status() == b"200"


async def test_a_client_that_leaves_while_it_waits_is_counted_no_more(server: Server) -> None:
    for _ in range(2):
        waiting = [await server.opened(_WAIT_REQUEST) for _ in range(_WAITING_MAX)]
        await until(lambda: _are_waiting(server, _WAITING_MAX))
        for _, writer in waiting:
            writer.transport.abort()
        await until(lambda: _are_waiting(server, 0))
    assert len(server.connections) == 0


async def _are_waiting(server: Server, count: int) -> bool:
    return len(server.connections._waiting_requests) == count


async def _are_at_most(server: Server, count: int) -> bool:
    return len(server.connections) <= count


async def test_if_every_connection_has_a_request_a_new_one_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel holds new connections. Each is served as soon as another one has ended."""
    with monkeypatch.context() as patience:  # the machine may be slow
        patience.setattr(connections, "HEAD_SECONDS", 10 * PATIENCE_SECONDS)
        at_work = [await server.opened(_WORK_REQUEST) for _ in range(_AT_MOST)]
        await until(lambda: _all_at_work(server))
    waiting = [asyncio.create_task(server.status()) for _ in range(2 * _AT_MOST)]
    await asyncio.sleep(0.7)  # longer than the server waits for a head
    assert not [one for one in waiting if one.done()]
    assert len(server.connections) == _AT_MOST
    server.working.set()
    assert {await one for one in waiting} == {b"200"}
    for reader, _ in at_work:
        assert (await _rest(reader))[9:12] == b"200"


async def test_while_others_wait_each_answer_ends_its_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that would keep its connection for the next request makes room for others."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 10 * PATIENCE_SECONDS)
    keeping = [await server.opened() for _ in range(_AT_MOST)]
    await until(lambda: _are(server, _AT_MOST))
    waiting = asyncio.create_task(server.status())
    await asyncio.sleep(0.1)
    for _, writer in keeping:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await waiting == b"200"
    answers = [await _rest(reader) for reader, _ in keeping[:1]]
    assert b"Connection: close" in answers[0]


async def test_a_connection_that_is_not_slow_is_not_closed_for_a_new_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has just connected may send its request, although others wait for room."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 10 * PATIENCE_SECONDS)
    fresh = [await server.opened() for _ in range(_AT_MOST)]
    await until(lambda: _are(server, _AT_MOST))
    waiting = asyncio.create_task(server.status())
    await asyncio.sleep(0.1)
    for _, writer in fresh:
        writer.write(_GOOD)
    assert {(await _rest(reader))[9:12] for reader, _ in fresh} == {b"200"}
    assert await waiting == b"200"


async def test_chunk_extensions_count_towards_the_size_limit(server: Server) -> None:
    """A request may have one mebibyte on the wire, with its extensions and trailers."""
    _, writer = await server.opened(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")

    async def send() -> None:
        for _ in range(64 * 16):
            writer.write(b"a" * 65536)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /heal", id="half a head"),
        pytest.param(_HEAD + b"Content-Length: 9\r\n\r\n{", id="half a body"),
        pytest.param(_LARGE_REQUEST, id="a request whose answer is not read"),
    ],
)
async def test_slow_peers_do_not_delay_the_end_of_the_server(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A server that ends waits only for requests that it is serving, not for slow peers."""
    monkeypatch.setattr(serving, "_DRAIN_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(connections, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(connections, "_CHECK_INTERVAL_SECONDS", 0.05)
    port, open_ones = reserve_port(), Connections()
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        async with listen(_app(asyncio.Event()), port, open_ones):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            while not len(open_ones):  # noqa: ASYNC110 - a set has no event
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # until the server has received the bytes
    writer.transport.abort()
    release_port(port)


async def _all_at_work(server: Server) -> bool:
    """Whether the server works on a request of each connection that may be open."""
    at_work = [one for one in server.connections._open if one.awaited() is None]
    return len(at_work) == _AT_MOST


async def _are(server: Server, count: int) -> bool:
    return len(server.connections) == count
