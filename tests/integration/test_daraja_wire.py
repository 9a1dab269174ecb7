"""The Daraja client on raw sockets: the bytes that it writes, and those that it reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.adapters.daraja.wire import DarajaSession
from domain.errors import DeadlinePassed, Draining, OutcomeUnknown, ProviderError, Unreachable
from domain.fence import Fence, OpenAttempt
from domain.values import parse_storable_text
from tests.integration.daraja import (
    Wire,
    an_attempt,
    client_of,
    frozen_after,
    to_submit,
    told_to_stop_after,
    whole,
)


class TestFence:
    """These tests count bytes, because nothing else proves that none has left."""

    @pytest.mark.parametrize(
        ("begin", "error"),
        [
            (lambda: an_attempt(clock=frozen_after(2)), DeadlinePassed),
            (lambda: an_attempt(is_draining=told_to_stop_after(1)), Draining),
        ],
        ids=["frozen", "asked to stop"],
    )
    async def test_past_the_deadline_or_while_draining_no_byte_is_written(
        self, begin: Callable[[], OpenAttempt], error: type[Unreachable]
    ) -> None:
        """The worker is frozen or asked to stop between its connection and the first byte."""
        open_attempt = begin()
        async with Wire() as wire:
            with pytest.raises(error):
                await client_of(DarajaSession(), wire.url).submit(to_submit(), open_attempt)
            assert not open_attempt.fence.is_written
            assert [exchange.was_written for exchange in open_attempt.exchanges] == [False]
            await wire.all_closed()
            # The worker made one connection and wrote no byte.
            assert wire.bytes_by_connection == [0]

    async def test_without_the_fence_bytes_are_counted(
        self, session: DarajaSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If this server did not count bytes, the test above would prove nothing."""
        monkeypatch.setattr(Fence, "pass_first_byte", lambda _fence: None)
        async with Wire() as wire:
            client = client_of(session, wire.url)
            await client.submit(to_submit(), an_attempt(clock=frozen_after(2)))
            [count] = wire.bytes_by_connection
            assert count > 500

    async def test_the_whole_request_leaves_after_the_fence_and_at_once(
        self, session: DarajaSession
    ) -> None:
        """Headers and body are one write, so no byte leaves before the body's first byte.

        The worker is long past its deadline right after that byte.
        """
        open_attempt = an_attempt(clock=frozen_after(3))
        async with Wire() as wire:
            await client_of(session, wire.url).submit(to_submit(), open_attempt)
            assert open_attempt.fence.is_written
            assert len(wire.requests) == 1


async def test_no_connection_is_used_again(session: DarajaSession) -> None:
    """Bytes that arrive between two requests are therefore never read as the next answer.

    The client also never writes to a dead connection, which would put a payment in doubt.
    """
    async with Wire() as wire:
        client = client_of(session, wire.url)
        for used in (1, 2, 3):
            await client.submit(to_submit(), an_attempt())
            assert len(wire.bytes_by_connection) == used


@pytest.mark.parametrize(
    "answer", [whole(b"{" * 70_000), b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000]
)
async def test_an_answer_without_an_end_is_not_read_to_its_end(
    session: DarajaSession, answer: bytes
) -> None:
    """The client reads at most 64 KiB, because every answer of Daraja is shorter."""
    async with Wire(answer) as wire:
        with pytest.raises(OutcomeUnknown):
            await client_of(session, wire.url).submit(to_submit(), an_attempt())


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(session: DarajaSession, status: str) -> None:
    """The target of the redirect gets no request, and the payment is in doubt."""
    async with Wire() as elsewhere:
        redirect = whole(b"", f"Location: {elsewhere.url}/moved", status=status)
        async with Wire(redirect) as wire:
            with pytest.raises(OutcomeUnknown):
                await client_of(session, wire.url).submit(to_submit(), an_attempt())
        assert elsewhere.bytes_by_connection == []


@pytest.mark.parametrize("code", [r'"400.\u0000"', r'"400.\ud800"', f'"400.{"9" * 5000}"'])
async def test_a_code_of_any_kind_can_be_stored(session: DarajaSession, code: str) -> None:
    """Postgres rejects NUL and lone surrogates. A rejected answer would be lost."""
    answer = whole(f'{{"errorCode": {code}}}'.encode(), status="400 Bad Request")
    async with Wire(answer) as wire:
        open_attempt = an_attempt()
        with pytest.raises(ProviderError) as caught:
            await client_of(session, wire.url).submit(to_submit(), open_attempt)
        for text in (caught.value.code or "", open_attempt.exchanges[0].answer or ""):
            assert parse_storable_text(text) == text
            assert len(text) <= 2000
