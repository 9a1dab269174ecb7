"""Each error that can reach a caller is answered as an HTTP problem without secrets."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from domain import errors
from domain.errors import (
    ClaimUnknown,
    FieldError,
    InvalidRequest,
    PaymentServiceError,
    ProviderError,
    RequestRefused,
    ResolutionRefused,
    Unavailable,
)
from gateway.edge.problems import PROBLEMS, answer_with_problems, problem_of

# error, status, code, whether the same request may be sent again
TABLE = [
    (errors.InvalidJson, 400, "invalid_json", False),
    (errors.IdempotencyKeyMissing, 400, "idempotency_key_missing", False),
    (errors.IdempotencyKeyInvalid, 400, "idempotency_key_invalid", False),
    (errors.Unauthenticated, 401, "unauthenticated", False),
    (errors.ExpiredToken, 401, "unauthenticated", False),
    (errors.UnknownKey, 401, "unauthenticated", False),
    (errors.NotPermitted, 403, "not_permitted", False),
    (errors.LimitExceeded, 422, "limit_exceeded", False),
    (errors.RateLimited, 429, "rate_limited", True),
    (errors.PaymentNotFound, 404, "payment_not_found", False),
    (errors.IdempotencyKeyInFlight, 409, "idempotency_key_in_flight", True),
    (errors.TooLateToCancel, 409, "too_late_to_cancel", False),
    (errors.EndpointNotFound, 404, "webhook_endpoint_not_found", False),
    (errors.DeliveryNotFound, 404, "webhook_delivery_not_found", False),
    (errors.EndpointNotEnabled, 409, "webhook_endpoint_not_enabled", False),
    (errors.TooManyEndpoints, 409, "too_many_webhook_endpoints", False),
    (errors.BodyBroken, 400, "malformed_http", False),
    (errors.BodyTooSlow, 408, "request_timeout", True),
    (errors.BodyTooLarge, 413, "body_too_large", False),
    (errors.UnsupportedMediaType, 415, "unsupported_media_type", False),
    (errors.InvalidRequest, 422, "invalid_request", False),
    (errors.IdempotencyKeyReused, 422, "idempotency_key_reused", False),
    (errors.Unavailable, 503, "unavailable", True),
    (errors.StoreUnavailable, 503, "unavailable", True),
    (errors.QueueUnavailable, 503, "unavailable", True),
    (errors.KeysUnavailable, 503, "unavailable", True),
    (errors.Overloaded, 503, "unavailable", True),
    (errors.CommitOutcomeUnknown, 503, "unavailable", True),
]

# Members that only some problems have.
MEMBERS: dict[type[PaymentServiceError], dict[str, object]] = {
    InvalidRequest: {"errors": [{"pointer": "/amount", "detail": "is required"}]},
    errors.LimitExceeded: {
        "limit": "phone.amount_per_day",
        "maximum": 500_000,
        "resets_at": "2026-03-01T21:00:00.000Z",
    },
    errors.RateLimited: {"limit": "caller.requests_per_second"},
}

MIDNIGHT = datetime(2026, 3, 1, 21, tzinfo=UTC)


def make_error(kind: type[PaymentServiceError]) -> PaymentServiceError:
    if kind is InvalidRequest:
        return InvalidRequest([FieldError("/amount", "is required")])
    if kind is errors.LimitExceeded:
        return errors.LimitExceeded(
            "Too much.", limit="phone.amount_per_day", maximum=500_000, resets_at=MIDNIGHT
        )
    if kind is errors.RateLimited:
        return errors.RateLimited("Too soon.", limit="caller.requests_per_second", wait_seconds=0.2)
    return kind()


async def answer_error(error: Exception) -> tuple[web.Response, dict[str, object]]:
    async def handler(_request: web.Request) -> web.StreamResponse:
        raise error

    request = make_mocked_request("POST", "/v1/deposits", app=web.Application())
    response = await answer_with_problems(request, handler)
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response, json.loads(response.body)


@pytest.mark.parametrize(("kind", "status", "code", "is_retryable"), TABLE)
async def test_an_error_is_answered_with_its_problem(
    kind: type[PaymentServiceError], status: int, code: str, *, is_retryable: bool
) -> None:
    """A retryable answer has Retry-After, except the answer to a slow body."""
    response, body = await answer_error(make_error(kind))
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert body == {
        "type": f"urn:mkwanja:problem:{code}",
        "title": problem_of(make_error(kind)).title,
        "status": status,
        "detail": make_error(kind).message,
        "code": code,
        "retryable": is_retryable,
        **MEMBERS.get(kind, {}),
    }
    assert ("Retry-After" in response.headers) == (is_retryable and status != 408)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


def subclasses(kind: type[PaymentServiceError]) -> set[type[PaymentServiceError]]:
    return (
        {kind}.union(*map(subclasses, kind.__subclasses__())) if kind.__subclasses__() else {kind}
    )


def test_every_error_that_can_reach_a_caller_is_in_the_table() -> None:
    """A new error must be added to the table. Daraja's errors never reach a caller."""
    of_workers = {ClaimUnknown, ResolutionRefused}  # an operator sees them on the command line
    reach_the_edge = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PaymentServiceError)
    } - {PaymentServiceError, RequestRefused, *of_workers, *subclasses(ProviderError)}
    assert {kind for kind, *_ in TABLE} == reach_the_edge
    assert set(PROBLEMS) <= reach_the_edge


def test_each_refusal_has_a_code_of_its_own() -> None:
    assert len({problem.code for problem in PROBLEMS.values()}) == len(PROBLEMS)
    assert all(issubclass(kind, RequestRefused | Unavailable) for kind in PROBLEMS)


async def test_an_error_of_daraja_is_answered_as_an_internal_error() -> None:
    response, body = await answer_error(errors.OutcomeUnknown("host 10.1.2.3 refused"))
    assert (response.status, body["code"], body["retryable"]) == (500, "internal_error", True)


async def test_a_bug_is_answered_without_its_message() -> None:
    response, body = await answer_error(RuntimeError("password=S3cret in /srv/app.py"))
    assert (response.status, body["code"]) == (500, "internal_error")
    assert "S3cret" not in json.dumps(body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (web.HTTPNotFound(), 404, "route_not_found"),
        (web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), 405, "method_not_allowed"),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "body_too_large"),
        (web.HTTPBadRequest(), 400, "malformed_http"),
        (web.HTTPForbidden(), 403, "origin_not_allowed"),
        (web.HTTPRequestURITooLong(), 414, "url_too_long"),
        (web.HTTPRequestHeaderFieldsTooLarge(), 431, "headers_too_large"),
        (web.HTTPGone(), 410, "http_error"),
    ],
)
async def test_aiohttps_own_refusals_are_problems_too(
    error: web.HTTPException, status: int, code: str
) -> None:
    response, body = await answer_error(error)
    assert (response.status, body["code"]) == (status, code)
    assert response.content_type == "application/problem+json"
    assert response.headers.get("Allow") == ("GET,POST" if status == 405 else None)
    assert ("takes only GET, POST." in str(body["detail"])) == (status == 405)


async def test_a_field_name_that_json_cannot_encode_is_escaped() -> None:
    fault = FieldError("/\ud800", "is not a known field: \udfff")
    _, body = await answer_error(InvalidRequest([fault]))
    assert body["errors"] == [{"pointer": "/\\ud800", "detail": "is not a known field: \\udfff"}]


def test_the_message_of_every_error_is_a_sentence() -> None:
    for kind in subclasses(PaymentServiceError) - {InvalidRequest, errors.Refused}:
        assert make_error(kind).message.endswith("."), kind


@pytest.mark.parametrize(("wait_seconds", "retry_after"), [(0.001, "1"), (1.0, "1"), (59.2, "60")])
async def test_retry_after_is_in_whole_seconds_rounded_up(
    wait_seconds: float, retry_after: str
) -> None:
    error = errors.RateLimited("Too soon.", limit="caller", wait_seconds=wait_seconds)
    response, _ = await answer_error(error)
    assert response.headers["Retry-After"] == retry_after
