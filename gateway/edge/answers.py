"""What every answer of both processes has and has not, and what is logged of it."""

from __future__ import annotations

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

log = structlog.get_logger()

# Where a request keeps its route's pattern, for the log.
ROUTE = web.RequestKey("route", str)
SLOW_SECONDS = 1.0
_OUR_FAULTS = frozenset({500, 501, 502, 504})


def add_security_headers(response: web.StreamResponse) -> None:
    """No banner; nothing for a cache to keep or for a browser to guess at."""
    response.headers.popall("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"


async def add_security_headers_to_answer(
    _request: web.Request, response: web.StreamResponse
) -> None:
    """`add_security_headers`, as an application calls it before each answer."""
    add_security_headers(response)


class AccessLog(AbstractAccessLogger):
    """One event `request` for each answer: route, method, status, milliseconds, and nothing that
    the peer wrote.

    Ordinary answers are logged at DEBUG alone: a line for each is the peers' way to fill a disk,
    and costs half of what a refusal costs by itself. Answers that are slow or our own fault are
    there at INFO. Refusals, 503 among them, are not: a flood has many, and metrics count each.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        is_ours = response.status in _OUR_FAULTS or (response.status < 400 and time > SLOW_SECONDS)
        tell = log.info if is_ours else log.debug
        tell(
            "request",
            route=request.get(ROUTE, "unknown"),
            method=request.method,
            status=response.status,
            milliseconds=round(time * 1000, 1),
        )
