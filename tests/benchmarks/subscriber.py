"""Receives events from Redis, as cheaply as the protocol allows, and notes when each arrived."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

_MESSAGE = re.compile(rb"\*3\r\n\$7\r\nmessage\r\n\$\d+\r\n[^\r]+\r\n\$(\d+)\r\n")
_CONFIRMED = b"\r\n:1\r\n"  # the end of the answer to SUBSCRIBE: one channel
_SUBJECT = re.compile(rb'"subject": ?"([^"]+)"')


class Subscriber(asyncio.Protocol):
    """`async with Subscriber(redis_url, channel) as events:` fills `events.received`."""

    def __init__(self, redis_url: str, channel: str = "payment-events") -> None:
        parts = urlsplit(redis_url)
        self._host, self._port, self._password = (
            parts.hostname or "",
            parts.port or 0,
            parts.password or "",
        )
        self._channel = channel
        self._buffer = b""
        self._transport: asyncio.BaseTransport | None = None
        self._subscribed = asyncio.Event()
        self._changed = asyncio.Event()
        self.received: dict[str, float] = {}  # the Unix time of the first event of each payment

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: self, self._host, self._port)
        self._transport = transport
        transport.write(_command("AUTH", self._password) + _command("SUBSCRIBE", self._channel))
        await asyncio.wait_for(self._subscribed.wait(), 5)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._buffer += data
        if not self._subscribed.is_set():
            _, confirmation, rest = self._buffer.partition(_CONFIRMED)
            if not confirmation:
                return
            self._buffer = rest
            self._subscribed.set()
        while (message := _MESSAGE.match(self._buffer)) is not None:
            end = message.end() + int(message[1])
            if len(self._buffer) < end + 2:
                break
            subject = _SUBJECT.search(self._buffer, message.end(), end)
            name = subject[1] if subject else self._buffer[message.end() : end]
            self.received.setdefault(name.decode(), now)
            self._buffer = self._buffer[end + 2 :]
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], *, within_seconds: float) -> bool:
        """Waits until the condition is true. Returns whether it became true in time."""
        try:
            async with asyncio.timeout(within_seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True


def _command(*words: str) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()
