"""A webhook has an end, whatever the endpoint answers, and goes only to checked addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from domain.adapters.webhooks import sender as sender_module
from domain.adapters.webhooks.lookups import Lookups, NameNotResolved
from domain.adapters.webhooks.sender import Sent, WebhookSender
from domain.webhooks.endpoint import AttemptOutcome
from tests.certificates import certificate_pem, key_pem
from tests.integration.conftest import PATIENCE_SECONDS, until
from tests.integration.raw_server import RawServer

LOCAL = [ipaddress.ip_network("127.0.0.0/8")]
OK = b"HTTP/1.1 200 OK\r\n"

Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Hostile(RawServer):
    """Reads the head and the body of a request, and then runs `answer`."""

    def __init__(self, answer: Talk) -> None:
        super().__init__()
        self._answer = answer
        self.requests = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        await self._answer(writer)


@asynccontextmanager
async def a_sender(seconds_max: float = 5, **options: Any) -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(**{"allowed": LOCAL, "seconds_max": seconds_max, **options})
    try:
        yield sender
    finally:
        await sender.close()


async def send_to(answer: Talk, *, seconds_max: float = 5) -> Sent:
    async with Hostile(answer) as server, a_sender(seconds_max) as sender:
        return await sender.send(server.url, {}, b"{}")


def saying(*parts: bytes) -> Talk:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def repeating(start: bytes, part: bytes, *, pause_seconds: float = 0.0) -> Talk:
    """Write `start`, and then `part` until the client leaves."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return answer


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (repeating(OK, b"X-More: more\r\n"), AttemptOutcome.BROKEN_ANSWER),
        (repeating(OK + b"X-Long: ", b"x" * 4096), AttemptOutcome.BROKEN_ANSWER),
        (repeating(b"HTTP/1.1 ", b"2"), AttemptOutcome.BROKEN_ANSWER),
        (repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), AttemptOutcome.TIMEOUT),
        (repeating(OK + b"X-Slow: ", b"x", pause_seconds=0.05), AttemptOutcome.TIMEOUT),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n"), AttemptOutcome.BROKEN_ANSWER),
        (saying(b""), AttemptOutcome.BROKEN_ANSWER),
    ],
    ids=["headers", "a header", "a status line", "100s", "a slow header", "no http", "nothing"],
)
async def test_an_answer_without_end_or_sense_is_a_failure(
    answer: Talk, outcome: AttemptOutcome
) -> None:
    sent = await send_to(answer, seconds_max=1)
    assert (sent.outcome, sent.http_status) == (outcome, None)


async def test_of_a_body_without_end_one_kilobyte_is_read() -> None:
    head = OK + b"Content-Length: 1000000000000\r\n\r\n"
    sent = await send_to(repeating(head, b"x" * 65536))
    assert (sent.outcome, sent.http_status) == (AttemptOutcome.DELIVERED, 200)
    assert sent.answer == b"x" * 1024


async def test_a_compressed_body_is_not_unpacked() -> None:
    body = b"\x1f\x8b" + b"x" * 100
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: 102\r\n\r\n"
    assert (await send_to(saying(head + body))).answer == body


async def test_a_slow_body_is_cut_off_and_the_status_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender_module, "_BODY_SECONDS", 0.2)
    head = OK + b"Content-Length: 1000\r\n\r\nslow"
    sent = await send_to(repeating(head, b".", pause_seconds=0.05))
    assert (sent.outcome, sent.http_status) == (AttemptOutcome.DELIVERED, 200)
    assert sent.answer.startswith(b"slow")


async def test_a_redirect_to_ourselves_is_reported_and_not_followed() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    async with Hostile(answer) as server, a_sender() as sender:
        sent = await sender.send(server.url, {}, b"{}")
        assert (sent.outcome, sent.http_status) == (AttemptOutcome.REDIRECT, 302)
        assert server.requests == 1


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0x7f000001"])
async def test_no_connection_goes_to_an_address_that_is_not_allowed(host: str, scheme: str) -> None:
    """The name itself says nothing. Its addresses are checked, in whatever form it has them."""
    async with Hostile(saying(b"")) as server, a_sender(allowed=[]) as sender:
        sent = await sender.send(f"{scheme}://{host}:{server.port}/", {}, b"{}")
        assert sent.outcome is AttemptOutcome.ADDRESS_NOT_ALLOWED
        assert server.requests == 0


async def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second lookup of a name with two faces would lead elsewhere. There is none."""
    lookups: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    seen: list[Any] = []

    async def receive(request: web.Request) -> web.Response:
        seen.append((request.host, request.transport.get_extra_info("sockname")[0]))  # type: ignore[union-attr]
        return web.Response(text="ok")

    async with _serving(receive) as port, a_sender() as sender:
        sent = await sender.send(f"http://two-faces.example:{port}/w", {}, b"{}")
        assert sent.outcome is AttemptOutcome.DELIVERED
        assert seen == [(f"two-faces.example:{port}", "127.0.0.1")]
        assert lookups == ["two-faces.example"]


async def test_a_name_with_one_address_that_is_allowed_is_called_there_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        addresses = ["10.0.0.1", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def receive(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with _serving(receive) as port, a_sender() as sender:
        sent = await sender.send(f"http://two.example:{port}/w", {}, b"{}")
        assert (sent.outcome, sent.answer) == (AttemptOutcome.DELIVERED, b"ok")


async def test_a_literal_ipv6_address_is_called_with_its_own_host_header() -> None:
    seen: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        seen.append(request.host)
        return web.Response(text="ok")

    try:
        serving = _serving(receive, host="::1")
        port = await serving.__aenter__()
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        async with a_sender(allowed=[ipaddress.ip_network("::1/128")]) as sender:
            sent = await sender.send(f"http://[::1]:{port}/w", {}, b"{}")
        assert sent.outcome is AttemptOutcome.DELIVERED
        assert seen == [f"[::1]:{port}"]
    finally:
        await serving.__aexit__(None, None, None)


async def test_a_name_server_that_never_answers_costs_one_thread_and_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Further messages to the name wait for the same lookup."""
    asked, release = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with a_sender(0.2) as sender:
        sends = [sender.send("http://silent.example/", {}, b"{}") for _ in range(3)]
        outcomes = {sent.outcome for sent in await asyncio.gather(*sends)}
        assert outcomes == {AttemptOutcome.TIMEOUT}
        assert asked == ["silent.example"]
        release.set()


async def test_names_whose_lookups_hang_take_no_thread_from_other_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They share a few threads, also while their lookups of earlier attempts still hang."""
    hanging = [f"{number}.silent.example" for number in range(200)]
    release = threading.Event()
    now = [0.0]

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.endswith("silent.example"):
            release.wait(30)
            raise socket.gaierror
        return [(None, None, None, None, ("1.1.1.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookups = Lookups(clock=lambda: now[0])

    async def attempt(host: str) -> bool:
        """Whether the name was found. An attempt does not wait for a name server that hangs."""
        with contextlib.suppress(TimeoutError, NameNotResolved):
            async with asyncio.timeout(0.05 if host in hanging else PATIENCE_SECONDS):
                return bool(await lookups.find(host))
        return False

    async def all_threads_ended() -> bool:
        return not lookups._running

    try:
        assert not any(await asyncio.gather(*map(attempt, hanging)))
        now[0] = 5.0
        assert await attempt("shop.example")  # while 200 threads hang
        release.set()
        await until(all_threads_ended)
        release.clear()
        # All 200 names are known to be slow now.
        assert not any(await asyncio.gather(*map(attempt, hanging)))
        assert len(lookups._running) == 32
        others = [f"{number}.shop.example" for number in range(150)]
        assert all(await asyncio.gather(*map(attempt, others)))
        now[0] = 10.0
        release.set()
        await until(all_threads_ended)
        release.clear()
        now[0] = 1_000.0  # a slow name gets another chance
        assert not any(await asyncio.gather(*map(attempt, hanging[:40])))
        assert len(lookups._running) == 40
    finally:
        release.set()


async def test_a_name_without_address_is_reported() -> None:
    async with a_sender() as sender:
        sent = await sender.send("https://no-such-name.invalid/w", {}, b"{}")
    assert sent.outcome is AttemptOutcome.NAME_NOT_RESOLVED


# --- TLS ------------------------------------------------------------------------------------------


@asynccontextmanager
async def _serving(
    receive: Callable[[web.Request], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/w", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _contexts(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server whose certificate is for `host`, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "key.pem").write_bytes(key_pem(key))
    (folder / "certificate.pem").write_bytes(certificate_pem(key, hosts=[host], is_ca=True))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "certificate.pem"))


@pytest.mark.parametrize(
    ("host", "outcome"),
    [("localhost", AttemptOutcome.DELIVERED), ("another.example", AttemptOutcome.TLS_FAILED)],
)
async def test_the_certificate_must_be_for_the_name_and_not_for_the_address(
    tmp_path: Path, host: str, outcome: AttemptOutcome
) -> None:
    """The server also gets the name, so that it can choose its certificate."""
    server, client = _contexts(tmp_path, host)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)

    async def receive(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with _serving(receive, server) as port, a_sender(tls=client) as sender:
        sent = await sender.send(f"https://localhost:{port}/w", {}, b"{}")
    assert sent.outcome is outcome
    assert names == ["localhost"]


@pytest.mark.parametrize(
    "host", ["xn--fa-hia.example", "xn--3xa.example", "xn--mgba3gch31f060k.example"]
)
async def test_a_punycode_host_is_looked_up_and_named_in_tls_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    """An older standard of Python would make another name of it, which can have another owner."""
    looked_up: list[str] = []

    def look_up(name: str, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    server, client = _contexts(tmp_path, host)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    seen: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        seen.append(request.host)
        return web.Response(text="ok")

    async with _serving(receive, server) as port, a_sender(tls=client) as sender:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        sent = await sender.send(f"https://{host}:{port}/w", {}, b"{}")
    assert sent.outcome is AttemptOutcome.DELIVERED
    assert (looked_up, names, seen) == ([host], [host], [f"{host}:{port}"])


@pytest.mark.parametrize(
    ("host", "looked_up"), [("xn--a.example", ["xn--a.example"]), ("faß.example", [])]
)
async def test_a_host_that_is_refused_today_leads_to_no_other_name(
    monkeypatch: pytest.MonkeyPatch, host: str, looked_up: list[str]
) -> None:
    """An endpoint that an earlier release accepted may still have it."""
    asked: list[str] = []

    def look_up(name: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(name)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with a_sender() as sender:
        sent = await sender.send(f"https://{host}/w", {}, b"{}")
    assert sent.outcome is AttemptOutcome.NAME_NOT_RESOLVED
    assert asked == looked_up


async def test_a_certificate_that_nothing_vouches_for_is_refused(tmp_path: Path) -> None:
    server, _ = _contexts(tmp_path, "localhost")

    async def receive(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with _serving(receive, server) as port, a_sender() as sender:
        sent = await sender.send(f"https://localhost:{port}/w", {}, b"{}")
    assert sent.outcome is AttemptOutcome.TLS_FAILED
