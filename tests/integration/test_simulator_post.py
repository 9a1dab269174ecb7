"""The simulator's own client: it waits for the whole answer, and records what kept it away."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.raw_server import RawServer
from tests.simulator.post import post


class Receiver(RawServer):
    """Answers each request with `answer` in two pieces, and closes if `closes`."""

    def __init__(self, answer: bytes, *, closes: bool = True) -> None:
        super().__init__()
        self._answer, self._closes = answer, closes
        self.received = b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = await reader.readuntil(b"{}")
        writer.write(self._answer[:20])
        await asyncio.sleep(0.01)
        writer.write(self._answer[20:])
        if not self._closes:
            await reader.read()


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n", True),
    ],
)
async def test_the_status_of_a_whole_answer(answer: bytes, *, closes: bool) -> None:
    async with Receiver(answer, closes=closes) as receiver:
        assert await post(f"{receiver.url}/a/ä?b", b"{}", {"X": "y"}) == 200
        assert receiver.received.startswith(b"POST /a/%C3%A4?b HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nX: y\r\n" in receiver.received


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent", ConnectionError),
        (b"", ConnectionError),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ValueError),
    ],
)
async def test_no_status_without_a_whole_answer(answer: bytes, error: type[Exception]) -> None:
    async with Receiver(answer) as receiver:
        with pytest.raises(error):
            await post(receiver.url, b"{}", {})
