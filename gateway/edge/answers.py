"""The headers and the log line of every answer, in both processes.

Each request has an id, which is in its answer and in every log line about it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from uuid import UUID

import structlog
import uuid_utils
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from domain.adapters.observability import UNKNOWN_ROUTE, count_request

log = structlog.get_logger()

# The pattern of a request's route, for the log.
ROUTE = web.RequestKey("route", str)
# The request waited on purpose, so its time says nothing about the service.
WAITED = web.RequestKey("waited", bool)
SLOW_SECONDS = 1.0
SLOW_LINES_PER_SECOND = 10

# The caller, or a proxy, may choose the id of a request. A shorter text could be a phone number,
# and a text with other characters could forge a log line or a header.
REQUEST_ID_HEADER = "X-Request-Id"
_CHOSEN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{15,63}")
_REQUEST_ID = web.RequestKey("request_id", str)
_OUR_FAULTS = frozenset({500, 501, 502, 504})


def add_security_headers(response: web.StreamResponse) -> None:
    """Removes the Server header, and forbids caching and guessing of the content type.

    Only an answer that says itself how long it may be cached, such as a style sheet, is cached.
    """
    response.headers.popall("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")


def request_id(request: web.BaseRequest) -> str:
    """The id of the request: the one in its header, if that is of a safe form, or a new one."""
    known: str | None = request.get(_REQUEST_ID)
    if known is None:
        chosen = request.headers.get(REQUEST_ID_HEADER)
        is_safe = chosen is not None and _CHOSEN_ID.fullmatch(chosen)
        known = chosen if chosen is not None and is_safe else str(uuid_utils.uuid7())
        request[_REQUEST_ID] = known
    return known


async def add_headers_to_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers that every answer of the application has (for `on_response_prepare`)."""
    add_security_headers(response)
    response.headers[REQUEST_ID_HEADER] = request_id(request)


def payment_id_of(request: web.BaseRequest, response: web.StreamResponse) -> str | None:
    """The payment that an answer shows or made. None if the request was refused."""
    if response.status >= 400 or not isinstance(request, web.Request):
        return None
    location = response.headers.get("Location", "")
    text = request.match_info.get("payment_id") or location.rpartition("/")[2]
    try:
        return str(UUID(text))
    except ValueError:
        return None


class SlowLines:
    """Permits at most `SLOW_LINES_PER_SECOND` lines about slow answers, and counts the others.

    In an overloaded process every answer is slow. The lines then took 6 % of its time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0.0
        self._lines = 0
        self._left_out = 0

    def permit(self) -> bool:
        """Whether a line may be written now. A line that may not is counted."""
        now = self._clock()
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        if self._lines >= SLOW_LINES_PER_SECOND:
            self._left_out += 1
            return False
        self._lines += 1
        return True

    def take_left_out(self) -> int:
        """How many lines were left out since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out


# aiohttp makes an access log for each connection. All connections share the lines of a second.
_slow_lines = SlowLines()


class AccessLog(AbstractAccessLogger):
    """Counts each answer, and logs one line `request`: route, method, status and milliseconds.

    The line has the ids of the request and, if the request was not refused, of its payment. It
    contains no other text that the client wrote. Slow answers and faults of ours are logged at
    INFO. If many answers are slow, only some of them have a line, and `slow_left_out` in the next
    line says how many have none. All other answers, including every 4xx and 503, are logged only at
    DEBUG, because a flood of requests must not fill the disk, and because a log line costs half as
    much time as a rejection. Metrics count all answers.
    """

    def __init__(self, logger: logging.Logger, log_format: str) -> None:
        super().__init__(logger, log_format)
        self._logs_all = log.is_enabled_for(logging.DEBUG)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        route = request.get(ROUTE, UNKNOWN_ROUTE)
        has_waited = WAITED in request
        count_request(route, request.method, response.status, None if has_waited else time)
        is_slow = response.status < 400 and time > SLOW_SECONDS and not has_waited
        is_permitted = is_slow and (self._logs_all or _slow_lines.permit())
        is_notable = is_permitted or response.status in _OUR_FAULTS
        if not is_notable and not self._logs_all:
            return
        left_out = _slow_lines.take_left_out() if is_permitted else 0
        payment_id = payment_id_of(request, response)
        write_event = log.info if is_notable else log.debug
        write_event(
            "request",
            request_id=request_id(request),
            **({} if payment_id is None else {"payment_id": payment_id}),
            route=route,
            method=request.method,
            status=response.status,
            milliseconds=round(time * 1000, 1),
            **({"slow_left_out": left_out} if left_out else {}),
        )
