"""The Daraja client against a hostile server: in doubt, never a false success, always bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from domain.adapters.daraja.wire import daraja_session
from domain.attempts import IdKind, Outcome
from domain.changes import Exchange
from domain.errors import OutcomeUnknown, Unreachable
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import Stage
from domain.values import parse_storable_text
from tests.builders import a_payment, an_attempt
from tests.integration.daraja import TokenStore, client_of, to_submit
from tests.integration.daraja import an_attempt as an_open_attempt
from tests.integration.hostile_wire import (
    BODY,
    CHUNKED,
    UNUSABLE,
    USABLE,
    Hostile,
    be_silent,
    drip,
    head,
    reset,
    whole,
)

_MEMORY_BYTES_MAX = 8 * 1024 * 1024

BROKEN_OFF: dict[str, tuple[bytes, Any]] = {
    "silence": (b"", be_silent),
    "silence after the head": (head(length=len(BODY)), be_silent),
    "silence in the body": (head(length=len(BODY)) + BODY[:20], be_silent),
    "a drip of headers": (b"HTTP/1.1 200 OK\r\nX: ", drip),
    "a drip of the body": (head(length=1_000_000) + BODY, drip),
    "a drip without a length": (head() + BODY, drip),
    "torn at once": (b"", reset),
    "torn in the head": (b"HTTP/1.1 200 OK\r\nCont", reset),
    "torn in the body": (head(length=len(BODY)) + BODY[:20], reset),
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with daraja_session(connections_max=10) as own:
        yield own


def asked_about() -> Payment:
    """A deposit that Daraja acknowledged. Inquiries about it are STK queries."""
    attempt = an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id="ws_CO_1")
    return a_payment(kind=Kind.DEPOSIT, stage=Stage.AWAITING_RESULT, attempts=(attempt,))


def assert_storable(exchanges: list[Exchange]) -> None:
    [exchange] = exchanges
    for text in (exchange.outcome, exchange.answer or ""):
        assert parse_storable_text(text) == text
        assert len(text) <= 2000


class TestWholeAnswers:
    """An odd form on the wire is no reason to doubt a complete answer."""

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", USABLE)
    async def test_an_odd_but_complete_answer_is_accepted(
        self, session: aiohttp.ClientSession, what: str
    ) -> None:
        async with Hostile(USABLE[what]) as server:
            ids = await client_of(session, server.url).submit(to_submit(), an_open_attempt())
            assert (IdKind.CHECKOUT_REQUEST, "ws_CO_1") in ids
        async with Hostile(USABLE[what]) as server:
            report = await client_of(session, server.url).inquire(asked_about(), 1, [])
            assert report is not None
            assert report.inquiry_outcome is InquiryOutcome.PAID
        async with Hostile(USABLE[what]) as server:
            await client_of(session, server.url, store=TokenStore(None)).ensure_token()


class TestGarbage:
    """The server sends bytes of every kind, then closes the connection."""

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", UNUSABLE)
    @pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
    async def test_a_payment_is_in_doubt(
        self, session: aiohttp.ClientSession, kind: Kind, what: str
    ) -> None:
        """It was sent once, and Daraja may have acted."""
        async with Hostile(UNUSABLE[what]) as server:
            open_attempt = an_open_attempt()
            with pytest.raises(OutcomeUnknown):
                await client_of(session, server.url).submit(to_submit(kind), open_attempt)
            assert open_attempt.fence.is_written
            assert len(server.requests) == 1
            assert_storable(open_attempt.exchanges)

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", UNUSABLE)
    async def test_a_question_has_no_answer(
        self, session: aiohttp.ClientSession, what: str
    ) -> None:
        """The payment is neither paid nor failed, and the next inquiry follows on schedule."""
        exchanges: list[Exchange] = []
        async with Hostile(UNUSABLE[what]) as server:
            report = await client_of(session, server.url).inquire(asked_about(), 1, exchanges)
        assert report is not None
        assert (report.outcome, report.inquiry_outcome, report.failure) == (
            ReportedOutcome.UNDECIDED,
            InquiryOutcome.NO_ANSWER,
            None,
        )
        assert_storable(exchanges)

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", [what for what in UNUSABLE if what != "a shorter length"])
    async def test_there_is_no_token_and_nothing_is_sent(
        self, session: aiohttp.ClientSession, what: str
    ) -> None:
        """Without a token the payment was not sent, so it is not in doubt."""
        async with Hostile(UNUSABLE[what]) as server:
            open_attempt = an_open_attempt()
            with pytest.raises(Unreachable):
                await client_of(session, server.url, store=TokenStore(None)).submit(
                    to_submit(), open_attempt
                )
            assert not open_attempt.fence.is_written
            assert all(request.startswith(b"GET ") for request in server.requests)


class TestBrokenOff:
    """The answer never ends, or never begins."""

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", BROKEN_OFF)
    async def test_a_payment_is_in_doubt(self, session: aiohttp.ClientSession, what: str) -> None:
        said, then = BROKEN_OFF[what]
        async with Hostile(said, then) as server:
            open_attempt = an_open_attempt()
            with pytest.raises(OutcomeUnknown):
                await client_of(session, server.url, call_seconds=0.5).submit(
                    to_submit(), open_attempt
                )
            assert len(server.requests) == 1

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", BROKEN_OFF)
    async def test_a_question_has_no_answer(
        self, session: aiohttp.ClientSession, what: str
    ) -> None:
        said, then = BROKEN_OFF[what]
        async with Hostile(said, then) as server:
            report = await client_of(session, server.url, call_seconds=0.5).inquire(
                asked_about(), 1, []
            )
        assert report is not None
        assert report.inquiry_outcome is InquiryOutcome.NO_ANSWER


class TestMemory:
    """Only a small part of a huge answer is in memory."""

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize(
        "what",
        [
            what
            for what in UNUSABLE
            if any(word in what for word in ("bomb", "mega", "many", "long", "endless"))
        ],
    )
    @pytest.mark.parametrize("has_token", [True, False])
    async def test_an_answer_uses_little_memory(
        self, session: aiohttp.ClientSession, what: str, *, has_token: bool
    ) -> None:
        """Sixty-four megabytes of spaces are sixty-four kilobytes of gzip."""
        async with Hostile(UNUSABLE[what]) as server:
            client = client_of(
                session, server.url, store=TokenStore() if has_token else TokenStore(None)
            )
            tracemalloc.start()
            try:
                with pytest.raises((OutcomeUnknown, Unreachable)):
                    await client.submit(to_submit(), an_open_attempt())
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < _MEMORY_BYTES_MAX


_STALE = BODY.replace(b"ws_CO_1", b"ws_CO_STALE")
_BEHIND = {
    "a whole answer": whole(_STALE),
    "two": whole(_STALE) * 2,
    "an answer without its last byte": whole(_STALE + b" ")[:-1],
    "chunks without their last line": (
        head(CHUNKED) + f"{len(_STALE):x}\r\n".encode() + _STALE + b"\r\n0\r\n"
    ),
    "a head that swallows the next": b"HTTP/1.1 200 OK\r\nX: ",
    "a byte": b"x",
    "a line": b"\r\n",
}  # fmt: skip


class TestConnections:
    """An answer belongs to the request before it."""

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("what", _BEHIND)
    @pytest.mark.parametrize("is_late", [False, True])
    async def test_bytes_behind_an_answer_are_no_answer_to_the_next_request(
        self, session: aiohttp.ClientSession, what: str, *, is_late: bool
    ) -> None:
        """Otherwise they would acknowledge the next payment before it was sent.

        At worst, that payment is in doubt.
        """

        async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                own = whole(BODY.replace(b"ws_CO_1", f"ws_CO_{len(server.requests)}".encode()))
                writer.write(own + (b"" if is_late else _BEHIND[what]))
                if is_late:
                    await asyncio.sleep(0.02)
                    writer.write(_BEHIND[what])
                if not await server.read_request(reader):
                    return

        server = Hostile(b"", answer_all)
        async with server:
            client = client_of(session, server.url, call_seconds=0.5)
            seen = []
            for number in range(1, 5):
                try:
                    ids = dict(await client.submit(to_submit(), an_open_attempt()))
                except OutcomeUnknown:
                    continue
                seen.append(ids[IdKind.CHECKOUT_REQUEST])
                assert seen[-1] == f"ws_CO_{number}"
                await asyncio.sleep(0.05 if is_late else 0)
            assert seen or what == "a byte", "what follows at once may spoil an answer, and no more"
