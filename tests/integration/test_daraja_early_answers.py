"""Bytes that arrive before our request are never its answer, whatever they contain."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from domain.adapters.daraja import wire
from domain.adapters.daraja.client import NO_ANSWER
from domain.adapters.daraja.wire import DarajaSession, _count_unacknowledged_bytes
from domain.errors import OutcomeUnknown, Unreachable
from domain.kinds import Kind
from tests.certificates import write_certificate
from tests.integration.daraja import (
    BODY,
    TokenStore,
    Wire,
    a_deposit_to_inquire_about,
    an_attempt,
    client_of,
    head,
    to_submit,
    whole,
)
from tests.integration.hostile_wire import CHUNK, CHUNKED, LAST_CHUNK

EARLY: dict[str, bytes] = {
    "a whole acknowledgement": whole(),
    "two acknowledgements": whole() * 2,
    "an acknowledgement in chunks": head(CHUNKED) + CHUNK + LAST_CHUNK,
    "an acknowledgement that ends with the connection": head() + BODY,
    "a refusal": whole(b'{"errorCode": "400.002.02"}', status="400 Bad Request"),
    "a refused token": whole(b"", status="401 Unauthorized"),
    "a head without its body": head(length=len(BODY)),
    "half a head": b"HTTP/1.1 200 OK\r\nX: ",
    "a 100 Continue": head(status="100 Continue"),
    "a byte": b"H",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
}


class EarlySpeaker:
    """A server in a thread that sends bytes as soon as a client connects, and then reads.

    If `answer` is given, the server sends it after the request. It sets `has_spoken` when the first
    bytes are in the kernel.
    """

    def __init__(
        self,
        said: bytes,
        *,
        closes: bool = False,
        answer: bytes = b"",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._said, self._closes, self._answer, self._context = said, closes, answer, context
        self.has_spoken = threading.Event()
        self.received: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        await asyncio.to_thread(self._thread.join, 10)
        assert not self._thread.is_alive(), "the client did not drop its connection"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                self._speak(connection)

    def _speak(self, raw: socket.socket) -> None:
        raw.settimeout(10)
        # So `sendall` sends the bytes at once, also after TLS's own messages.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            self._talk(raw)
            return
        with self._context.wrap_socket(raw, server_side=True) as secured:
            self._talk(secured)

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(self._said)
        if self._closes:
            connection.shutdown(socket.SHUT_WR)
        self.has_spoken.set()
        received = b""
        while data := connection.recv(65536):
            received += data
            if self._answer and b"\r\n\r\n" in received:
                connection.sendall(self._answer)
        self.received.append(received)

    def has_no_request(self) -> bool:
        return not any(self.received)


@contextlib.contextmanager
def wait_when_connected(server: EarlySpeaker) -> Iterator[None]:
    """Stop the worker when a connection is made, until the server has sent bytes."""
    made = wire._Connection.connection_made

    def wait(connection: wire._Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        assert server.has_spoken.wait(10)
        server.has_spoken.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire._Connection, "connection_made", wait)
        yield


async def assert_unsent(session: DarajaSession, server: EarlySpeaker) -> None:
    """Assert that a bill payment is not sent. In doubt, it would cost an operator much time.

    The worker stands still at its last reading of the clock until the server has sent bytes.
    """
    readings = iter(range(1, 1000))

    def read_clock() -> float:
        if next(readings) == 3:
            assert server.has_spoken.wait(10)
        return 0.0

    open_attempt = an_attempt(clock=read_clock)
    client = client_of(session, server.url, call_seconds=5)
    with pytest.raises(Unreachable) as caught:
        await client.submit(to_submit(Kind.BILL_PAYMENT), open_attempt)
    assert type(caught.value) is Unreachable
    assert not open_attempt.fence.is_written
    assert [exchange.was_written for exchange in open_attempt.exchanges] == [False]


@pytest.mark.parametrize(
    ("what", "closes"),
    [*((what, closes) for what in EARLY for closes in (False, True)), ("nothing", True)],
)
@pytest.mark.sampled(8)
async def test_bytes_before_the_first_byte_are_no_answer_and_nothing_is_sent(
    session: DarajaSession, what: str, *, closes: bool
) -> None:
    """Nothing was written, so the payment returns to its former stage."""
    async with EarlySpeaker(EARLY.get(what, b""), closes=closes) as server:
        await assert_unsent(session, server)
    assert server.has_no_request()


@pytest.mark.parametrize("what", EARLY)
@pytest.mark.sampled(4)
async def test_bytes_that_the_loop_read_before_the_first_byte_are_no_answer(
    session: DarajaSession, what: str
) -> None:
    """Early bytes also answer no inquiry, and are no token. Some cases are part of a message."""
    async with EarlySpeaker(EARLY[what]) as server:
        open_attempt = an_attempt()
        client = client_of(session, server.url, call_seconds=5)
        without_token = client_of(session, server.url, store=TokenStore(None), call_seconds=5)
        with wait_when_connected(server):
            with pytest.raises(Unreachable):
                await client.submit(to_submit(), open_attempt)
            assert await client.inquire(a_deposit_to_inquire_about(), 1, []) == NO_ANSWER
            with pytest.raises(Unreachable):
                await without_token.ensure_token()
    assert not open_attempt.fence.is_written
    assert server.has_no_request()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("is_secure", [False, True])
def test_each_event_loop_separates_an_early_answer_from_a_later_one(
    loop: str, tls: ssl.SSLContext, *, is_secure: bool
) -> None:
    """The loop does so with TLS too, although messages of TLS come before our request.

    On a busy machine a message of TLS may arrive at the moment of the last check. Then the client
    sends nothing, and the test tries again.
    """
    context = tls if is_secure else None
    session = DarajaSession(trust_anyone())

    async def play() -> None:
        async with EarlySpeaker(whole(), context=context) as server:
            await assert_unsent(session, server)
            assert not any(b"POST" in received for received in server.received)
        late = EarlySpeaker(b"", answer=whole(), context=context)
        async with late as server:
            client, answered, tries = client_of(session, server.url, call_seconds=10), 0, 0
            while answered < 20:
                tries += 1
                assert tries <= 40
                with contextlib.suppress(Unreachable):
                    ids = await client.submit(to_submit(), an_attempt())
                    assert ("checkout_request_id", "ws_CO_1") in ids
                    answered += 1

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(play())


async def test_an_answer_that_was_sent_before_our_request_arrived_proves_nothing(
    session: DarajaSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answer arrives, the peer's kernel has not confirmed the bytes of our request.

    The request was written, so the payment is in doubt, and is not sent again. Such an answer is
    also no answer to an inquiry, and no token. Without a token, no payment is sent.
    """
    monkeypatch.setattr(wire, "_count_unacknowledged_bytes", lambda _socket_number: 900)
    open_attempt = an_attempt()
    async with Wire(whole()) as server:
        client = client_of(session, server.url)
        with pytest.raises(OutcomeUnknown):
            await client.submit(to_submit(), open_attempt)
        assert await client.inquire(a_deposit_to_inquire_about(), 1, []) == NO_ANSWER
    assert open_attempt.fence.is_written
    assert [exchange.was_written for exchange in open_attempt.exchanges] == [True]
    async with Wire(whole()) as server:
        client = client_of(session, server.url, store=TokenStore(None))
        with pytest.raises(Unreachable):
            await client.submit(to_submit(), an_attempt())
        assert [request[:4] for request in server.requests] == [b"GET "]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts these bytes")
def test_the_kernel_counts_our_bytes_that_are_not_acknowledged() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
    ):
        theirs, _ = listener.accept()
        with theirs:
            ours.sendall(b"x" * 100)
            theirs.recv(100)
            assert _count_unacknowledged_bytes(ours.fileno()) == 0
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.send(b"x" * 65536)  # until the buffer is full, because no process reads
            assert _count_unacknowledged_bytes(ours.fileno()) > 0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The server's TLS context, with a self-signed certificate."""
    key = rsa.generate_private_key(65537, 2048)
    folder = tmp_path_factory.mktemp("tls")
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(key, folder / "certificate.pem"), folder / "key.pem")
    return context


def trust_anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
