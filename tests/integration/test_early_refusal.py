"""A process without a place refuses a request before it looks at more than the head."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.edge.connections import Connections
from gateway.edge.early_refusal import ANSWER_EARLY, refuse_early
from gateway.edge.load import RequestPlaces
from gateway.edge.problems import answer_with_problems
from gateway.edge.returns import Returns
from gateway.edge.serving import listen
from tests.integration.conftest import PATIENCE_SECONDS
from tests.stack.ports import release_port, reserve_port

_HEAD = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server without any place. It answers /v1/ early, and all paths by its application."""
    places = RequestPlaces(0, is_counted=lambda request: request.path != "/healthz")
    app = web.Application(middlewares=[answer_with_problems, places.middleware])
    app[ANSWER_EARLY] = refuse_early(
        places.is_full, "/v1/", Returns(choose=lambda _shortest, _longest: 3)
    )

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app.router.add_get("/healthz", answer)
    app.router.add_post("/v1/deposits", answer)
    port = reserve_port()
    async with listen(app, port, Connections()):
        yield port
    release_port(port)


async def send(port: int, request: str) -> tuple[dict[str, str], str]:
    """The headers of the answer, with the status line under "", and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
    writer.close()
    first, *lines = head.split("\r\n")
    return {"": first} | dict(line.split(": ", 1) for line in lines), body


async def test_an_early_refusal_is_the_answer_of_the_application(port: int) -> None:
    """Only the date, the random time and the request's id differ, which cost time.

    A request with an Origin is not refused early.
    """
    early, early_body = await send(port, f"POST /v1/deposits {_HEAD}\r\n")
    late, late_body = await send(
        port, f"POST /v1/deposits {_HEAD}Origin: https://x.example\r\n\r\n"
    )
    assert early[""] == late[""] == "HTTP/1.1 503 Service Unavailable"
    assert early_body == late_body
    assert early.pop("Retry-After") == "3"
    assert 1 <= int(late.pop("Retry-After")) <= 4
    assert "Date" in late
    late.pop("Date")
    late.pop("X-Request-Id")
    assert early == late


async def test_an_early_refusal_does_not_wait_for_the_body(port: int) -> None:
    """The body never comes, and the client asked to be told whether to send it."""
    head = f"POST /v1/deposits {_HEAD}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    writer.close()


@pytest.mark.parametrize("line", ["GET /healthz", "HEAD /healthz"])
async def test_a_route_of_the_platform_is_answered(port: int, line: str) -> None:
    headers, _ = await send(port, f"{line} {_HEAD}\r\n")
    assert headers[""] == "HTTP/1.1 200 OK"
