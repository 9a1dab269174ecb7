"""Answers errors as RFC 9457 problems: the one table of errors and answers, and the middlewares."""

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
from domain.adapters.masking import mask_text
from domain.views import timestamp
from gateway.edge.answers import request_id
from gateway.edge.returns import Returns

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to one class of errors.

    `is_retryable`: the caller may send the same request again, with the same key. `is_last`: the
    server closes the connection after this answer, because the next bytes can be the rest of this
    request.
    """

    status: int
    code: str
    title: str
    is_retryable: bool = False
    headers: Mapping[str, str] | None = None
    is_last: bool = False


# Makes the page of a problem, for a path that a person opens in a browser. None for other paths.
MakePage = Callable[[web.Request, Problem], web.Response | None]
PROBLEM_PAGE: web.AppKey[MakePage] = web.AppKey("problem_page")

_RETRY_SOON = {"Retry-After": "1"}
_RETRY_LATER = {"Retry-After": "2"}  # only if the error says nothing better

RETURNS = Returns()


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
    errors.LimitExceeded: Problem(422, "limit_exceeded", "A limit does not allow the payment"),
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
    errors.EndpointNotFound: Problem(404, "webhook_endpoint_not_found", "No such webhook endpoint"),
    errors.DeliveryNotFound: Problem(404, "webhook_delivery_not_found", "No such delivery"),
    errors.EndpointNotEnabled: Problem(
        409, "webhook_endpoint_not_enabled", "The webhook endpoint is not enabled"
    ),
    errors.TooManyEndpoints: Problem(
        409, "too_many_webhook_endpoints", "Too many webhook endpoints"
    ),
    errors.BodyBroken: Problem(
        400, "malformed_http", "The service does not accept this form of HTTP", is_last=True
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
    414: Problem(414, "url_too_long", "The URL is too long", is_last=True),
    431: Problem(431, "headers_too_large", "The headers are too large", is_last=True),
}
BUG = Problem(500, "internal_error", "Something went wrong on our side", True)


def problem_of(error: errors.PaymentServiceError) -> Problem:
    """The problem of the nearest class of `error` in the table, else `BUG`."""
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), BUG)


@web.middleware
async def answer_with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware: answer every error with a problem, without stack trace or secret."""
    try:
        return await handler(request)
    except errors.PaymentServiceError as error:
        problem = problem_of(error)
        if isinstance(error, errors.LimitExceeded | errors.RateLimited):
            observability.limited.labels(limit=error.limit).inc()
        if problem is BUG:
            log.exception("unmapped_error", request_id=request_id(request))
        return _problem_response(
            request, problem, error.message, more=extra_members(error), headers=_retry_after(error)
        )
    except web.HTTPException as error:
        problem, headers = _http_problem(error), _allow_header(error)
        return _problem_response(request, problem, _http_detail(error), headers=headers)
    except Exception:
        # The log shows the route's pattern, because the path and the body can contain a phone
        # number.
        log.exception("request_failed", request_id=request_id(request), route=_route(request))
        detail = "You may send the same request again, with the same key."
        return _problem_response(request, BUG, detail)


@web.middleware
async def answer_with_statuses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware: answer every error with its bare status.

    Daraja does not read problems, and a forger should learn nothing from them.
    """
    headers = {}
    try:
        return await handler(request)
    except errors.PaymentServiceError as error:
        problem = problem_of(error)
        if problem is BUG:
            log.exception("unmapped_error", request_id=request_id(request))
    except web.HTTPException as error:
        problem = _http_problem(error)
        headers = _allow_header(error)
    except Exception:
        log.exception("request_failed", request_id=request_id(request), route=_route(request))
        problem = BUG
    observability.callbacks_refused.labels(reason=problem.code).inc()
    response = web.Response(status=problem.status, headers={**(problem.headers or {}), **headers})
    if problem.is_last:
        response.force_close()
    return response


def extra_members(error: errors.PaymentServiceError) -> dict[str, Any]:
    """The additional members that the problem of `error` has (RFC 9457 §3.2)."""
    match error:
        case errors.InvalidRequest():
            # A pointer repeats the caller's field names. Mask it, because a caller can send a phone
            # number as a field name by mistake.
            faults = [
                (mask_text(_encodable(item.pointer)), _encodable(item.detail))
                for item in error.errors
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


def problem_body(problem: Problem, detail: str) -> dict[str, Any]:
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
    """The Retry-After header: the wait of a rate limit, rounded up; a random time for a 503."""
    match error:
        case errors.RateLimited():
            return {"Retry-After": str(math.ceil(error.wait_seconds))}
        case errors.Unavailable():
            return {"Retry-After": str(RETURNS.seconds())}
        case _:
            return {}


def _http_problem(error: web.HTTPException) -> Problem:
    return HTTP_PROBLEMS.get(error.status, Problem(error.status, "http_error", error.reason))


def _http_detail(error: web.HTTPException) -> str:
    match error:
        case web.HTTPBadRequest() | web.HTTPRequestHeaderFieldsTooLarge():
            return error.text or ""  # `http_faults.py` wrote it
        case web.HTTPMethodNotAllowed():
            return f"This path takes only {', '.join(sorted(error.allowed_methods))}."
        case web.HTTPNotFound():
            return "No such route. /openapi.json lists all routes of the API."
        case _:
            return f"{_http_problem(error).title}."


def _allow_header(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _problem_response(
    request: web.Request,
    problem: Problem,
    detail: str,
    *,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    observability.refused.labels(code=problem.code).inc()
    make_page = request.app.get(PROBLEM_PAGE)
    response = None if make_page is None else make_page(request, problem)
    if response is None:
        response = web.Response(
            body=orjson.dumps({**problem_body(problem, detail), **(more or {})}),
            status=problem.status,
            content_type="application/problem+json",
        )
    response.headers.update({**(problem.headers or {}), **(headers or {})})
    if problem.is_last:
        response.force_close()
    return response


def _encodable(text: str) -> str:
    """`text` with escapes in place of unpaired surrogates.

    A caller's field name can contain such a surrogate, and orjson refuses to write it.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else observability.UNKNOWN_ROUTE
