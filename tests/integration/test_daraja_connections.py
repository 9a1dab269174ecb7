"""How the Daraja client connects: its addresses, its TLS, and the head of its requests."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp.http import SERVER_SOFTWARE
from cryptography.hazmat.primitives.asymmetric import ec

from domain.adapters.daraja import wire
from domain.adapters.daraja.wire import DarajaSession
from domain.errors import Unreachable
from tests.certificates import certificate_pem, key_pem
from tests.integration.daraja import Wire, an_attempt, client_of, to_submit, whole

HOST = "daraja.test"
REFUSING = "127.0.0.9"  # no test listens there


class Names:
    """Answers look-ups of `HOST` with `addresses`, in place of the system's resolver."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.lookups = 0

    async def getaddrinfo(
        self, host: str, _port: object, **_: object
    ) -> list[tuple[object, object, int, str, tuple[str, int]]]:
        assert host == HOST
        self.lookups += 1
        await asyncio.sleep(0.01)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in self.addresses]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    own = Names("127.0.0.1")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", own.getaddrinfo, raising=False)
    return own


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address whose kernel answers no new connection, because its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.8", 0))
        listener.listen(0)
        address: tuple[str, int] = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        yield address
        for one in waiting:
            one.close()


@asynccontextmanager
async def listening(
    port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on 127.0.0.1 that answers. Yields its port, and the requests that it receives."""
    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"}"))
        writer.write(whole())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def submit(session: DarajaSession, url: str) -> bool:
    """Send a payment. Returns False if Daraja was not reached, and then nothing was written."""
    open_attempt = an_attempt()
    try:
        await client_of(session, url).submit(to_submit(), open_attempt)
    except Unreachable:
        return open_attempt.fence.is_written
    return True


async def test_the_head_of_a_request(session: DarajaSession) -> None:
    async with Wire() as server:
        host = b"Host: 127.0.0.1:%d\r\n" % server.port
        for method, path, headers, body in (
            ("POST", "/a?b=c", {"X": "y"}, b"{}"),
            ("GET", "", {}, b""),
        ):
            await session.request_once(
                method,
                server.url + path,
                headers=headers,
                body=body,
                bytes_max=9999,
                seconds_max=5,
            )
    common = (
        b"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        b"User-Agent: %s\r\n" % SERVER_SOFTWARE.encode()
    )
    assert server.requests == [
        b"POST /a?b=c HTTP/1.1\r\n%sX: y\r\n%sContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        % (host, common),
        b"GET / HTTP/1.1\r\n%s%sConnection: close\r\n\r\n" % (host, common),
    ]


@pytest.mark.parametrize(
    ("url", "host", "port", "header"),
    [
        ("https://api.safaricom.co.ke/x", "api.safaricom.co.ke", 443, "api.safaricom.co.ke"),
        ("https://api.safaricom.co.ke:443/x", "api.safaricom.co.ke", 443, "api.safaricom.co.ke"),
        ("https://Daraja.test:8443/x", "daraja.test", 8443, "daraja.test:8443"),
        ("http://[::1]:80/x", "::1", 80, "[::1]"),
        ("http://user:password@daraja.test/x", "daraja.test", 80, "daraja.test"),
    ],
)
def test_the_host_of_an_address(url: str, host: str, port: int, header: str) -> None:
    target = wire._parse(url)
    assert (target.host, target.port, target.host_header) == (host, port, header)
    assert target.is_tls is url.startswith("https")


async def test_a_header_with_a_line_break_is_never_sent(session: DarajaSession) -> None:
    async with Wire() as server:
        for value in ("a\r\nX: y", "a\nX: y", "a\rX"):
            with pytest.raises(ValueError, match="line break"):
                await session.request_once(
                    "GET", server.url, headers={"X": value}, bytes_max=9, seconds_max=5
                )
        assert server.bytes_by_connection == []


async def test_if_one_address_refuses_the_next_one_is_tried_and_remembered(
    session: DarajaSession, names: Names
) -> None:
    names.addresses = [REFUSING, "127.0.0.1"]
    async with listening() as (port, received):
        for sent in (1, 2):
            assert await submit(session, f"http://{HOST}:{port}")
            assert len(received) == sent
    assert await session._addresses._find(HOST) == ["127.0.0.1", REFUSING]
    names.addresses = [REFUSING]  # the address that worked is Daraja's no longer
    session._addresses._found.clear()
    assert await session._addresses._find(HOST) == [REFUSING]


async def test_an_address_that_never_answers_leaves_time_for_the_next(
    session: DarajaSession, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_CONNECT_SECONDS", 0.6)
    with silent_address() as (address, port):
        names.addresses = [address, "127.0.0.1"]
        async with listening(port) as (_, received):
            assert await submit(session, f"http://{HOST}:{port}")
            assert len(received) == 1
            started = asyncio.get_running_loop().time()
            assert await submit(session, f"http://{HOST}:{port}")
            assert asyncio.get_running_loop().time() - started < 0.3


async def test_without_an_address_that_answers_nothing_is_written(
    session: DarajaSession, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_CONNECT_SECONDS", 0.3)
    with silent_address() as (address, port):
        for names.addresses in ([address], [REFUSING, address], [REFUSING, "127.0.0.7"], []):
            session._addresses._found.clear()
            assert not await submit(session, f"http://{HOST}:{port}")


async def test_concurrent_requests_share_a_lookup_and_a_failed_one_is_repeated(
    session: DarajaSession, names: Names
) -> None:
    async with listening() as (port, _):
        url = f"http://{HOST}:{port}"
        names.addresses = []
        assert not any(await asyncio.gather(*(submit(session, url) for _ in range(20))))
        assert names.lookups == 1
        names.addresses = ["127.0.0.1"]
        assert all(await asyncio.gather(*(submit(session, url) for _ in range(20))))
        assert await submit(session, url)
        assert names.lookups == 2


@pytest.mark.parametrize(
    ("certified", "is_trusted", "is_sent"),
    [(HOST, True, True), (HOST, False, False), ("elsewhere.test", True, False)],
    ids=["trusted", "signed by itself", "the name of another host"],
)
async def test_only_a_trusted_certificate_of_the_right_host_receives_a_request(
    names: Names, tmp_path: Path, certified: str, is_trusted: bool, is_sent: bool
) -> None:
    assert names.addresses == ("127.0.0.1",)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(certificate_pem(key, hosts=[certified], is_ca=True) + key_pem(key))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    session = DarajaSession()
    if is_trusted:
        session._tls.load_verify_locations(certificate)
    async with listening(tls=tls) as (port, received):
        assert await submit(session, f"https://{HOST}:{port}") is is_sent
        assert len(received) == is_sent
