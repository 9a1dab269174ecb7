"""The Daraja client on raw sockets: the bytes that it writes, and those that it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from domain.adapters.daraja.wire import daraja_session
from domain.errors import DeadlinePassed, Draining, OutcomeUnknown, ProviderError, Unreachable
from domain.fence import Fence
from domain.values import parse_storable_text
from tests.integration.daraja import (
    Wire,
    an_attempt,
    client_of,
    frozen_after,
    http,
    to_submit,
    told_to_stop_after,
)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with daraja_session(connections_max=10) as own:
        yield own


class TestFence:
    """These tests count bytes, because the fence depends on aiohttp's order of writing."""

    @pytest.mark.parametrize("why", [DeadlinePassed, Draining])
    async def test_past_the_deadline_or_while_draining_no_byte_is_written(
        self, why: type[Unreachable]
    ) -> None:
        """After it connected, the worker was frozen or asked to stop, before the first byte."""
        async with Wire() as wire, daraja_session(connections_max=10) as session:
            client = client_of(session, wire.url)
            late = (
                an_attempt(clock=frozen_after(2))
                if why is DeadlinePassed
                else an_attempt(is_draining=told_to_stop_after(1))
            )
            with pytest.raises(why):
                await client.submit(to_submit(), late)
            assert not late.fence.is_written
            assert [exchange.was_written for exchange in late.exchanges] == [False]
            await session.close()
            await wire.all_closed()
            assert len(wire.bytes_by_connection) == 1, "it did not come as far as the first byte"
            assert sum(wire.bytes_by_connection) == 0

    async def test_without_the_fence_bytes_are_counted(
        self, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise the test above would prove nothing."""
        async with Wire() as wire:
            client = client_of(session, wire.url)
            monkeypatch.setattr(Fence, "pass_first_byte", lambda _fence: None)
            await client.submit(to_submit(), an_attempt(clock=frozen_after(2)))
            assert len(wire.bytes_by_connection) == 1
            assert sum(wire.bytes_by_connection) > 500

    async def test_the_whole_request_leaves_after_the_fence_and_at_once(
        self, session: aiohttp.ClientSession
    ) -> None:
        """Headers and body are one write, so no byte leaves before the body's first byte."""
        async with Wire() as wire:
            open_attempt = an_attempt(
                clock=frozen_after(3)
            )  # long past its deadline right after the first byte
            await client_of(session, wire.url).submit(to_submit(), open_attempt)
            assert open_attempt.fence.is_written
            assert len(wire.requests) == 1


class TestConnections:
    """The client never writes to a connection that may be dead.

    A call without a key would put its payment in doubt.
    """

    async def test_no_connection_is_used_again(self, session: aiohttp.ClientSession) -> None:
        """So bytes that arrive in the meantime are never read as the next answer."""
        async with Wire() as wire:
            client = client_of(session, wire.url)
            for used in (1, 2, 3):
                await client.submit(to_submit(), an_attempt())
                assert len(wire.bytes_by_connection) == used


class TestStrangeAnswers:
    """Every answer is bounded, leads to no other server, and can be recorded."""

    @pytest.mark.parametrize(
        "answer", [http(b"{" * 70_000), b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000]
    )
    async def test_an_answer_without_an_end_is_not_read_to_its_end(
        self, session: aiohttp.ClientSession, answer: bytes
    ) -> None:
        """Every answer of Daraja is shorter than 64 KiB."""
        async with Wire(answer) as wire:
            with pytest.raises(OutcomeUnknown):
                await client_of(session, wire.url).submit(to_submit(), an_attempt())

    async def test_no_redirect_is_followed(self, session: aiohttp.ClientSession) -> None:
        """The target of the redirect gets no request, and the payment is in doubt."""
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            async with Wire() as elsewhere:
                redirect = http(b"", status=status, headers=f"Location: {elsewhere.url}/moved\r\n")
                async with Wire(redirect) as wire:
                    with pytest.raises(OutcomeUnknown):
                        await client_of(session, wire.url).submit(to_submit(), an_attempt())
                assert elsewhere.bytes_by_connection == []

    @pytest.mark.parametrize("code", ["400.\0", "400.\ud800", "400." + "9" * 5000])
    async def test_a_code_of_any_kind_can_be_stored(
        self, session: aiohttp.ClientSession, code: str
    ) -> None:
        """Postgres rejects NUL and lone surrogates. A rejected answer would be lost."""
        answer = http({"errorCode": code, "errorMessage": "x"}, status="400 Bad Request")
        async with Wire(answer) as wire:
            open_attempt = an_attempt()
            with pytest.raises(ProviderError) as caught:
                await client_of(session, wire.url).submit(to_submit(), open_attempt)
            for text in (caught.value.code or "", open_attempt.exchanges[0].answer or ""):
                assert parse_storable_text(text) == text
                assert len(text) <= 2000
