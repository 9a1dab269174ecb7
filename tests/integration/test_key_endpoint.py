"""If the endpoint of the key set fails, the last good set is used for a day.

The metrics show its age.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

import gateway.auth.keys
from domain.errors import KeysUnavailable
from gateway.auth.keys import KeySet
from tests.integration.keys import Issuer, an_issuer, jwk

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

GOOD_SET = json.dumps({"keys": [jwk("first")]}).encode()
HOUR_SECONDS = 3600


def answer(body: bytes, status: str = "200 OK", *fields: str, length: int | None = None) -> bytes:
    head = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        "Connection: close",
    ]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def sending(*parts: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip_body(writer: asyncio.StreamWriter) -> None:
    """Send a good set byte by byte, without the last byte."""
    writer.write(answer(b"", length=len(GOOD_SET)))
    for at in range(len(GOOD_SET) - 1):
        writer.write(GOOD_SET[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.001)
    await asyncio.Event().wait()


async def drip_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Wait: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


BOMB = gzip.compress(b" " * 10_000_000)
# Faults of the endpoint, by the `result` label with which their fetch is counted.
NO_ANSWER: dict[str, Script] = {
    "hangs": hang,
    "drips": drip_body,
    "drips its head": drip_head,
    "resets": reset,
    "closes without an answer": sending(),
    "speaks no HTTP": sending(b"\x16\x03\x01\x00\xff\r\n\r\n"),
    "has a head without end": sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000),
    "stops halfway": sending(answer(GOOD_SET[:50], length=len(GOOD_SET))),
}
BAD_ANSWER: dict[str, Script] = {
    "answers 500 with a good set": sending(answer(GOOD_SET, "500 Internal Server Error")),
    "answers 204": sending(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "answers HTML": sending(
        answer(b"<html>Be right back</html>", "200 OK", "Content-Type: text/html")
    ),
    "answers nothing": sending(answer(b"")),
    "answers half a set": sending(answer(GOOD_SET[:-5])),
    "answers in UTF-16": sending(answer(GOOD_SET.decode().encode("utf-16"))),
    "answers a number of 5,000 digits": sending(answer(b'{"keys": [' + b"9" * 5000 + b"]}")),
    "answers very deep": sending(answer(b"[" * 60_000)),
    "answers a megabyte": sending(answer(GOOD_SET + b" " * 1_000_000)),
    "answers without end": sending(b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 65_536] * 20),
    "answers 10 MB, packed": sending(answer(BOMB, "200 OK", "Content-Encoding: gzip")),
}
FAULTS = {name: ("no_answer", script) for name, script in NO_ANSWER.items()} | {
    name: ("bad_answer", script) for name, script in BAD_ANSWER.items()
}


class Endpoint:
    """The endpoint, and a key set that is fetched from it."""

    def __init__(self) -> None:
        self.script: Script = sending(answer(GOOD_SET))
        self.paths: list[str] = []
        self.requests: list[bytes] = []  # with all their fields
        self.connections = 0
        self.keeps_connections = False
        self.now = 1_000_000.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.paths.append(request.split()[1].decode())
                self.requests.append(request)
                await self.script(writer)
                if not self.keeps_connections:
                    break
        except (OSError, EOFError):
            pass  # the key set closed the connection
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def knows(self, kid: str) -> bool:
        return (await self.keys.find_key(kid)).kid == kid

    def start(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys = KeySet(f"{self.url}/keys", clock=lambda: self.now)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint, serving = Endpoint(), set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoint.connections += 1
        serving.add(asyncio.create_task(endpoint.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    endpoint.start(server.sockets[0].getsockname()[1])
    yield endpoint
    await endpoint.keys.close()
    server.close()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    await server.wait_closed()


def metric(name: str, **labels: str) -> float:
    """Return the present value in the answer of /metrics."""
    return REGISTRY.get_sample_value(f"mkwanja_key_set_{name}", labels) or 0.0


async def await_with_fault(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, fault: str, action: Awaitable[bool]
) -> bool:
    """Await the action while the endpoint has the fault, and return the action's result.

    The key set makes one fetch, and counts it with the fault's label.
    """
    result, endpoint.script = FAULTS[fault]
    fetches, requests = metric("fetches_total", result=result), len(endpoint.paths)
    with monkeypatch.context() as patch:
        if fault in {"hangs", "drips", "drips its head"}:
            patch.setattr(gateway.auth.keys, "FETCH_SECONDS_MAX", 0.2)
        is_successful = await action
    assert (metric("fetches_total", result=result) - fetches, endpoint.paths[requests:]) == (
        1,
        ["/keys"],
    )
    return is_successful


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_last_good_set_serves_for_a_day(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """While the endpoint fails, known keys are found and the set's age grows.

    After a day no token can be checked.
    """
    await endpoint.keys.start()
    generation = endpoint.keys.generation
    for hours in (1, 24):
        endpoint.now = 1_000_000 + hours * HOUR_SECONDS
        assert metric("age_seconds") == hours * HOUR_SECONDS
        assert await await_with_fault(endpoint, monkeypatch, fault, endpoint.knows("first"))
    endpoint.now += 16
    with pytest.raises(KeysUnavailable):
        await await_with_fault(endpoint, monkeypatch, fault, endpoint.knows("first"))
    endpoint.script = sending(answer(GOOD_SET))
    endpoint.now += gateway.auth.keys.RETRY_AFTER_SECONDS
    assert await endpoint.knows("first")
    assert (metric("age_seconds"), endpoint.keys.generation) == (0, generation)


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_a_key_set_a_token_is_not_called_forged(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """If the first fetch fails, the keys are unavailable (503). The token is not bad (401)."""

    async def start() -> bool:
        await endpoint.keys.start()
        return endpoint.keys.is_loaded

    assert not await await_with_fault(endpoint, monkeypatch, fault, start())
    assert metric("age_seconds") == -1
    with pytest.raises(KeysUnavailable):
        await endpoint.knows("first")
    endpoint.script = sending(answer(GOOD_SET))
    endpoint.now += gateway.auth.keys.FIRST_RETRY_AFTER_SECONDS
    assert await endpoint.knows("first")


async def test_a_redirect_of_the_key_set_is_not_followed(endpoint: Endpoint) -> None:
    """It could lead to an attacker's keys, so even a good set on the same server is not fetched."""
    endpoint.script = sending(answer(b"", "302 Found", "Location: /other"))
    await endpoint.keys.start()
    assert (endpoint.keys.is_loaded, endpoint.paths) == (False, ["/keys"])


async def test_a_fetch_reuses_no_connection_and_no_cookie(endpoint: Endpoint) -> None:
    """A fetch therefore cannot fail because of what the fetch before it left."""
    endpoint.keeps_connections = True
    endpoint.script = sending(
        answer(GOOD_SET, "200 OK", "Set-Cookie: a=b").replace(b"Connection: close\r\n", b"")
    )
    keys = KeySet(
        f"{endpoint.url.replace('127.0.0.1', 'localhost')}/keys", clock=lambda: endpoint.now
    )
    await keys.start()
    endpoint.now += 541
    await keys.refresh_if_old()
    await keys.close()
    assert (endpoint.connections, endpoint.requests[0]) == (2, endpoint.requests[1])


async def test_the_age_is_minus_one_without_a_key_set(endpoint: Endpoint) -> None:
    """There is none before the first fetch, and none after the key set was closed."""
    loaded = metric("fetches_total", result="loaded")
    assert metric("age_seconds") == -1
    await endpoint.keys.start()
    endpoint.now += 7
    assert (metric("age_seconds"), metric("fetches_total", result="loaded") - loaded) == (7, 1)
    await endpoint.keys.close()
    assert metric("age_seconds") == -1


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with an_issuer() as issuer:
        yield issuer


async def test_a_key_that_is_published_during_a_fetch_is_not_remembered_as_missing(
    issuer: Issuer,
) -> None:
    """The endpoint read its keys before that, so the fetch proves nothing about the new key."""
    await issuer.keys.start()
    issuer.is_open.clear()
    issuer.has_request.clear()
    issuer.now += 301
    assert await issuer.knows("first")  # starts a refresh without waiting for it
    await asyncio.wait_for(issuer.has_request.wait(), 5)
    issuer.jwks.append(jwk("second"))
    early = asyncio.create_task(issuer.knows("second"))
    await asyncio.sleep(0)
    issuer.is_open.set()
    assert not await early
    assert await issuer.knows("second")
    assert issuer.fetches == 3


@pytest.mark.parametrize(
    ("has_secret", "level", "effect"),
    [
        (False, "warning", "Every token gets a 401."),
        (True, "info", "Only HS256 tokens by JWT_SECRET are accepted"),
    ],
)
async def test_an_empty_key_set_is_logged_once_with_its_effect(
    endpoint: Endpoint, has_secret: bool, level: str, effect: str
) -> None:
    """Without JWT_SECRET the line is a warning with a hint. With JWT_SECRET it is information."""
    endpoint.script = sending(answer(b'{"keys": []}'))
    keys = KeySet(f"{endpoint.url}/keys", clock=lambda: endpoint.now, has_secret=has_secret)
    with capture_logs() as logs:
        await keys.start()
        endpoint.now += 541
        await keys.refresh_if_old()
    await keys.close()
    assert len(endpoint.paths) == 2
    [line] = logs
    assert (line["event"], line["log_level"], line["effect"][: len(effect)]) == (
        "key_set_empty",
        level,
        effect,
    )
    assert ("JWT_SECRET" in line.get("hint", "")) is not has_secret
