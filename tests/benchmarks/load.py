"""Load on 127.0.0.1, with as little code as HTTP allows.

The load runs on the same cores as the servers under test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


async def requests_per_second(
    url: str,
    request: Callable[[int], bytes],
    *,
    connections: int,
    seconds: float,
) -> float:
    """Sends `request(n)`, n = 0, 1, …, and returns how many a second are accepted (202)."""
    numbers = iter(range(10**9))
    ends_at = time.monotonic() + seconds
    began_at = time.monotonic()
    counts = await asyncio.gather(
        *(_one_connection(url, request, numbers, ends_at) for _ in range(connections))
    )
    return sum(counts) / (time.monotonic() - began_at)


async def send_all(url: str, requests: list[bytes], *, connections: int) -> None:
    """Sends each of `requests` once."""
    numbers = iter(range(len(requests)))
    await asyncio.gather(
        *(
            _one_connection(url, lambda n: requests[n], numbers, None)
            for _ in range(min(connections, len(requests)))
        )
    )


async def _one_connection(
    url: str,
    request: Callable[[int], bytes],
    numbers: Iterator[int],
    ends_at: float | None,
) -> int:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answered = 0
    try:
        while ends_at is None or time.monotonic() < ends_at:
            number = next(numbers, None)
            if number is None:
                break
            writer.write(request(number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            status = int(head[9:12])
            if status != 202:
                raise AssertionError(f"{status} instead of 202: {body[:300]!r}")
            answered += 1
    finally:
        writer.close()
    return answered


def post(url: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A request as bytes."""
    fields = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
