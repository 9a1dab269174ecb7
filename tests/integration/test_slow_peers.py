"""Peers that are slow on purpose, against the very server with shorter times: they lose their
connection, others nothing.
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
_LARGE = 32 * 1024 * 1024  # more than sockets hold on the way
_AT_MOST = 60


@dataclass(frozen=True, slots=True)
class Server:
    """It runs until the test ends; `working` lets GET /work be answered."""

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
        """The status line's number that `data` is answered with; nothing if the connection ends
        without an answer.
        """
        reader, _ = await self.opened(data)
        return (await _rest(reader))[9:12]


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends the connection; a test that it never ends fails here."""
    said = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while data := await reader.read(65536):
                said += data
    except ConnectionError:
        pass
    return bytes(said)


def _app(working: asyncio.Event) -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await read_bytes(request, 1024))

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * _LARGE)

    async def long_work(_request: web.Request) -> web.Response:
        await working.wait()
        return web.Response()

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[answer_with_problems, reject_ambiguous_http])
    app.router.add_post("/echo", echo)
    app.router.add_get("/large", large)
    app.router.add_get("/work", long_work)
    app.router.add_get("/healthz", healthz)
    return app


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """What both processes listen with.

    A peer has a fraction of a second for what it has seconds for in life.
    """
    for name in ("HEAD_SECONDS", "BODY_CUT_SECONDS", "ANSWER_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(connections, name, 0.5)
    monkeypatch.setattr(connections, "_CHECK_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    working = asyncio.Event()
    port, open_ones = reserve_port(), Connections(_AT_MOST)
    async with listen(_app(working), port, open_ones):
        server = Server(port, open_ones, working)
        yield server
        working.set()
        for writer in server.writers:
            writer.transport.abort()
    release_port(port)


_SILENT: dict[str, bytes] = {
    "nothing": b"",
    "half a request line": b"GET /heal",
    "half a header": b"GET /healthz HTTP/1.1\r\nHo",
    "a head without an end": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
    "empty lines": b"\r\n\r\n\r\n",
}


@pytest.mark.parametrize("what", _SILENT)
async def test_who_does_not_finish_a_head_is_cut_off(server: Server, what: str) -> None:
    """A connection that waits for a head ends when the time for one is over, whatever came of
    it.
    """
    reader, _ = await server.opened(_SILENT[what])
    assert await _rest(reader) == b""


@pytest.mark.parametrize("more", [b"", b"GET /heal"], ids=["nothing", "half a head"])
async def test_who_asks_nothing_more_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """An idle connection is kept for a while, which is longer than a head may take, and not for
    ever.
    """
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.7)
    reader, _ = await server.opened(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + more)
    assert (await _rest(reader)).startswith(b"HTTP/1.1 200 ")


async def test_who_sends_a_head_byte_by_byte_is_cut_off(server: Server) -> None:
    """Each byte gains no time: the whole head has to come."""
    reader, writer = await server.opened(b"GET /healthz HTTP/1.1\r\nX: ")

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await _rest(reader) == b""
    dripping.cancel()


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n9\r\n{"],
    ids=["length", "chunks"],
)
async def test_a_body_that_does_not_come_is_answered_408(server: Server, framing: bytes) -> None:
    """The answer is a problem that allows to try again, and the connection's last."""
    reader, _ = await server.opened(_HEAD + framing)
    said = await _rest(reader)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in said
    assert b'"code":"request_timeout"' in said
    assert b'"retryable":true' in said


async def test_a_body_that_turns_out_malformed_is_answered_at_once(server: Server) -> None:
    """A later chunk that is none is 400, not a wait for what cannot come; and it is the one
    answer there is.
    """
    reader, writer = await server.opened(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await until(lambda: _are(server, 1))
    await asyncio.sleep(0.1)  # so that the two arrive apart
    writer.write(b"zz\r\n")
    said = await _rest(reader)
    assert said[9:12] == b"400"
    assert said.count(b"HTTP/1.") == 1


async def test_a_body_that_is_broken_off_is_no_fault_of_ours(
    server: Server, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever goes away in the middle leaves no error and no connection behind."""
    _, writer = await server.opened(_HEAD + b"Content-Length: 9\r\n\r\n{")
    await until(lambda: _are(server, 1))
    await asyncio.sleep(0)
    writer.transport.abort()
    await until(lambda: _are(server, 0))
    assert "request_failed" not in capsys.readouterr().out
    assert caplog.records == []


async def test_who_does_not_take_its_answer_is_cut_off(server: Server) -> None:
    """A peer that asks for much and reads nothing loses it; it holds no connection for longer
    than answers may take.
    """
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: _are(server, 1))
    await until(lambda: _are(server, 0))
    raw.close()


async def test_whoever_is_promised_an_answer_is_not_cut_off(server: Server) -> None:
    """While its request is with us a connection stays, however long that takes and however many
    press.
    """
    reader, _ = await server.opened(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await until(lambda: _are(server, 1))
    silent = [await server.opened() for _ in range(2 * _AT_MOST)]
    for other, _ in silent:
        await _rest(other)  # all are gone
    server.working.set()
    assert (await _rest(reader))[9:12] == b"200"


async def test_there_is_room_for_who_asks_while_many_wait(server: Server) -> None:
    """With as many silent connections as there may be, and more, the next good request is
    answered; the oldest make way.
    """
    for _ in range(3 * _AT_MOST):
        await server.opened(b"GET /heal")
    assert await server.status() == b"200"
    assert len(server.connections) <= _AT_MOST


async def test_where_all_are_at_work_one_more_is_turned_away(server: Server) -> None:
    """Only requests that are with us keep others out, and as soon as one is answered there is
    room again.
    """
    work = b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    at_work = [await server.opened(work) for _ in range(_AT_MOST)]
    await until(lambda: _are(server, _AT_MOST))
    await asyncio.sleep(0.05)  # until the last head was read, too
    assert await server.status() == b""
    server.working.set()
    for reader, _ in at_work:
        assert (await _rest(reader))[9:12] == b"200"
    assert await server.status() == b"200"


async def test_bytes_that_are_no_body_have_an_end_too(server: Server) -> None:
    """Chunk extensions and trailers count: a request may have a mebibyte on the wire, whatever
    its body has.
    """
    _, writer = await server.opened(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")

    async def send() -> None:
        for _ in range(64 * 16):
            writer.write(b"a" * 65536)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send()


_HALF = {
    "nothing": b"",
    "half a head": b"GET /heal",
    "half a body": _HEAD + b"Content-Length: 9\r\n\r\n{",
    "a question whose answer it does not take": b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("what", _HALF)
async def test_slow_peers_do_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """When the process is to end, whoever was promised an answer is waited for, and no peer that
    is not ready for it.
    """
    monkeypatch.setattr(serving, "_DRAIN_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(connections, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(connections, "_CHECK_INTERVAL_SECONDS", 0.05)
    port, open_ones = reserve_port(), Connections()
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        async with listen(_app(asyncio.Event()), port, open_ones):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_HALF[what])
            while not len(open_ones):  # noqa: ASYNC110 - a set tells nobody
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # until it has said its half
    writer.transport.abort()
    release_port(port)


async def _are(server: Server, count: int) -> bool:
    return len(server.connections) == count
