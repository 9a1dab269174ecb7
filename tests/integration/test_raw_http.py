"""Bytes from hostile peers over real sockets: each is refused or cut off, and whoever comes next
is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from domain.callback_address import make_address
from tests.integration.conftest import PATIENCE_SECONDS, new_id
from tests.integration.raw_requests import CHUNKS, CRLF, HEADS, INGRESS, LENGTHS, Frame
from tests.stack.databases import connection
from tests.stack.lending import Lending
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_BODY = b'{"amount": 7, "phone_number":"0711000111"}'
_BOTH = LENGTHS | CHUNKS | HEADS
_CASES = [
    *(pytest.param("web", name, id=f"web: {name}") for name in _BOTH | INGRESS),
    *(pytest.param("callbacks", name, id=f"callbacks: {name}") for name in _BOTH),
]
_LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Told:
    """One answer."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    async with lending.stack(Shape(processes=("web", "callbacks"))) as stack:
        yield stack


def _port(stack: Stack, process: str) -> int:
    return urlsplit(stack.process(process).url).port or 0


def _frame(stack: Stack, process: str) -> Frame:
    """A request that this process would accept, and another."""
    first, second = _fields(stack, process), _fields(stack, process)
    target = _target(stack, process)
    return Frame(target=target, fields=first, body=_BODY, second=second)


def _target(stack: Stack, process: str) -> bytes:
    if process == "web":
        return b"/v1/deposits"
    secret = stack.env("callbacks")["CALLBACK_SECRETS"].partition(",")[0]
    return make_address("", secret, new_id(), "deposit").encode()


def _fields(stack: Stack, process: str) -> tuple[bytes, ...]:
    if process == "callbacks":
        return (b"Host: callbacks.example",)
    return (
        b"Host: pay.example",
        b"Authorization: Bearer " + stack.issuer.user_token().encode(),
        b"Content-Type: application/json",
        b"X-Idempotency-Key: " + uuid4().hex.encode(),
    )


async def _stored(stack: Stack) -> int:
    sql = (
        "SELECT (SELECT count(*) FROM mkwanja.payments) + (SELECT count(*) FROM mkwanja.callbacks)"
    )
    async with connection(stack.database_url) as raw:
        return int(await raw.fetchval(sql))


async def _said(port: int, *parts: bytes) -> bytes:
    """All that comes back.

    If the connection is kept, a last good request follows: only its answer may follow, too.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()
    sending = asyncio.create_task(_send(writer, parts))
    has_asked_last = False
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while data := await reader.read(65536):
                said += data
                if (
                    not has_asked_last
                    and _answers(bytes(said))
                    and b"Connection: close" not in said
                ):
                    has_asked_last = True
                    writer.write(_LAST)
    except ConnectionError:
        pass  # cut off, which is an answer as well
    finally:
        sending.cancel()
        writer.transport.abort()
        await asyncio.gather(sending, return_exceptions=True)
    return bytes(said)


async def _send(writer: asyncio.StreamWriter, parts: tuple[bytes, ...]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02)  # so that parts arrive apart


def _answers(said: bytes) -> list[Told]:
    """The answers in `said`; nothing may be between, before or after them."""
    found = []
    while said:
        head, _, said = said.partition(CRLF + CRLF)
        line, *fields = head.split(CRLF)
        assert line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), line
        status = int(line.split(b" ")[1])
        headers = {
            name.lower(): value for name, _, value in (field.partition(b": ") for field in fields)
        }
        if status == 100:
            continue
        length = int(headers[b"content-length"])
        found.append(Told(status, headers, said[:length]))
        said = said[length:]
    return found


@pytest.mark.sampled(50)
@pytest.mark.parametrize(("process", "name"), _CASES)
async def test_what_is_no_honest_request_is_refused(stack: Stack, process: str, name: str) -> None:
    """It is answered once with 4xx or 503, or cut off; nothing is accepted of it or of what
    hides behind it; no banner.
    """
    frame, before = _frame(stack, process), await _stored(stack)
    case = (_BOTH | INGRESS)[name](frame)
    said = await _said(_port(stack, process), *((case,) if isinstance(case, bytes) else case))
    answers = _answers(said)
    if len(answers) > 1:
        assert answers.pop().status == 200, said  # what was asked last, in step
    assert len(answers) <= 1, said
    for answer in answers:
        assert 400 <= answer.status < 500 or answer.status == 503, said
        assert b"server" not in answer.headers
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
        assert answer.headers[b"cache-control"] == b"no-store"
        assert not any(
            secret in answer.body for secret in (b"Bearer", b"Traceback", b"aiohttp", frame.target)
        ), said
    assert await _stored(stack) == before


@pytest.mark.parametrize("process", ["web", "callbacks"])
async def test_the_honest_request_is_accepted(stack: Stack, process: str) -> None:
    """What the others were bent from is accepted, whole or in chunks (in any letters), and so are
    two one behind the other, each once.
    """
    before = await _stored(stack)
    good = {"web": 202, "callbacks": 200}[process]
    whole, chunked = _frame(stack, process), _frame(stack, process)
    capital, two = _frame(stack, process), _frame(stack, process)
    for parts, count in (
        ((whole.whole(b"Connection: close"),), 1),
        ((chunked.in_chunks(b"Connection: close"),), 1),
        (
            (capital.head(b"Transfer-Encoding: Chunked", b"Connection: close") + capital.chunks(),),
            1,
        ),
        (
            (
                two.whole()
                + two.head(two.length, b"Connection: close", fields=two.second)
                + two.body,
            ),
            2,
        ),
    ):
        statuses = [
            answer.status for answer in _answers(await _said(_port(stack, process), *parts))
        ]
        assert statuses == [good] * count
    assert await _stored(stack) == before + 5


async def test_both_processes_are_well_after_all_that(stack: Stack) -> None:
    """Neither met anything that it calls a fault of its own, and no token is in a log."""
    for process in ("web", "callbacks"):
        [answer] = _answers(await _said(_port(stack, process), _LAST))
        assert answer.status == 200
        log = stack.process(process).log_text()
        assert '"level": "error"' not in log
        assert "Traceback" not in log
        assert "eyJ" not in log
