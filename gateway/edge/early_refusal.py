"""Refuses requests that cannot get a place, as soon as their heads are read.

While a process is overloaded, a refusal must cost less than an answer. So the bytes of the refusal
are composed once. The process sends them without looking for the route, checking the token or
reading the body. Then it ends the connection, so that a connection that waits gets its turn.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
from aiohttp import HttpVersion11, hdrs, web

from domain.adapters import observability
from domain.errors import Overloaded
from gateway.edge.aiohttp_internals import ComposedResponse
from gateway.edge.problems import problem_body, problem_of
from gateway.edge.returns import Returns

# A function that answers a request, or returns None if the application should answer it.
AnswerEarly = Callable[[web.BaseRequest], web.StreamResponse | None]
ANSWER_EARLY: web.AppKey[AnswerEarly] = web.AppKey("answer_early")

_ERROR = Overloaded()
_PROBLEM = problem_of(_ERROR)
_BODY = orjson.dumps(problem_body(_PROBLEM, _ERROR.message))


def refuse_early(is_full: Callable[[], bool], prefix: str, returns: Returns) -> AnswerEarly:
    """Refuses requests for paths under `prefix` while `is_full`.

    A request from a web page is left to the application, which adds the headers of its origin. The
    application also refuses a request whose caller alone has too many.
    """
    answers: dict[int, ComposedResponse] = {}
    count_shed = observability.shed.labels(reason="overloaded").inc
    count_refused = observability.refused.labels(code=_PROBLEM.code).inc

    def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if (
            not is_full()
            or not request.raw_path.startswith(prefix)
            or hdrs.ORIGIN in request.headers
            or request.method == hdrs.METH_HEAD
            or request.version != HttpVersion11
        ):
            return None
        count_shed()
        count_refused()
        seconds = returns.seconds()
        if seconds not in answers:
            answers[seconds] = ComposedResponse(_PROBLEM.status, _compose(seconds))
        return answers[seconds]

    return answer


def _compose(seconds: int) -> bytes:
    """The bytes of the same answer that `answer_with_problems` makes."""
    lines = [
        f"HTTP/1.1 {_PROBLEM.status} Service Unavailable",
        f"Retry-After: {seconds}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(_BODY)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + _BODY
