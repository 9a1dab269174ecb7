"""Asks the service as no good client would: any header, any body, any token.

Every refusal is checked for its shape.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from multidict import CIMultiDict

from tests.spec.system import System
from tests.stack.client import Answer, Client

DEPOSIT = {"amount": 250, "phone_number": "0711000111"}
WITHDRAWAL = {"amount": 1200, "phone_number": "0722000222"}
BILL_PAYMENT = {"amount": 830, "paybill": "888880", "account_reference": "METER7731"}
POCHI_PAYMENT = {"amount": 640, "phone_number": "0733000333"}

Headers = Sequence[tuple[str, str]]


@asynccontextmanager
async def caller(system: System, **claims: Any) -> AsyncIterator[Client]:
    """A client with a token of its own: `sub`, `role` and whatever else `Issuer.mint` takes."""
    async with Client(system.stack.web_url, system.stack.issuer.mint(**claims)) as client:
        yield client


def new_subject() -> str:
    """A `sub` that nobody had before."""
    return str(uuid4())


async def send_request(
    system: System,
    method: str,
    path: str,
    *,
    headers: Headers = (),
    data: Any = None,
    token: str | None = None,
) -> Answer:
    """One request to the ingress, with just these headers; as the shared app user, unless a
    token (or "") is given.
    """
    all_headers = CIMultiDict(headers)
    bearer = system.stack.issuer.user_token() if token is None else token
    if bearer:
        all_headers.add("Authorization", f"Bearer {bearer}")
    url = system.stack.web_url + path
    skipped = ("Content-Type",)
    async with system.http.request(
        method,
        url,
        headers=all_headers,
        data=data,
        skip_auto_headers=skipped,
        allow_redirects=False,
    ) as answer:
        return Answer(f"{method} {path}", answer.status, answer.headers, await answer.read())


async def post(
    system: System,
    path: str,
    body: Any,
    *,
    key: str | None = None,
    token: str | None = None,
    headers: Headers = (),
) -> Answer:
    """One POST of `body` (bytes as they are, else as JSON), with a key of its own."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = [
        ("X-Idempotency-Key", key or str(uuid4())),
        ("Content-Type", "application/json"),
        *headers,
    ]
    return await send_request(system, "POST", path, headers=named, data=data, token=token)


def expect_problem(answer: Answer, status: int, code: str) -> Any:
    """The answer's problem, once it has the shape that every refusal has."""
    answer.expect(status)
    assert answer.headers["Content-Type"].partition(";")[0] == "application/problem+json", (
        answer.headers
    )
    problem_details = answer.json()
    wanted = {"type", "title", "status", "detail", "code", "retryable"}
    assert wanted <= set(problem_details) <= wanted | {"errors", "limit", "maximum", "resets_at"}, (
        problem_details
    )
    assert (
        problem_details["status"],
        problem_details["code"],
        type(problem_details["retryable"]),
    ) == (status, code, bool), problem_details
    assert all(
        isinstance(problem_details[name], str) and problem_details[name]
        for name in ("type", "title", "detail")
    ), problem_details
    for fault in problem_details.get("errors", []):
        assert set(fault) == {"pointer", "detail"}, problem_details
        assert fault["detail"], problem_details
    assert b"Traceback" not in answer.body
    assert b'File "' not in answer.body
    return problem_details


def pointers(problem_details: Any) -> set[str]:
    """The fields that a problem names."""
    return {fault["pointer"] for fault in problem_details["errors"]}


# No payment has this id. It is a constant, because ids of parametrized tests must not change
# between two collections.
UNKNOWN_PAYMENT_ID = "0199a0b1-c2d3-7e4f-8a5b-123456789012"


_PHONES = iter(range(733_000_000, 734_000_000))


def new_phone_number() -> str:
    """A phone number that no other test uses."""
    return f"0{next(_PHONES)}"


def deposit_body(amount: int = 100, **more: Any) -> dict[str, Any]:
    return {"amount": amount, "phone_number": new_phone_number(), **more}
