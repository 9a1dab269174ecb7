"""Hostile peers send raw bytes. The processes reject them, and serve the next peer."""

from __future__ import annotations

import asyncio
import json
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

_ACCEPTED = {"web": 202, "callbacks": 200}
_BODY = b'{"amount": 7, "phone_number":"0711000111"}'
_BOTH = LENGTHS | CHUNKS | HEADS
_CASES = [
    *(pytest.param("web", name, id=f"web: {name}") for name in _BOTH | INGRESS),
    *(pytest.param("callbacks", name, id=f"callbacks: {name}") for name in _BOTH),
]
# The status of the answer to some hostile requests, and the beginning of its detail.
_DETAILS = {
    "a header of 9,000 bytes": (431, "A header has more than 8190 bytes."),
    "seventy headers": (431, "The request has more than 64 headers."),
    "40 KiB of headers": (431, "The headers have more than 32768 bytes in total."),
    "a target of 9,000 bytes": (414, "The path and the query have more than 8190 bytes."),
    "an unknown method": (405, "HTTP has no such method"),
    "a method in small letters": (405, "HTTP has no such method"),
    "a method with a space before": (400, "The request does not begin with a method"),
    "a TLS hello": (400, "The client speaks HTTPS"),
    "the preface of HTTP/2": (400, "The first line must be"),
    "HTTP/1.2": (400, "The first line must be"),
    "a target with a space": (400, "The first line must be"),
    "a URL as target": (400, "The first line must name a path"),
    "an authority as target": (400, "The first line must name a path"),
    "a target with a fragment": (400, "The first line must name a path"),
    "a query with a control character": (400, "The first line must name a path"),
    "no Host": (400, "The header Host is missing."),
    "two Hosts": (400, "A header that a request may have only once"),
    "one length twice": (400, "A header that a request may have only once"),
    "a header without a colon": (400, "A header is not valid."),
    "NUL in a header": (400, "A header is not valid."),
    "a folded line": (400, "A header is not valid."),
    "bare line feeds": (400, "The first line must be"),
    "bare carriage returns": (400, "The first line must be"),
    "a hexadecimal length": (400, "Content-Length must be one number"),
    "an empty length": (400, "Content-Length must be one number"),
    "a length beyond 64 bits": (400, "Content-Length must be one number"),
    "length and chunks, for CL.TE": (400, "Send either Content-Length or"),
    "chunks and length, for TE.CL": (400, "Send either Content-Length or"),
    "TE: xchunked": (400, "Transfer-Encoding may only be chunked"),
    "TE: gzip, chunked": (400, "Transfer-Encoding may only be chunked"),
    "TE in HTTP/1.0": (400, "Bytes follow the last request"),
    "a chunk size that is no number": (400, "A chunk of the body is not valid."),
    "a chunk size beyond 64 bits": (400, "A chunk of the body is not valid."),
    "a chunk longer than its size": (400, "A chunk of the body is not valid."),
    "a WebSocket": (400, "The service opens no WebSocket"),
    "CONNECT": (400, "The service opens no WebSocket"),
}
_CODES = {
    400: "malformed_http",
    405: "method_not_allowed",
    414: "url_too_long",
    431: "headers_too_large",
}
_LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

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
    """Return two requests that this process would accept."""
    first, second = _fields(stack, process), _fields(stack, process)
    return Frame(target=_target(stack, process), fields=first, body=_BODY, second=second)


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


async def _exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts, and return all bytes that the process sent.

    If the process keeps the connection open, this sends a last good request. Only the answer to
    that request may follow.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    sending = asyncio.create_task(_send(writer, parts))
    is_last_sent = False
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while data := await reader.read(65536):
                received += data
                if (
                    not is_last_sent
                    and _answers(bytes(received))
                    and b"Connection: close" not in received
                ):
                    is_last_sent = True
                    writer.write(_LAST)
    except ConnectionError:
        pass  # the process may also close the connection
    finally:
        sending.cancel()
        writer.transport.abort()
        await asyncio.gather(sending, return_exceptions=True)
    return bytes(received)


async def _send(writer: asyncio.StreamWriter, parts: tuple[bytes, ...]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02)  # so that parts arrive separately


def _answers(received: bytes) -> list[Answer]:
    """Parse the answers, and drop those of status 100. There may be no other bytes."""
    found = []
    while received:
        head, _, received = received.partition(CRLF + CRLF)
        line, *fields = head.split(CRLF)
        assert line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), line
        status = int(line.split(b" ")[1])
        headers = {
            name.lower(): value for name, _, value in (field.partition(b": ") for field in fields)
        }
        if status == 100:
            continue
        length = int(headers[b"content-length"])
        found.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return found


@pytest.mark.sampled(50)
@pytest.mark.parametrize(("process", "name"), _CASES)
async def test_a_hostile_request_is_rejected(stack: Stack, process: str, name: str) -> None:
    """The process sends one answer of 4xx or 503, without a banner, or closes the connection.

    It stores nothing of the request, nor of a request that is hidden behind it.
    """
    frame, before = _frame(stack, process), await _stored(stack)
    case = (_BOTH | INGRESS)[name](frame)
    parts = (case,) if isinstance(case, bytes) else case
    received = await _exchange(_port(stack, process), *parts)
    answers = _answers(received)
    if len(answers) > 1:
        assert answers.pop().status == 200, received  # the answer to the last good request
    assert len(answers) <= 1, received
    for answer in answers:
        assert 400 <= answer.status < 500 or answer.status == 503, received
        assert b"server" not in answer.headers
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
        assert answer.headers[b"cache-control"] == b"no-store"
        assert not any(
            secret in answer.body for secret in (b"Bearer", b"Traceback", b"aiohttp", frame.target)
        ), received
    assert await _stored(stack) == before


@pytest.mark.parametrize("name", _DETAILS)
async def test_the_refusal_of_malformed_http_says_what_was_wrong(stack: Stack, name: str) -> None:
    """The answer to an unknown method names the known ones."""
    sent = _BOTH[name](_frame(stack, "web"))
    assert isinstance(sent, bytes)
    [answer] = _answers(await _exchange(_port(stack, "web"), sent))
    problem, (status, detail) = json.loads(answer.body), _DETAILS[name]
    assert (answer.status, problem["status"], problem["code"]) == (status, status, _CODES[status])
    assert problem["detail"].startswith(detail)
    assert (b"POST" in answer.headers.get(b"allow", b"")) == (status == 405)


@pytest.mark.parametrize("process", _ACCEPTED)
async def test_the_honest_request_is_accepted(stack: Stack, process: str) -> None:
    """The hostile requests are variants of this request.

    The process accepts it with a length and in chunks ("chunked" or "Chunked"). Two requests on one
    connection are accepted once each.
    """
    before = await _stored(stack)
    close = b"Connection: close"
    whole, chunked, capital, two = (_frame(stack, process) for _ in range(4))
    exchanges = [
        (whole.whole(close), 1),
        (chunked.in_chunks(close), 1),
        (capital.head(b"Transfer-Encoding: Chunked", close) + capital.chunks(), 1),
        (two.whole() + two.head(two.length, close, fields=two.second) + two.body, 2),
    ]
    for sent, count in exchanges:
        answers = _answers(await _exchange(_port(stack, process), sent))
        assert [answer.status for answer in answers] == [_ACCEPTED[process]] * count
    assert await _stored(stack) == before + 5


async def test_both_processes_are_healthy_after_hostile_requests(stack: Stack) -> None:
    """The logs of both processes have no error and no token."""
    for process in _ACCEPTED:
        [answer] = _answers(await _exchange(_port(stack, process), _LAST))
        assert answer.status == 200
        log = stack.process(process).log_text()
        assert '"level": "error"' not in log
        assert "Traceback" not in log
        assert "eyJ" not in log
