"""The one module of the gateway that touches parts of aiohttp which its documentation does not
promise.

No documented setting of aiohttp does what is here. By itself aiohttp waits for a slow head, body or
reader for ever, takes any number of connections and any number of bytes around a body, quotes the
peer in its own answers, and names itself in them. A proxy in front can do part of this
(docs/deployment.md), but a process must also stand without one.

Other modules use the plain names below. `require_known_aiohttp` refuses, at start, an aiohttp that
we did not test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from enum import Enum
from typing import Any, cast

from aiohttp import http_parser, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.hdrs import EXPECT
from aiohttp.http import RawRequestMessage
from aiohttp.typedefs import Middleware

from domain.adapters.aiohttp_version import require_tested_aiohttp
from domain.adapters.settings.errors import SettingsError
from gateway.edge.answers import add_security_headers

# Answers an Expect header, or ignores it.
AnswerExpectation = Callable[[web.Request], Coroutine[Any, Any, None]]


def require_known_aiohttp() -> None:
    """Raises SettingsError unless the installed aiohttp, with its compiled parser, is one that our
    tests ran with.

    The parser in Python is slower, and refuses other requests than the compiled one.
    """
    require_tested_aiohttp()
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise SettingsError(
            "cannot start; aiohttp is without its compiled HTTP parser (AIOHTTP_NO_EXTENSIONS must be unset)"
        )


class Awaited(Enum):
    """What the server waits for its peer to do."""

    HEAD = "send the head of a request"
    NEXT_REQUEST = "send another request, or leave the connection idle"
    BODY = "send the rest of a body"
    READING = "take the rest of an answer, or of what was said before the connection's end"


class ServerConnection(web.RequestHandler):
    """One connection to the server, which says whose move it is, the peer's or ours.

    `since` is the loop's time of the last change of turn. A request may have `wire_bytes_max` bytes
    in all.
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
            # Bodies arrive as they were sent: nothing is decompressed, so nothing small becomes
            # large.
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
        """What the peer has to do now; None while the next move is ours."""
        if self._wire is None or self._wire.is_closing():
            return Awaited.READING  # closed by us, and what the peer did not take is not gone yet
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
        """Ends the connection at once. What the peer did not take is dropped."""
        if self._wire is not None:
            self._wire.abort()

    def answer_failure(self, status: int, error: BaseException | None) -> web.Response:
        """The answer if aiohttp itself must answer: 400 to what is no HTTP, else 5xx for `error`.

        A subclass writes it.
        """
        raise NotImplementedError

    def is_admitted(self) -> bool:
        """Whether the new connection may stay. If not, a subclass has ended it."""
        return True

    def refuse_bytes(self) -> None:
        """Ends a connection whose request has too many bytes."""
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)  # a TCP server's are
        if self.is_admitted():
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
                self._break_bodies_off()
        elif (
            self._waiter is not None
            and not self._waiter.done()
            and data
            and not self._has_head_begun
        ):
            self.since, self._has_head_begun = self._loop.time(), True
        if self._wire_bytes > self._wire_bytes_max and not self._is_lingering():
            self.refuse_bytes()

    def _is_lingering(self) -> bool:
        """Whether the answer is out, and what still comes of the body is read and dropped."""
        return self._waiter is None and self._current_request is None

    def _break_bodies_off(self) -> None:
        """After bytes that are no HTTP nothing follows: who waits for the rest of a body gets an
        error at once.
        """
        bodies = [
            body for message, body in self._messages if isinstance(message, RawRequestMessage)
        ]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError())
        self._lingering_time = 0.0  # there is no rest to wait for

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        self.since = self._loop.time()
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
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError  # half an answer is out: nothing can follow it
        response = self.answer_failure(status, exc)
        response.force_close()
        return response

    handle_error = _refusal


class UnroutedResponse(web.Response):
    """An answer that passes no application, and is dressed all the same."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        add_security_headers(self)


def make_application(
    *, middlewares: Iterable[Middleware], body_bytes_max: int, answer_expectation: AnswerExpectation
) -> web.Application:
    """An application that answers every Expect header with `answer_expectation`, also where it
    finds no route.

    A route takes such a function, but there is no route for an unknown path or method. There
    aiohttp's own answer quotes the header, and fails, as if that were a fault of ours, if the
    header is no text.
    """
    app = web.Application(middlewares=middlewares, client_max_size=body_bytes_max)
    app._router = _Router(answer_expectation)  # noqa: SLF001 - as an argument it is deprecated
    return app


class _Router(web.UrlDispatcher):
    """aiohttp's router, with one answer to every Expect header."""

    def __init__(self, answer_expectation: AnswerExpectation) -> None:
        super().__init__()
        self._answer_expectation = answer_expectation
        self._resolve = super().resolve  # each request pays for a step here

    def resolve(self, request: web.Request) -> Coroutine[Any, Any, web.UrlMappingMatchInfo]:
        match = self._resolve(request)
        return self._with_expectation(match) if EXPECT in request.headers else match

    async def _with_expectation(
        self, resolving: Coroutine[Any, Any, web.UrlMappingMatchInfo]
    ) -> web.UrlMappingMatchInfo:
        match = await resolving
        match.route._expect_handler = self._answer_expectation  # noqa: SLF001 - a route that does not exist has no setting
        return match
