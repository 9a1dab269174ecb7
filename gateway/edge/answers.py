"""The headers and the log line of every answer, in both processes."""

from __future__ import annotations

import logging

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from domain.adapters.observability import UNKNOWN_ROUTE, count_request

log = structlog.get_logger()

# The pattern of a request's route, for the log.
ROUTE = web.RequestKey("route", str)
# The request waited on purpose, so its time says nothing about the service.
WAITED = web.RequestKey("waited", bool)
SLOW_SECONDS = 1.0
_OUR_FAULTS = frozenset({500, 501, 502, 504})


def add_security_headers(response: web.StreamResponse) -> None:
    """Removes the Server header, and forbids caching and guessing of the content type.

    Only an answer that says itself how long it may be cached, such as a style sheet, is cached.
    """
    response.headers.popall("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")


async def add_security_headers_to_answer(
    _request: web.Request, response: web.StreamResponse
) -> None:
    """`add_security_headers` with the signature of aiohttp's `on_response_prepare`."""
    add_security_headers(response)


class AccessLog(AbstractAccessLogger):
    """Counts each answer, and logs one line `request`: route, method, status and milliseconds.

    The line contains no text that the client wrote. Slow answers and faults of ours are logged at
    INFO. All other answers, including every 4xx and 503, are logged only at DEBUG, because a flood
    of requests must not fill the disk, and because a log line costs half as much time as a
    rejection. Metrics count the rejections.
    """

    def __init__(self, logger: logging.Logger, log_format: str) -> None:
        super().__init__(logger, log_format)
        self._logs_all = log.is_enabled_for(logging.DEBUG)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        route = request.get(ROUTE, UNKNOWN_ROUTE)
        has_waited = WAITED in request
        count_request(route, request.method, response.status, None if has_waited else time)
        is_slow = response.status < 400 and time > SLOW_SECONDS and not has_waited
        is_notable = is_slow or response.status in _OUR_FAULTS
        if not is_notable and not self._logs_all:
            return
        write_event = log.info if is_notable else log.debug
        write_event(
            "request",
            route=route,
            method=request.method,
            status=response.status,
            milliseconds=round(time * 1000, 1),
        )
