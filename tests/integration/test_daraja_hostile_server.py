"""A hostile server causes doubt, but no false success, and uses little memory and time."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from domain.adapters.daraja.wire import DarajaSession
from domain.attempts import IdKind
from domain.changes import Exchange
from domain.errors import OutcomeUnknown, Unreachable
from domain.evidence import InquiryOutcome
from domain.report import ReportedOutcome
from domain.values import parse_storable_text
from tests.integration.daraja import (
    BODY,
    TokenStore,
    a_deposit_to_inquire_about,
    an_attempt,
    client_of,
    head,
    to_submit,
    whole,
)
from tests.integration.hostile_wire import (
    CHUNKED,
    UNUSABLE,
    USABLE,
    Hostile,
    be_silent,
    drip,
    reset,
)

_MEMORY_BYTES_MAX = 8 * 1024 * 1024

# An answer that never ends, or never begins: its first bytes, and what the server does then.
BROKEN_OFF: dict[str, tuple[bytes, Any]] = {
    "silence": (b"", be_silent),
    "silence in the body": (head(length=len(BODY)) + BODY[:20], be_silent),
    "a drip of headers": (b"HTTP/1.1 200 OK\r\nX: ", drip),
    "a drip of the body": (head(length=1_000_000) + BODY, drip),
    "a drip without a length": (head() + BODY, drip),
    "torn at once": (b"", reset),
    "torn in the head": (b"HTTP/1.1 200 OK\r\nCont", reset),
    "torn in the body": (head(length=len(BODY)) + BODY[:20], reset),
}


async def assert_no_answer(
    session: DarajaSession, said: bytes, then: Any = None, *, call_seconds: float = 10
) -> None:
    """Assert that this answer puts a payment in doubt, and does not answer an inquiry."""
    async with Hostile(said, then) as server:
        open_attempt = an_attempt()
        client = client_of(session, server.url, call_seconds=call_seconds)
        with pytest.raises(OutcomeUnknown):
            await client.submit(to_submit(), open_attempt)
        assert open_attempt.fence.is_written
        assert len(server.requests) == 1
    exchanges: list[Exchange] = []
    async with Hostile(said, then) as server:
        client = client_of(session, server.url, call_seconds=call_seconds)
        report = await client.inquire(a_deposit_to_inquire_about(), 1, exchanges)
    assert report is not None
    assert (report.outcome, report.inquiry_outcome, report.failure) == (
        ReportedOutcome.UNDECIDED,
        InquiryOutcome.NO_ANSWER,
        None,
    )
    for exchange in (*open_attempt.exchanges, *exchanges):
        for text in (exchange.outcome, exchange.answer or ""):
            assert parse_storable_text(text) == text
            assert len(text) <= 2000


@pytest.mark.sampled(12)
@pytest.mark.parametrize("what", USABLE)
async def test_an_odd_but_complete_answer_is_accepted(session: DarajaSession, what: str) -> None:
    """A complete answer is accepted in any form on the wire."""
    async with Hostile(USABLE[what]) as server:
        ids = await client_of(session, server.url).submit(to_submit(), an_attempt())
        assert (IdKind.CHECKOUT_REQUEST, "ws_CO_1") in ids
    async with Hostile(USABLE[what]) as server:
        client = client_of(session, server.url)
        report = await client.inquire(a_deposit_to_inquire_about(), 1, [])
        assert report is not None
        assert report.inquiry_outcome is InquiryOutcome.PAID
    async with Hostile(USABLE[what]) as server:
        await client_of(session, server.url, store=TokenStore(None)).ensure_token()


@pytest.mark.sampled(12)
@pytest.mark.parametrize("what", UNUSABLE)
async def test_garbage_puts_a_payment_in_doubt_and_answers_no_inquiry(
    session: DarajaSession, what: str
) -> None:
    """The client sends the payment only once, because Daraja may have acted."""
    await assert_no_answer(session, UNUSABLE[what])


@pytest.mark.sampled(12)
@pytest.mark.parametrize("what", BROKEN_OFF)
async def test_an_answer_that_never_ends_puts_a_payment_in_doubt_and_answers_no_inquiry(
    session: DarajaSession, what: str
) -> None:
    said, then = BROKEN_OFF[what]
    await assert_no_answer(session, said, then, call_seconds=0.5)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("what", [what for what in UNUSABLE if what != "a shorter length"])
async def test_garbage_is_no_token_and_nothing_is_sent(session: DarajaSession, what: str) -> None:
    """Without a token the payment was not sent, so it is not in doubt."""
    async with Hostile(UNUSABLE[what]) as server:
        open_attempt = an_attempt()
        client = client_of(session, server.url, store=TokenStore(None))
        with pytest.raises(Unreachable):
            await client.submit(to_submit(), open_attempt)
        assert not open_attempt.fence.is_written
        assert all(request.startswith(b"GET ") for request in server.requests)


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    "what",
    [
        what
        for what in UNUSABLE
        if any(word in what for word in ("bomb", "mega", "many", "long", "endless"))
    ],
)
@pytest.mark.parametrize("store", [TokenStore(), TokenStore(None)], ids=["answer", "token"])
async def test_an_answer_uses_little_memory(
    session: DarajaSession, what: str, store: TokenStore
) -> None:
    """A gzip body of sixteen kilobytes can unpack to sixteen megabytes."""
    async with Hostile(UNUSABLE[what]) as server:
        client = client_of(session, server.url, store=store)
        tracemalloc.start()
        try:
            with pytest.raises((OutcomeUnknown, Unreachable)):
                await client.submit(to_submit(), an_attempt())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < _MEMORY_BYTES_MAX


_STALE = BODY.replace(b"ws_CO_1", b"ws_CO_STALE")
_BEHIND = {
    "a whole answer": whole(_STALE),
    "an answer without its last byte": whole(_STALE + b" ")[:-1],
    "chunks without their last line": (
        head(CHUNKED) + f"{len(_STALE):x}\r\n".encode() + _STALE + b"\r\n0\r\n"
    ),
    "a head that swallows the next answer": b"HTTP/1.1 200 OK\r\nX: ",
    "a byte": b"x",
    "an empty line": b"\r\n",
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("what", _BEHIND)
@pytest.mark.parametrize("is_late", [False, True])
async def test_bytes_behind_an_answer_are_no_answer_to_the_next_request(
    session: DarajaSession, what: str, *, is_late: bool
) -> None:
    """Old bytes must not acknowledge the next payment before it was sent.

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
                ids = dict(await client.submit(to_submit(), an_attempt()))
            except OutcomeUnknown:
                continue
            seen.append(ids[IdKind.CHECKOUT_REQUEST])
            assert seen[-1] == f"ws_CO_{number}"
            await asyncio.sleep(0.05 if is_late else 0)
        # A byte directly behind each answer may make all answers unusable. The other cases may not.
        assert seen or what == "a byte"
