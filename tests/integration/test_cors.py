"""Web pages of the origins that are named may call and read what they are told, refusals
included; others may not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from tests.stack.lending import Lending
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_OURS, _OTHER_OF_OURS = "https://app.example.co.ke", "http://localhost:5173"
_DEPOSIT = {"amount": 9, "phone_number": "0711000111"}
_EXPOSED = {"Location", "Idempotency-Replayed", "Retry-After", "WWW-Authenticate"}
_ROUTES = [
    ("POST", "/v1/deposits"),
    ("POST", "/v1/withdrawals"),
    ("POST", "/v1/bill-payments"),
    ("GET", "/v1/payments"),
    ("GET", "/v1/events"),
    ("GET", "/v1/payments/x"),
    ("POST", "/v1/payments/x/cancel"),
    ("GET", "/v1/payments/x/history"),
]


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    """The first web process names two origins, the second none."""
    named: dict[str, str | None] = {"CORS_ALLOWED_ORIGINS": f"{_OURS}, {_OTHER_OF_OURS}"}
    shape = Shape(processes=("web",), webs=2, process_env={"web.1": named})
    async with lending.stack(shape) as stack:
        yield stack


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


def _allowed(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower().startswith("access-control-")
    }


def _preflight(
    method: str, origin: str = _OURS, asked: str = "authorization,content-type"
) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": asked,
    }


@pytest.mark.parametrize("origin", [_OURS, _OTHER_OF_OURS])
@pytest.mark.parametrize(("method", "path"), _ROUTES)
async def test_a_named_origin_may_ask(
    stack: Stack, http: aiohttp.ClientSession, origin: str, method: str, path: str
) -> None:
    """A browser that asks first, without a token, is told which headers may be sent; never
    cookies, never any origin.
    """
    asked = "authorization,content-type,idempotency-key,x-idempotency-key"
    async with http.options(
        stack.web_url + path, headers=_preflight(method, origin, asked)
    ) as answer:
        assert answer.status == 200
        said = _allowed(answer.headers)
        assert said["access-control-allow-origin"] == origin
        assert said["access-control-allow-methods"] == method
        assert {name.lower() for name in said["access-control-allow-headers"].split(",")} == set(
            asked.split(",")
        )
        assert "access-control-allow-credentials" not in said
        assert answer.headers.getall("Vary") == ["Origin"]


async def test_an_expectation_changes_no_preflight(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """The routes of preflights are made by a library, which knows nothing of our answer to
    Expect.
    """
    headers = {**_preflight("POST"), "Expect": "cow"}
    async with http.options(stack.web_url + "/v1/deposits", headers=headers) as answer:
        assert answer.status == 200


_NOT_ALLOWED = {
    "another origin": _preflight("POST", "https://evil.example"),
    "a longer origin": _preflight("POST", _OURS + ".evil.example"),
    "the origin by another scheme": _preflight("POST", _OURS.replace("https", "http")),
    "the origin on another port": _preflight("POST", _OURS + ":8443"),
    "the origin in capitals": _preflight("POST", _OURS.upper()),
    "no origin of its own": _preflight("POST", "null"),
    "any origin": _preflight("POST", "*"),
    "another method": _preflight("DELETE"),
    "another header": _preflight("POST", asked="x-forwarded-for"),
    "no method": {"Origin": _OURS},
    "no origin": {"Access-Control-Request-Method": "POST"},
}


@pytest.mark.parametrize("what", _NOT_ALLOWED)
async def test_what_is_not_named_may_not(
    stack: Stack, http: aiohttp.ClientSession, what: str
) -> None:
    """A question for another origin, method or header is refused as a problem that repeats
    nothing of it.
    """
    async with http.options(stack.web_url + "/v1/deposits", headers=_NOT_ALLOWED[what]) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (
            403,
            "origin_not_allowed",
        )
        assert _allowed(answer.headers) == {}
        assert "example" not in await answer.text()


async def test_a_page_reads_every_refusal(stack: Stack, http: aiohttp.ClientSession) -> None:
    """An answer of any status, from 202 to 503, may be read with its headers by a page of a
    named origin, and by no other.
    """
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
    for status, method, path, headers, body in cases:
        for origin, is_named in ((_OURS, True), ("https://evil.example", False)):
            sent = {**headers, "Origin": origin}
            async with http.request(
                method, stack.web_url + path, headers=sent, json=body
            ) as answer:
                assert answer.status == status, await answer.text()
                said = _allowed(answer.headers)
                assert answer.headers.getall("Vary") == ["Origin"]
            if is_named:
                assert said.pop("access-control-allow-origin") == _OURS
                assert set(said.pop("access-control-expose-headers").split(",")) == _EXPOSED
            assert said == {}


async def test_no_origin_is_named_unless_somebody_names_it(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """Without the setting no page may call, and the health routes are no page's business with it
    either.
    """
    closed = stack.process("web.2").url
    async with http.options(closed + "/v1/deposits", headers=_preflight("POST")) as answer:
        assert answer.status == 405
        assert _allowed(answer.headers) == {}
    for url in (closed + "/v1/payments", stack.web_url + "/metrics"):
        async with http.get(url, headers={"Origin": _OURS}) as answer:
            assert _allowed(answer.headers) == {}


async def test_an_answer_has_no_banner_and_nothing_to_keep(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """Health, success, refusal and what is not there: no Server, nothing to guess at, nothing
    for a cache.
    """
    for path in ("/healthz", "/readyz", "/metrics", "/v1/payments", "/nowhere"):
        async with http.get(stack.web_url + path) as answer:
            assert "Server" not in answer.headers
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
