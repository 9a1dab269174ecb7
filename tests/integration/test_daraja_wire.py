"""The Daraja client on raw sockets: what is written, when nothing is, and what of an answer is
read.
"""

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
    """Bytes are counted, because all of this rests on aiohttp's order of writing."""

    @pytest.mark.parametrize("why", [DeadlinePassed, Draining])
    async def test_past_the_deadline_or_while_draining_no_byte_is_written(
        self, why: type[Unreachable]
    ) -> None:
        """The worker looked, connected, was frozen or told to stop, and came to the first byte."""
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

    async def test_without_the_fence_the_count_would_see_bytes(
        self, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or the test above would promise nothing."""
        async with Wire() as wire:
            client = client_of(session, wire.url)
            monkeypatch.setattr(Fence, "pass_first_byte", lambda _fence: None)
            await client.submit(to_submit(), an_attempt(clock=frozen_after(2)))
            assert len(wire.bytes_by_connection) == 1
            assert sum(wire.bytes_by_connection) > 500

    async def test_the_whole_request_leaves_after_the_fence_and_at_once(
        self, session: aiohttp.ClientSession
    ) -> None:
        """Headers and body are one write: there is no first byte before the body's."""
        async with Wire() as wire:
            open_attempt = an_attempt(
                clock=frozen_after(3)
            )  # long past its deadline right after the first byte
            await client_of(session, wire.url).submit(to_submit(), open_attempt)
            assert open_attempt.fence.is_written
            assert len(wire.requests) == 1


class TestConnections:
    """A connection that may be dead is not written to: a call without a key would be lost in
    doubt.
    """

    async def test_none_is_used_again(self, session: aiohttp.ClientSession) -> None:
        """Nor could anything come on it in the meantime and be taken for the next answer."""
        async with Wire() as wire:
            client = client_of(session, wire.url)
            for used in (1, 2, 3):
                await client.submit(to_submit(), an_attempt())
                assert len(wire.bytes_by_connection) == used


class TestStrangeAnswers:
    """Whatever comes back, it is bounded, it leads nowhere else, and it can be recorded."""

    @pytest.mark.parametrize(
        "answer", [http(b"{" * 70_000), b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000]
    )
    async def test_an_answer_without_an_end_is_not_read_to_its_end(
        self, session: aiohttp.ClientSession, answer: bytes
    ) -> None:
        """64 KiB are more than Daraja ever says."""
        async with Wire(answer) as wire:
            with pytest.raises(OutcomeUnknown):
                await client_of(session, wire.url).submit(to_submit(), an_attempt())

    async def test_no_redirect_is_followed(self, session: aiohttp.ClientSession) -> None:
        """Where it points to nobody hears of the payment, and it is in doubt."""
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
        """Postgres holds neither NUL nor half a character; an answer that cannot be recorded is
        an answer lost.
        """
        answer = http({"errorCode": code, "errorMessage": "x"}, status="400 Bad Request")
        async with Wire(answer) as wire:
            open_attempt = an_attempt()
            with pytest.raises(ProviderError) as caught:
                await client_of(session, wire.url).submit(to_submit(), open_attempt)
            for text in (caught.value.code or "", open_attempt.exchanges[0].answer or ""):
                assert parse_storable_text(text) == text
                assert len(text) <= 2000
