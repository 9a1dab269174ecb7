"""Web pages of configured origins may call the API and read every answer. Other pages may not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import product

import aiohttp
import pytest

from tests.stack.lending import Lending
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_OURS, _OTHER_OF_OURS = "https://app.example.co.ke", "http://localhost:5173"
_DEPOSIT = {"amount": 9, "phone_number": "0711000111"}
_EXPOSED = {"Location", "Idempotency-Replayed", "Retry-After", "WWW-Authenticate", "X-Request-Id"}
_ROUTES = [
    ("POST", "/v1/deposits"),
    ("POST", "/v1/withdrawals"),
    ("POST", "/v1/bill-payments"),
    ("POST", "/v1/pochi-payments"),
    ("GET", "/v1/payments"),
    ("GET", "/v1/events"),
    ("GET", "/v1/payments/x"),
    ("POST", "/v1/payments/x/cancel"),
    ("GET", "/v1/payments/x/history"),
    ("POST", "/v1/webhook-endpoints"),
    ("PATCH", "/v1/webhook-endpoints/x"),
    ("DELETE", "/v1/webhook-endpoints/x"),
]


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    """A stack whose first web process allows two origins. Its second web process allows none."""
    named: dict[str, str | None] = {"CORS_ALLOWED_ORIGINS": f"{_OURS}, {_OTHER_OF_OURS}"}
    shape = Shape(processes=("web",), webs=2, process_env={"web.1": named})
    async with lending.stack(shape) as stack:
        yield stack


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


def _cors_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower().startswith("access-control-")
    }


def _preflight(method: str, origin: str = _OURS, wanted: str = "authorization") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": wanted,
    }


async def test_a_configured_origin_passes_the_preflight(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """The preflight needs no token. Its answer never allows cookies or all origins."""
    wanted = {
        "authorization",
        "content-type",
        "idempotency-key",
        "x-idempotency-key",
        "last-event-id",
    }
    for origin, (method, path) in product((_OURS, _OTHER_OF_OURS), _ROUTES):
        headers = _preflight(method, origin, ",".join(wanted))
        async with http.options(stack.web_url + path, headers=headers) as answer:
            assert answer.status == 200, path
            cors = _cors_headers(answer.headers)
            assert cors["access-control-allow-origin"] == origin
            assert cors["access-control-allow-methods"] == method
            assert set(cors["access-control-allow-headers"].lower().split(",")) == wanted
            assert "access-control-allow-credentials" not in cors
            assert answer.headers.getall("Vary") == ["Origin"]


async def test_an_expectation_changes_no_preflight(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """A library adds the preflight routes, so our check of Expect does not apply to them."""
    headers = {**_preflight("POST"), "Expect": "cow"}
    async with http.options(stack.web_url + "/v1/deposits", headers=headers) as answer:
        assert answer.status == 200


_NOT_ALLOWED = {
    "another origin": _preflight("POST", "https://evil.example"),
    "a longer origin": _preflight("POST", _OURS + ".evil.example"),
    "the origin with another scheme": _preflight("POST", _OURS.replace("https", "http")),
    "the origin on another port": _preflight("POST", _OURS + ":8443"),
    "the origin in capitals": _preflight("POST", _OURS.upper()),
    "the origin null": _preflight("POST", "null"),
    "an asterisk as origin": _preflight("POST", "*"),
    "another method": _preflight("DELETE"),
    "another header": _preflight("POST", wanted="x-forwarded-for"),
    "no method": {"Origin": _OURS},
    "no origin": {"Access-Control-Request-Method": "POST"},
}


async def test_a_preflight_for_another_origin_method_or_header_is_refused(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """The answer is a problem that repeats no part of the request."""
    for case, headers in _NOT_ALLOWED.items():
        async with http.options(stack.web_url + "/v1/deposits", headers=headers) as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"]) == (403, "origin_not_allowed"), case
            assert _cors_headers(answer.headers) == {}, case
            assert "example" not in await answer.text(), case


async def test_a_page_of_a_configured_origin_may_read_refusals_too(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """The page may read the headers, too. A page of another origin may read no answer."""
    token = {"Authorization": f"Bearer {stack.issuer.user_token()}"}
    key = {"X-Idempotency-Key": "k1"}
    cases: list[tuple[int, str, str, dict[str, str], object]] = [
        (202, "POST", "/v1/deposits", token | key, _DEPOSIT),
        (200, "GET", "/v1/payments", token, None),
        (400, "POST", "/v1/deposits", token, _DEPOSIT),
        (401, "GET", "/v1/payments", {}, None),
        (403, "POST", "/v1/withdrawals", token | {"X-Idempotency-Key": "k2"}, {"amount": 10}),
        (404, "GET", "/v1/payments/x", token, None),
        (422, "POST", "/v1/deposits", token | {"X-Idempotency-Key": "k3"}, {}),
    ]
    evil = "https://evil.example"
    for (status, method, path, headers, body), origin in product(cases, (_OURS, evil)):
        sent = {**headers, "Origin": origin}
        async with http.request(method, stack.web_url + path, headers=sent, json=body) as answer:
            assert answer.status == status, await answer.text()
            assert answer.headers.getall("Vary") == ["Origin"]
            cors = _cors_headers(answer.headers)
        if origin == _OURS:
            assert cors.pop("access-control-allow-origin") == _OURS
            assert set(cors.pop("access-control-expose-headers").split(",")) == _EXPOSED
        assert cors == {}


async def test_no_page_may_call_without_the_setting(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """With the setting, a page still may not read the metrics."""
    closed = stack.process("web.2").url
    async with http.options(closed + "/v1/deposits", headers=_preflight("POST")) as answer:
        assert answer.status == 405
        assert _cors_headers(answer.headers) == {}
    for url in (closed + "/v1/payments", stack.web_url + "/metrics"):
        async with http.get(url, headers={"Origin": _OURS}) as answer:
            assert _cors_headers(answer.headers) == {}


async def test_an_answer_has_no_banner_and_is_not_cached(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """The routes are health routes, a route that needs a token, and an unknown route."""
    for path in ("/healthz", "/readyz", "/metrics", "/v1/payments", "/nowhere"):
        async with http.get(stack.web_url + path) as answer:
            assert "Server" not in answer.headers
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
