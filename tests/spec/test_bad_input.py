"""Refused requests: each gets its documented status and code, and nothing is stored.

`tests/unit/test_schemas.py` and the files beside it have the wrong values of each field.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    UNKNOWN_PAYMENT_ID,
    WITHDRAWAL,
    Headers,
    expect_problem,
    pointers,
    post,
    send_request,
)
from tests.spec.system import System

_JSON = ("Content-Type", "application/json")
_BYTES_MAX = 16 * 1024


async def _traces(system: System) -> tuple[Any, Any]:
    """The numbers of stored rows, and the requests to Daraja. A refused request adds none."""
    rows = await system.rows(
        "SELECT (SELECT count(*) FROM mkwanja.payments) AS payments,"
        " (SELECT count(*) FROM mkwanja.idempotency_keys) AS keys,"
        " (SELECT count(*) FROM mkwanja.attempts) AS attempts"
    )
    requests = await system.control("GET", "/requests")
    return rows, [item for item in requests["items"] if "/oauth/" not in item["path"]]


@pytest.fixture
async def quiet(system: System) -> AsyncIterator[System]:
    """A system that must store nothing and send nothing to Daraja during the test."""
    await system.eventually(
        lambda: system.rows(
            "SELECT id FROM mkwanja.payments WHERE stage IN ('accepted', 'submitting')"
        ),
        lambda rows: not rows,
    )
    before = await _traces(system)
    yield system
    assert await _traces(system) == before


# Route, body, and the fields that the refusal names.
_FIELDS: list[tuple[str, Any, set[str]]] = [
    ("deposits", None, {""}),
    ("deposits", [DEPOSIT], {""}),
    ("deposits", {}, {"/amount", "/phone_number"}),
    ("deposits", {**DEPOSIT, "phone_number": "0711000111\n"}, {"/phone_number"}),
    ("deposits", {**DEPOSIT, "phone_number": 254711000111}, {"/phone_number"}),
    ("deposits", {**DEPOSIT, "a/b~c": 1, "": 1}, {"/a~1b~0c", "/"}),
    (
        "deposits",
        {**DEPOSIT, "metadata": {"k": "a\0b", "l": "\ud83d"}},
        {"/metadata/k", "/metadata/l"},
    ),
    ("deposits", b'{"phone_number": "0711000111", "amount": 100.0}', {"/amount"}),
    ("deposits", b'{"phone_number": "0711000111", "amount": 1e999}', {"/amount"}),
    ("deposits", b'{"phone_number": "0711000111", "amount": %s}' % (b"9" * 400), {"/amount"}),
    ("deposits?amount=5", DEPOSIT, {"?amount"}),
    ("withdrawals", {**WITHDRAWAL, "amount": 9, "purpose": "gift"}, {"/amount", "/purpose"}),
    ("bill-payments", {**BILL_PAYMENT, "till": "556677"}, {"/till"}),
    (
        "bill-payments",
        {"amount": 0, "remarks": "", "color": 1},
        {"/amount", "/paybill", "/remarks", "/color"},
    ),
]


async def test_a_refusal_names_every_wrong_field(quiet: System) -> None:
    """422 invalid_request names each wrong, missing or unknown field, and no other."""
    backend = quiet.stack.issuer.backend_token()
    answers = await asyncio.gather(
        *(post(quiet, f"/v1/{route}", body, token=backend) for route, body, _ in _FIELDS)
    )
    for answer, (_, body, fields) in zip(answers, _FIELDS, strict=True):
        problem = expect_problem(answer, 422, "invalid_request")
        assert (pointers(problem), problem["retryable"]) == (fields, False), body


async def test_the_service_refuses_a_body_that_is_not_json(quiet: System) -> None:
    """A body gets 400 if RFC 8259 does not allow it, or if two parsers may read it differently."""
    for empty in (b"", b" \n"):
        problem = expect_problem(await post(quiet, "/v1/deposits", empty), 400, "invalid_json")
        assert "The body is empty" in problem["detail"]
    for body in (
        *(b'{"amount":', b'{"amount":NaN}', b'{"description":"\xff\xfe"}'),
        *(b'{"amount":1,"\\u0061mount":2}', b'{"a":' * 100 + b"1" + b"}" * 100),
        *(b'{"amount":' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}"),
    ):
        expect_problem(await post(quiet, "/v1/deposits", body), 400, "invalid_json")


async def _post_deposit(system: System, *headers: tuple[str, str], code: str, status: int) -> None:
    """Post a deposit with these headers only, and expect a refusal."""
    body = json.dumps(DEPOSIT).encode()
    answer = await send_request(system, "POST", "/v1/deposits", headers=headers, data=body)
    expect_problem(answer, status, code)


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ([], "missing"),
        ([("X-Idempotency-Key", "one key")], "invalid"),
        ([("X-Idempotency-Key", "a"), ("X-Idempotency-Key", "a")], "invalid"),
        ([("X-Idempotency-Key", "a"), ("Idempotency-Key", "b")], "invalid"),
    ],
)
async def test_a_payment_needs_exactly_one_idempotency_key(
    quiet: System, headers: Headers, fault: str
) -> None:
    await _post_deposit(quiet, *headers, _JSON, status=400, code=f"idempotency_key_{fault}")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Type", "text/plain")],
        [("Content-Type", "application/json-patch+json")],
        [("Content-Type", "rubbish")],
        [("Content-Type", "application/json; charset=utf-16")],
        [_JSON, ("Content-Encoding", "gzip")],
        [_JSON, ("Content-Encoding", "gzip, identity")],
    ],
)
async def test_the_service_reads_only_json_in_utf8(quiet: System, headers: Headers) -> None:
    key = ("X-Idempotency-Key", str(uuid4()))
    await _post_deposit(quiet, key, *headers, status=415, code="unsupported_media_type")


async def test_the_service_refuses_a_body_above_sixteen_kib(quiet: System) -> None:
    """The answer is 413, also if the body comes in chunks. Exactly 16 KiB are still parsed."""

    async def in_chunks() -> AsyncIterator[bytes]:
        for size in (_BYTES_MAX, 1):
            yield b" " * size

    too_large = b" " * (_BYTES_MAX + 1)
    expect_problem(await post(quiet, "/v1/deposits", too_large), 413, "body_too_large")
    headers = [("X-Idempotency-Key", str(uuid4())), _JSON]
    answer = await send_request(quiet, "POST", "/v1/deposits", headers=headers, data=in_chunks())
    expect_problem(answer, 413, "body_too_large")
    expect_problem(await post(quiet, "/v1/deposits", too_large[1:]), 400, "invalid_json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/deposits/", 404),
        ("POST", "/results/x/deposit/y", 404),
        ("GET", "/v1/payments/x/y/z", 404),
        ("GET", "/v1/payments/%00", 404),
        ("GET", "/v1/payments/%FF", 404),
        ("GET", f"/v1/payments/{UNKNOWN_PAYMENT_ID}/history", 404),
        ("POST", f"/v1/payments/{UNKNOWN_PAYMENT_ID}/cancel", 404),
        ("GET", "/v1/deposits", 405),
        ("POST", "/v1/payments", 405),
        ("DELETE", "/v1/payments/x", 405),
    ],
)
async def test_unknown_routes_and_wrong_methods_are_answered_with_problems(
    quiet: System, method: str, path: str, status: int
) -> None:
    """An unknown route or payment gets 404. A wrong method gets 405 with an Allow header."""
    answer = await send_request(quiet, method, path)
    problem = expect_problem(answer, status, answer.json()["code"])
    assert ("Allow" in answer.headers) == (status == 405)
    allowed = answer.headers.get("Allow", "").split(",")
    assert ", ".join(allowed) in problem["detail"]
