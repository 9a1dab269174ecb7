"""Bytes that arrived before our request are never its answer, with any content and timing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

import aiohttp
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from domain.adapters.daraja import wire
from domain.adapters.daraja.wire import _count_unacknowledged_bytes, daraja_session
from domain.attempts import Outcome
from domain.errors import OutcomeUnknown, ProviderError, Unreachable
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import Stage
from tests.builders import a_payment
from tests.builders import an_attempt as an_attempt_made
from tests.certificates import write_certificate
from tests.integration.daraja import TokenStore, Wire, an_attempt, client_of, http, to_submit
from tests.integration.hostile_wire import BODY, CHUNKED, head, whole

EARLY: dict[str, bytes] = {
    "a whole acknowledgement": whole(),
    "two": whole() * 2,
    "an acknowledgement in chunks": head(CHUNKED)
    + f"{len(BODY):x}\r\n".encode()
    + BODY
    + b"\r\n0\r\n\r\n",
    "an acknowledgement until closed": head() + BODY,
    "a refusal": http(
        {"errorCode": "400.002.02", "errorMessage": "Bad Request - Invalid Amount"},
        status="400 Bad Request",
    ),
    "a refused token": http(b"", status="401 Unauthorized"),
    "too many requests": http(b"", status="429 Too Many Requests"),
    "a firewall's page": http(b"<html></html>", status="403 Forbidden"),
    "a head without its body": head(length=len(BODY)),
    "half a head": b"HTTP/1.1 200 OK\r\nX: ",
    "a continue": head(status="100 Continue"),
    "a byte": b"H",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
}


class EarlySpeaker:
    """A server in a thread that sends bytes as soon as a client connects, and reads only then.

    If `answer` is given, it sends that after the request. `has_spoken` is set when the first bytes
    are in the kernel.
    """

    def __init__(
        self,
        said: bytes,
        *,
        closes: bool,
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
        raw.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # the bytes are under way, after TLS's own messages
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


def look_that_waits(server: EarlySpeaker, *, number: int) -> Callable[[], float]:
    """The fence's clock. Its reading `number` stops the worker until the server has sent bytes."""
    looks = iter(range(1, 1000))

    def look() -> float:
        if next(looks) == number:
            assert server.has_spoken.wait(10)
        return 0.0

    return look


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with daraja_session(connections_max=10) as own:
        yield own


def asked_about() -> Payment:
    attempt = an_attempt_made(Outcome.ACKNOWLEDGED, checkout_request_id="ws_CO_1")
    return a_payment(kind=Kind.DEPOSIT, stage=Stage.AWAITING_RESULT, attempts=(attempt,))


async def problem_of(
    session: aiohttp.ClientSession, server: EarlySpeaker, kind: Kind = Kind.DEPOSIT
) -> ProviderError:
    """Send while the worker stands still at its last reading of the clock until bytes were sent."""
    open_attempt = an_attempt(clock=look_that_waits(server, number=3))
    with pytest.raises(ProviderError) as caught:
        await client_of(session, server.url, call_seconds=5).submit(to_submit(kind), open_attempt)
    assert not open_attempt.fence.is_written
    assert [exchange.was_written for exchange in open_attempt.exchanges] == [False]
    return caught.value


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("what", EARLY)
@pytest.mark.sampled(8)
async def test_bytes_before_the_first_byte_are_no_answer_and_nothing_is_sent(
    session: aiohttp.ClientSession, what: str, *, closes: bool
) -> None:
    """Nothing was written, so the payment returns to its former stage."""
    async with EarlySpeaker(EARLY[what], closes=closes) as server:
        assert type(await problem_of(session, server)) is Unreachable
    assert server.received in ([], [b""])


@pytest.mark.parametrize("what", EARLY)
async def test_bytes_that_the_loop_read_before_the_first_byte_are_no_answer(
    session: aiohttp.ClientSession, what: str
) -> None:
    """Also if the bytes are not a whole message yet."""
    async with EarlySpeaker(EARLY[what], closes=False) as server:
        open_attempt = an_attempt()
        with standing_still(server), pytest.raises(Unreachable):
            await client_of(session, server.url, call_seconds=5).submit(to_submit(), open_attempt)
    assert not open_attempt.fence.is_written
    assert server.received in ([], [b""])


@pytest.mark.parametrize("kind", Kind)
async def test_an_early_acknowledgement_acknowledges_no_kind_of_payment(
    session: aiohttp.ClientSession, kind: Kind
) -> None:
    async with EarlySpeaker(whole(), closes=True) as server:
        assert type(await problem_of(session, server, kind)) is Unreachable


async def test_a_connection_that_closes_before_the_first_byte_puts_no_payment_in_doubt(
    session: aiohttp.ClientSession,
) -> None:
    """A bill payment in doubt would cost an operator much time."""
    async with EarlySpeaker(b"", closes=True) as server:
        assert type(await problem_of(session, server, Kind.BILL_PAYMENT)) is Unreachable


@pytest.mark.parametrize("what", EARLY)
async def test_bytes_before_an_inquiry_are_not_its_answer(
    session: aiohttp.ClientSession, what: str
) -> None:
    """The payment is neither paid nor failed, and no token is fetched."""
    async with EarlySpeaker(EARLY[what], closes=True) as server:
        with standing_still(server):
            report = await client_of(session, server.url, call_seconds=5).inquire(
                asked_about(), 1, []
            )
    assert report is not None
    assert (report.outcome, report.inquiry_outcome, report.failure) == (
        ReportedOutcome.UNDECIDED,
        InquiryOutcome.NO_ANSWER,
        None,
    )
    assert server.received in ([], [b""])


@pytest.mark.parametrize("what", EARLY)
async def test_a_token_that_arrived_before_the_request_is_not_used(
    session: aiohttp.ClientSession, what: str
) -> None:
    async with EarlySpeaker(EARLY[what], closes=True) as server:
        open_attempt = an_attempt()
        with standing_still(server), pytest.raises(Unreachable):
            await client_of(session, server.url, store=TokenStore(None), call_seconds=5).submit(
                to_submit(), open_attempt
            )
    assert open_attempt.exchanges == []
    assert server.received in ([], [b""])


@contextlib.contextmanager
def standing_still(server: EarlySpeaker) -> Iterator[None]:
    """Stop the worker when its connection is made, until the server has sent bytes."""
    made = wire._Connection.connection_made

    def wait(line: wire._Connection, transport: asyncio.BaseTransport) -> None:
        made(line, transport)
        assert server.has_spoken.wait(10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire._Connection, "connection_made", wait)
        yield


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("is_secure", [False, True])
def test_each_event_loop_notices_an_early_answer_also_through_tls(
    loop: str, tls: ssl.SSLContext, *, is_secure: bool
) -> None:
    """The early answer is in the kernel when the first byte is due."""

    async def play() -> None:
        async with EarlySpeaker(
            whole(), closes=False, context=tls if is_secure else None
        ) as server:
            async with daraja_session(connections_max=1) as session:
                trust_anyone(session)
                assert type(await problem_of(session, server)) is Unreachable
            assert not any(b"POST" in received for received in server.received)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(play())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("is_secure", [False, True])
def test_each_event_loop_accepts_an_answer_after_the_request(
    loop: str, tls: ssl.SSLContext, *, is_secure: bool
) -> None:
    """Also through TLS, whose messages come first. Otherwise the tests above would prove nothing.

    On a busy machine a message of TLS may arrive at the moment of the last check. Then the client
    sends nothing, and the test tries again.
    """

    async def play() -> None:
        speaker = EarlySpeaker(
            b"", closes=False, answer=whole(), context=tls if is_secure else None
        )
        async with speaker as server, daraja_session(connections_max=1) as session:
            trust_anyone(session)
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


class TestUnderWay:
    """The answer was under way when our first byte left, and arrived before that byte arrived."""

    @pytest.fixture(autouse=True)
    def nothing_acknowledged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Our kernel has no acknowledgement of the request when the answer arrives."""
        monkeypatch.setattr(wire, "_count_unacknowledged_bytes", lambda _file: 900)

    @pytest.mark.parametrize("kind", Kind)
    async def test_a_payment_is_in_doubt(self, session: aiohttp.ClientSession, kind: Kind) -> None:
        """The request was written, so inquiries follow and no other send."""
        async with Wire(whole()) as server:
            open_attempt = an_attempt()
            with pytest.raises(OutcomeUnknown):
                await client_of(session, server.url).submit(to_submit(kind), open_attempt)
        assert open_attempt.fence.is_written
        assert [exchange.was_written for exchange in open_attempt.exchanges] == [True]

    async def test_a_question_has_no_answer(self, session: aiohttp.ClientSession) -> None:
        async with Wire(whole()) as server:
            report = await client_of(session, server.url).inquire(asked_about(), 1, [])
        assert report is not None
        assert (report.outcome, report.inquiry_outcome) == (
            ReportedOutcome.UNDECIDED,
            InquiryOutcome.NO_ANSWER,
        )

    async def test_there_is_no_token(self, session: aiohttp.ClientSession) -> None:
        async with Wire(whole()) as server:
            with pytest.raises(Unreachable):
                await client_of(session, server.url, store=TokenStore(None)).submit(
                    to_submit(), an_attempt()
                )
            assert [request[:4] for request in server.requests] == [b"GET "]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
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


async def test_an_aiohttp_that_creates_connections_differently_is_rejected() -> None:
    """We replace an attribute of aiohttp. If aiohttp renames it, nothing is sent."""

    class Renamed:
        pass

    with pytest.raises(RuntimeError, match=r"wire\.py"):
        wire._watch_connections(Renamed())  # type: ignore[arg-type]


async def test_a_connection_that_is_not_watched_sends_nothing() -> None:
    """This would happen with an aiohttp that has the attribute but does not use it."""
    async with (
        Wire() as server,
        aiohttp.ClientSession(trace_configs=[wire._build_trace_config()]) as session,
    ):
        with pytest.raises(Unreachable):
            await client_of(session, server.url).submit(to_submit(), an_attempt())
        assert sum(server.bytes_by_connection) == 0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A self-signed certificate of the server."""
    key = rsa.generate_private_key(65537, 2048)
    folder = tmp_path_factory.mktemp("tls")
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(key, folder / "certificate.pem"), folder / "key.pem")
    return context


def trust_anyone(session: aiohttp.ClientSession) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session.connector._ssl = context  # type: ignore[union-attr]
