"""The only module of the gateway that depends on undocumented parts of aiohttp.

No documented setting of aiohttp does what this module does. By default aiohttp waits for ever for a
client that sends or reads slowly. It accepts any number of connections, and any number of bytes for
chunk sizes and trailers. Its own error answers repeat text of the request and name aiohttp. A proxy
in front can set some of these limits (docs/deployment/proxy.md), but a process must be safe
without one.

At start, `require_known_aiohttp` rejects a version of aiohttp that we did not test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from enum import Enum
from typing import Any, cast

from aiohttp import http_parser, web
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter
from aiohttp.hdrs import EXPECT
from aiohttp.http import RawRequestMessage
from aiohttp.typedefs import Middleware

from domain.adapters.aiohttp_version import require_tested_aiohttp
from domain.adapters.settings.errors import SettingsError
from gateway.edge.answers import add_security_headers

# A function that answers an Expect header or ignores it.
AnswerExpectHeader = Callable[[web.Request], Coroutine[Any, Any, None]]


def require_known_aiohttp() -> None:
    """Raises SettingsError unless aiohttp is a tested version with its compiled parser.

    The Python parser is slower, and does not reject the same requests as the compiled parser.
    """
    require_tested_aiohttp()
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise SettingsError(
            "cannot start; aiohttp has no compiled HTTP parser. Unset AIOHTTP_NO_EXTENSIONS"
        )


class Awaited(Enum):
    """The action of the client that the server waits for."""

    HEAD = "send the head of a request"
    NEXT_REQUEST = "send another request, or leave the connection idle"
    BODY = "send the rest of a body"
    READING = "read the rest of an answer, or the last bytes before the connection ends"


class ServerConnection(web.RequestHandler):
    """One connection, which knows whether the server waits for the client.

    `since`: the loop's time at which the server began to wait for the client, or to work. A request
    may have at most `wire_bytes_max` bytes in total.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        idle_seconds: float,
        linger_seconds: float,
        headers_max: int,
        field_bytes_max: int,
        buffer_bytes: int,
        wire_bytes_max: int,
        access_log_class: type[AbstractAccessLogger],
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            # Bodies are not decompressed, so a small body cannot become a large one.
            auto_decompress=False,
            keepalive_timeout=idle_seconds,
            lingering_time=linger_seconds,
            max_headers=headers_max,
            max_field_size=field_bytes_max,
            read_bufsize=buffer_bytes,
            access_log_class=access_log_class,
        )
        self.since = loop.time()
        self._wire_bytes = 0
        self._wire_bytes_max = wire_bytes_max
        self._wire: asyncio.Transport | None = None
        self._has_head_begun = False

    def awaited(self) -> Awaited | None:
        """The action that the server waits for. None while the server itself works."""
        if self._wire is None or self._wire.is_closing():
            # The server has closed the connection, but the client has not read all bytes yet.
            return Awaited.READING
        if self._waiter is not None:
            if self._waiter.done():
                return None
            return (
                Awaited.HEAD
                if self._has_head_begun or self._request_count == 0
                else Awaited.NEXT_REQUEST
            )
        if self._current_request is not None:
            return None if self._current_request.content.is_eof() else Awaited.BODY
        return Awaited.READING

    def is_open(self) -> bool:
        return self._wire is not None

    def abort(self) -> None:
        """Ends the connection at once, and drops the bytes that the client has not read."""
        if self._wire is not None:
            self._wire.abort()

    def failure_response(self, status: int, error: BaseException | None) -> web.Response:
        """The answer in place of aiohttp's own: 400 for malformed HTTP, else 5xx for `error`.

        A subclass implements it.
        """
        raise NotImplementedError

    def ends_after_answer(self) -> bool:
        """Whether the connection ends after its present answer."""
        return False

    def reject_excess_bytes(self) -> None:
        """Ends the connection because its request has too many bytes."""
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)  # true for every TCP server
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        count = self._request_count
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._request_count > count:
            self.since, self._has_head_begun = self._loop.time(), False
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                self._abort_bodies()
        elif (
            self._waiter is not None
            and not self._waiter.done()
            and data
            and not self._has_head_begun
        ):
            self.since, self._has_head_begun = self._loop.time(), True
        if self._wire_bytes > self._wire_bytes_max and not self._is_lingering():
            self.reject_excess_bytes()

    def _is_lingering(self) -> bool:
        """Whether the answer is sent, and the server reads and drops the rest of the body."""
        return self._waiter is None and self._current_request is None

    def _abort_bodies(self) -> None:
        """Ends all unfinished bodies with an error.

        After malformed bytes the rest of a body cannot arrive, so a handler must not wait for it.
        """
        bodies = [
            body for message, body in self._messages if isinstance(message, RawRequestMessage)
        ]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError())
        self._lingering_time = 0.0  # the rest of the body cannot arrive

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        self.since = self._loop.time()
        if self.ends_after_answer():
            resp.force_close()
        return super().finish_response(request, resp, start_time)

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        self.since, self._wire_bytes = self._loop.time(), 0
        super().log_access(request, response, time)

    def _refusal(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - not used, because it quotes the request
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError  # a part of an answer is sent, so no other answer can follow
        response = self.failure_response(status, exc)
        response.force_close()
        return response

    handle_error = _refusal


class ComposedResponse(web.Response):
    """An answer whose bytes are composed already. It ends its connection.

    One object may answer any number of requests, because it has no state of a request.
    """

    def __init__(self, status: int, wire: bytes) -> None:
        super().__init__(status=status)
        self.force_close()
        self._bytes = wire

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.transport is not None:
            request.transport.write(self._bytes)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes nothing, because `prepare` has written everything."""


def answer_before_application(
    server: web.Server, answer: Callable[[web.BaseRequest], web.StreamResponse | None]
) -> None:
    """Lets `answer` see each request first. If it returns None, the application answers."""
    handle = server.request_handler

    async def answer_or_handle(request: web.BaseRequest) -> web.StreamResponse:
        return answer(request) or await handle(request)

    server.request_handler = answer_or_handle


class UnroutedResponse(web.Response):
    """An answer to a request that reached no application. It has the usual security headers."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        add_security_headers(self)


def make_application(
    *,
    middlewares: Iterable[Middleware],
    body_bytes_max: int,
    answer_expect_header: AnswerExpectHeader,
) -> web.Application:
    """An application that answers every Expect header with `answer_expect_header`.

    A request for an unknown path or method has no route, so no route can set the function for it.
    For such a request, aiohttp's default handler would echo the header in its answer. If the header
    is not valid text, that handler raises, and the client would get a 500.
    """
    app = web.Application(middlewares=middlewares, client_max_size=body_bytes_max)
    app._router = _Router(answer_expect_header)  # noqa: SLF001 - the argument is deprecated
    return app


class _Router(web.UrlDispatcher):
    """aiohttp's router with the same answer to every Expect header."""

    def __init__(self, answer_expect_header: AnswerExpectHeader) -> None:
        super().__init__()
        self._answer_expect_header = answer_expect_header
        self._resolve = super().resolve  # bound once, because every request calls it

    def resolve(self, request: web.Request) -> Coroutine[Any, Any, web.UrlMappingMatchInfo]:
        match = self._resolve(request)
        return self._with_expect_handler(match) if EXPECT in request.headers else match

    async def _with_expect_handler(
        self, resolving: Coroutine[Any, Any, web.UrlMappingMatchInfo]
    ) -> web.UrlMappingMatchInfo:
        match = await resolving
        # aiohttp has no argument that sets this handler for an unknown route.
        match.route._expect_handler = self._answer_expect_header  # noqa: SLF001
        return match
