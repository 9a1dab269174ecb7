"""Errors as RFC 9457 problems: the one table from our errors to HTTP, and the middleware that
applies it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import web

from domain import errors
from domain.adapters import observability
from domain.adapters.masking import masked
from domain.views import timestamp

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Problem:
    """How an error is told.

    `is_retryable`: the same request, with the same key, may be sent again. `is_last`: nothing that
    follows on the connection can be trusted to be a request, so it ends with this answer.
    """

    status: int
    code: str
    title: str
    is_retryable: bool = False
    headers: Mapping[str, str] | None = None
    is_last: bool = False


_RETRY_SOON = {"Retry-After": "1"}
_RETRY_LATER = {"Retry-After": "2"}

PROBLEMS: Mapping[type[errors.PaymentServiceError], Problem] = {
    errors.InvalidJson: Problem(400, "invalid_json", "The body is not valid JSON"),
    errors.IdempotencyKeyMissing: Problem(400, "idempotency_key_missing", "No idempotency key"),
    errors.IdempotencyKeyInvalid: Problem(
        400, "idempotency_key_invalid", "Invalid idempotency key"
    ),
    errors.Unauthenticated: Problem(
        401,
        "unauthenticated",
        "No valid token",
        headers={"WWW-Authenticate": 'Bearer realm="mkwanja"'},
    ),
    errors.NotPermitted: Problem(403, "not_permitted", "Not permitted"),
    errors.LimitExceeded: Problem(422, "limit_exceeded", "A limit does not allow it"),
    errors.RateLimited: Problem(429, "rate_limited", "Too many requests", True, _RETRY_SOON),
    errors.PaymentNotFound: Problem(404, "payment_not_found", "No such payment"),
    errors.IdempotencyKeyInFlight: Problem(
        409,
        "idempotency_key_in_flight",
        "The first request is still being accepted",
        True,
        _RETRY_SOON,
    ),
    errors.TooLateToCancel: Problem(409, "too_late_to_cancel", "Too late to cancel"),
    errors.BodyBroken: Problem(
        400, "malformed_http", "The request is not HTTP that is read here", is_last=True
    ),
    errors.BodyTooSlow: Problem(
        408, "request_timeout", "The request took too long to arrive", True, is_last=True
    ),
    errors.BodyTooLarge: Problem(413, "body_too_large", "The body is too large"),
    errors.UnsupportedMediaType: Problem(415, "unsupported_media_type", "Unsupported media type"),
    errors.InvalidRequest: Problem(422, "invalid_request", "The request has wrong values"),
    errors.IdempotencyKeyReused: Problem(
        422, "idempotency_key_reused", "The idempotency key was used before"
    ),
    errors.Unavailable: Problem(503, "unavailable", "Not available right now", True, _RETRY_LATER),
}

HTTP_PROBLEMS = {
    400: PROBLEMS[errors.BodyBroken],
    403: Problem(403, "origin_not_allowed", "Pages of this origin may not call"),
    404: Problem(404, "route_not_found", "No such route"),
    405: Problem(405, "method_not_allowed", "Method not allowed"),
    413: PROBLEMS[errors.BodyTooLarge],
    431: Problem(431, "headers_too_large", "The headers are too large", is_last=True),
}
BUG = Problem(500, "internal_error", "Something went wrong on our side", True)


def problem_of(error: errors.PaymentServiceError) -> Problem:
    """The problem of `error`'s nearest class in the table; one that is not there is a bug of
    ours.
    """
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), BUG)


@web.middleware
async def answer_with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into a problem. No stack trace, no secret, no half-done answer."""
    try:
        return await handler(request)
    except errors.PaymentServiceError as error:
        problem = problem_of(error)
        if isinstance(error, errors.LimitExceeded | errors.RateLimited):
            observability.limited.labels(limit=error.limit).inc()
        if problem is BUG:
            log.exception("unmapped_error")
        return _response(problem, error.message, more=members(error), headers=_retry_after(error))
    except web.HTTPException as error:
        known = HTTP_PROBLEMS.get(error.status, Problem(error.status, "http_error", error.reason))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _response(known, f"{known.title}.", headers=headers)
    except Exception:
        # The route, not the path or the body: those may hold a phone number.
        log.exception("request_failed", route=_route(request))
        return _response(BUG, "The same request may be sent again, with the same key.")


@web.middleware
async def answer_with_statuses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same statuses without a word, for a peer that reads no problems and should learn
    nothing.
    """
    headers = {}
    try:
        return await handler(request)
    except errors.PaymentServiceError as error:
        problem = problem_of(error)
        if problem is BUG:
            log.exception("unmapped_error")
    except web.HTTPException as error:
        problem = HTTP_PROBLEMS.get(error.status, Problem(error.status, "http_error", error.reason))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    except Exception:
        log.exception("request_failed", route=_route(request))
        problem = BUG
    observability.callbacks_refused.labels(reason=problem.code).inc()
    response = web.Response(status=problem.status, headers={**(problem.headers or {}), **headers})
    if problem.is_last:
        response.force_close()
    return response


def members(error: errors.PaymentServiceError) -> dict[str, Any]:
    """What some problems say besides (RFC 9457 §3.2)."""
    match error:
        case errors.InvalidRequest():
            # A pointer repeats the caller's own field names, which it may have filled in with a
            # phone number by mistake.
            faults = [
                (masked(_encodable(item.pointer)), _encodable(item.detail)) for item in error.errors
            ]
            return {
                "errors": [{"pointer": pointer, "detail": detail} for pointer, detail in faults]
            }
        case errors.LimitExceeded():
            resets_at = timestamp(error.resets_at) if error.resets_at else None
            return {"limit": error.limit, "maximum": error.maximum, "resets_at": resets_at}
        case errors.RateLimited():
            return {"limit": error.limit}
        case _:
            return {}


def told(problem: Problem, detail: str) -> dict[str, Any]:
    """The members that every problem has."""
    return {
        "type": f"urn:mkwanja:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": problem.code,
        "retryable": problem.is_retryable,
    }


def _retry_after(error: errors.PaymentServiceError) -> dict[str, str]:
    """Whole seconds, never too soon."""
    return (
        {"Retry-After": str(math.ceil(error.wait_seconds))}
        if isinstance(error, errors.RateLimited)
        else {}
    )


def _response(
    problem: Problem,
    detail: str,
    *,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    observability.refused.labels(code=problem.code).inc()
    response = web.Response(
        body=orjson.dumps({**told(problem, detail), **(more or {})}),
        status=problem.status,
        content_type="application/problem+json",
        headers={**(problem.headers or {}), **(headers or {})},
    )
    if problem.is_last:
        response.force_close()
    return response


def _encodable(text: str) -> str:
    """A caller's field name may hold half of a surrogate pair, which no JSON writer takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
