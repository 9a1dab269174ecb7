"""Sends requests with any header, any body and any token, and checks the shape of refusals."""

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
    """A client whose token has these claims (`sub`, `role`, …; see `Issuer.mint`)."""
    async with Client(system.stack.web_url, system.stack.issuer.mint(**claims)) as client:
        yield client


def new_subject() -> str:
    """A new `sub`: a caller that the service has never seen."""
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
    """Send one request to the ingress, with these headers only.

    The caller is the shared app user, unless `token` is given ("" sends no token).
    """
    all_headers = CIMultiDict(headers)
    bearer = system.stack.issuer.user_token() if token is None else token
    if bearer:
        all_headers.add("Authorization", f"Bearer {bearer}")
    async with system.http.request(
        method,
        system.stack.web_url + path,
        headers=all_headers,
        data=data,
        skip_auto_headers=("Content-Type",),
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
    """Post `body` (bytes unchanged, anything else as JSON) with a new idempotency key."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = [
        ("X-Idempotency-Key", key or str(uuid4())),
        ("Content-Type", "application/json"),
        *headers,
    ]
    return await send_request(system, "POST", path, headers=named, data=data, token=token)


async def cancel(system: System, payment_id: str) -> Answer:
    """Cancel the payment as a backend."""
    token = system.stack.issuer.backend_token()
    return await send_request(system, "POST", f"/v1/payments/{payment_id}/cancel", token=token)


def expect_problem(answer: Answer, status: int, code: str) -> Any:
    """Check that the answer is a refusal of this kind, and return its problem details."""
    media = answer.expect(status).headers["Content-Type"].partition(";")[0]
    assert media == "application/problem+json", answer.headers
    problem = answer.json()
    required = {"type", "title", "status", "detail", "code", "retryable"}
    optional = {"errors", "limit", "maximum", "resets_at"}
    assert required <= set(problem) <= required | optional, problem
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert isinstance(problem["retryable"], bool), problem
    for name in ("type", "title", "detail"):
        assert isinstance(problem[name], str), problem
        assert problem[name], problem
    for fault in problem.get("errors", []):
        assert set(fault) == {"pointer", "detail"}, problem
        assert fault["detail"], problem
    assert b"Traceback" not in answer.body
    assert b'File "' not in answer.body
    return problem


def pointers(problem_details: Any) -> set[str]:
    """The JSON pointers of the fields that the problem names."""
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
