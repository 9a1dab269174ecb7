"""Refused requests: each has its pinned status and code, names every fault and stores nothing."""

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
    expect_problem,
    pointers,
    post,
    send_request,
)
from tests.spec.system import System

_JSON = ("Content-Type", "application/json")
_KIB = 1024


async def _traces(system: System) -> tuple[Any, Any]:
    """Counts of stored rows, and Daraja's requests: a refused request adds to neither."""
    rows = await system.rows(
        "SELECT (SELECT count(*) FROM mkwanja.payments) AS payments,"
        " (SELECT count(*) FROM mkwanja.idempotency_keys) AS keys,"
        " (SELECT count(*) FROM mkwanja.attempts) AS attempts"
    )
    requests = await system.control("GET", "/requests")
    return rows, [item for item in requests["items"] if "/oauth/" not in item["path"]]


@pytest.fixture
async def quiet(system: System) -> AsyncIterator[System]:
    """A system in which the test may store nothing and send nothing to Daraja."""
    await system.eventually(
        lambda: system.rows(
            "SELECT id FROM mkwanja.payments WHERE stage IN ('accepted', 'submitting')"
        ),
        lambda rows: not rows,
    )
    before = await _traces(system)
    yield system
    assert await _traces(system) == before


_AMOUNTS = [
    '"100"',
    "100.5",
    "100.0",
    "1e2",
    "true",
    "false",
    "null",
    "0",
    "-5",
    "250001",
    "1e999",
    "[100]",
    "{}",
    "9" * 400,
]

_PHONE_NUMBERS = [
    "",
    "0",
    "0711",
    "071100011",
    "07110001111",
    "0811000111",
    "0911000111",
    "0211000111",
    "254811000111",
    "711000111",
    "00254711000111",
    "+2540711000111",
    "+255711000111",
    "++254711000111",
    "254 711 000 111",
    "0711-000-111",
    " 0711000111",
    "0711000111\n",
    "07110001a1",
    "07\u0661\u0661000111",
    "0711000111\x00",
    711000111,
    254711000111,
    None,
    True,
    ["0711000111"],
]

# Route, body, and the fields that the refusal names.
_FIELDS: list[tuple[str, Any, set[str]]] = [
    *(
        ("deposits", {**DEPOSIT, "phone_number": number}, {"/phone_number"})
        for number in _PHONE_NUMBERS
    ),
    *(
        ("withdrawals", {**WITHDRAWAL, "phone_number": number}, {"/phone_number"})
        for number in _PHONE_NUMBERS[:6]
    ),
    ("deposits", {"phone_number": "0711000111"}, {"/amount"}),
    ("deposits", {"amount": 1}, {"/phone_number"}),
    ("deposits", {}, {"/amount", "/phone_number"}),
    ("deposits", {**DEPOSIT, "colour": "red"}, {"/colour"}),
    ("deposits", {**DEPOSIT, "a/b~c": 1}, {"/a~1b~0c"}),
    ("deposits", {**DEPOSIT, "": 1}, {"/"}),
    ("deposits", {**DEPOSIT, "Amount": 1}, {"/Amount"}),
    ("deposits", {**DEPOSIT, "paybill": "888880"}, {"/paybill"}),
    ("deposits", {**DEPOSIT, "remarks": "For tea"}, {"/remarks"}),
    ("deposits", {**DEPOSIT, "account_reference": "A" * 13}, {"/account_reference"}),
    ("deposits", {**DEPOSIT, "account_reference": ""}, {"/account_reference"}),
    ("deposits", {**DEPOSIT, "account_reference": "INV-1"}, {"/account_reference"}),
    ("deposits", {**DEPOSIT, "account_reference": "é"}, {"/account_reference"}),
    ("deposits", {**DEPOSIT, "account_reference": 42}, {"/account_reference"}),
    ("deposits", {**DEPOSIT, "description": "d" * 14}, {"/description"}),
    ("deposits", {**DEPOSIT, "description": ""}, {"/description"}),
    ("deposits", {**DEPOSIT, "description": "two\nlines"}, {"/description"}),
    ("deposits", {**DEPOSIT, "description": "\ud800"}, {"/description"}),
    ("deposits", {**DEPOSIT, "owner": "another"}, {"/owner"}),
    ("deposits", {**DEPOSIT, "metadata": []}, {"/metadata"}),
    ("deposits", {**DEPOSIT, "metadata": {"k": 1}}, {"/metadata/k"}),
    ("deposits", {**DEPOSIT, "metadata": {"k": None, "l": {}}}, {"/metadata/k", "/metadata/l"}),
    ("deposits", {**DEPOSIT, "metadata": {str(n): "" for n in range(21)}}, {"/metadata"}),
    ("deposits", {**DEPOSIT, "metadata": {"k": "a\0b"}}, {"/metadata/k"}),
    ("deposits", {**DEPOSIT, "metadata": {"k": "\ud83d"}}, {"/metadata/k"}),
    ("withdrawals", {**WITHDRAWAL, "amount": 9}, {"/amount"}),
    ("withdrawals", {**WITHDRAWAL, "purpose": "gift"}, {"/purpose"}),
    ("withdrawals", {**WITHDRAWAL, "purpose": "Salary"}, {"/purpose"}),
    ("withdrawals", {**WITHDRAWAL, "remarks": "x"}, {"/remarks"}),
    ("withdrawals", {**WITHDRAWAL, "remarks": "x" * 101}, {"/remarks"}),
    ("withdrawals", {**WITHDRAWAL, "account_reference": "A1"}, {"/account_reference"}),
    ("withdrawals", {**WITHDRAWAL, "owner": 7}, {"/owner"}),
    ("bill-payments", {**BILL_PAYMENT, "till": "556677"}, {"/till"}),
    ("bill-payments", {"amount": 5}, {"/paybill"}),
    ("bill-payments", {"amount": 5, "paybill": "888880"}, {"/account_reference"}),
    (
        "bill-payments",
        {"amount": 5, "till": "556677", "account_reference": "A1"},
        {"/account_reference"},
    ),
    ("bill-payments", {**BILL_PAYMENT, "paybill": "1234"}, {"/paybill"}),
    ("bill-payments", {**BILL_PAYMENT, "paybill": "12345678"}, {"/paybill"}),
    ("bill-payments", {**BILL_PAYMENT, "paybill": 888880}, {"/paybill"}),
    ("bill-payments", {"amount": 5, "till": "55 677"}, {"/till"}),
    ("bill-payments", {**BILL_PAYMENT, "account_reference": "A" * 14}, {"/account_reference"}),
    ("bill-payments", {**BILL_PAYMENT, "phone_number": "0711000111"}, {"/phone_number"}),
    (
        "deposits",
        {
            "amount": "1",
            "phone_number": 7,
            "account_reference": "!",
            "description": "",
            "owner": "x",
            "x": 0,
        },
        {"/amount", "/phone_number", "/account_reference", "/description", "/owner", "/x"},
    ),
    (
        "bill-payments",
        {"amount": 0, "remarks": "", "color": 1},
        {"/amount", "/paybill", "/remarks", "/color"},
    ),
    ("deposits", [], {""}),
    ("deposits", [DEPOSIT], {""}),
    ("deposits", "amount", {""}),
    ("deposits", 250, {""}),
    ("deposits", None, {""}),
]


async def test_a_refusal_names_every_wrong_field(quiet: System) -> None:
    """422 invalid_request names each wrong, missing or unknown field, and no other."""
    for route, body, fields in _FIELDS:
        token = (
            quiet.stack.issuer.user_token()
            if route == "deposits"
            else quiet.stack.issuer.backend_token()
        )
        problem_details = expect_problem(
            await post(quiet, f"/v1/{route}", body, token=token), 422, "invalid_request"
        )
        assert pointers(problem_details) == fields, body
        assert problem_details["retryable"] is False


async def test_an_amount_is_a_whole_number_of_shillings(quiet: System) -> None:
    """The service refuses an amount that is no JSON integer within its limits."""
    for text in _AMOUNTS:
        body = b'{"phone_number":"0711000111","amount":' + text.encode() + b"}"
        problem_details = expect_problem(
            await post(quiet, "/v1/deposits", body), 422, "invalid_request"
        )
        assert pointers(problem_details) == {"/amount"}, text


_NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  ",
    "broken off": b'{"amount":',
    "a comma too many": b'{"amount":1,}',
    "single quotes": b"{'amount':1}",
    "two values": b"{}{}",
    "a comment": b"{/*1*/}",
    "NaN": b'{"amount":NaN}',
    "Infinity": b'{"amount":Infinity}',
    "-Infinity": b'{"amount":-Infinity}',
    "a key twice": b'{"amount":1,"amount":2}',
    "a key twice, written otherwise": b'{"amount":1,"\\u0061mount":2}',
    "a key twice inside": b'{"metadata":{"a":"1","a":"2"}}',
    "deep arrays": b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep objects": b'{"a":' * 100 + b"1" + b"}" * 100,
    "too many digits": b'{"amount":' + b"9" * 5000 + b"}",
    "leading zero": b'{"amount":0250}',
    "no UTF-8": b'{"description":"\xff\xfe"}',
    "UTF-16": '{"amount":1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b'{"description":"\0"}',
    "a surrogate as bytes": b'{"description":"\xed\xa0\x80"}',
}


@pytest.mark.parametrize("case", _NOT_JSON)
async def test_the_service_refuses_a_body_that_is_not_json(quiet: System, case: str) -> None:
    """Not JSON by RFC 8259, or a body that two parsers could read differently: 400."""
    expect_problem(await post(quiet, "/v1/deposits", _NOT_JSON[case]), 400, "invalid_json")


_KEYS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "none": ([], "missing"),
    "empty": ([("X-Idempotency-Key", "")], "invalid"),
    "too long": ([("X-Idempotency-Key", "k" * 256)], "invalid"),
    "with a space": ([("X-Idempotency-Key", "one key")], "invalid"),
    "with a tab": ([("X-Idempotency-Key", "one\tkey")], "invalid"),
    "not ASCII": ([("X-Idempotency-Key", "ufunguo-é")], "invalid"),
    "twice": ([("X-Idempotency-Key", "a"), ("X-Idempotency-Key", "b")], "invalid"),
    "twice the same": ([("X-Idempotency-Key", "a"), ("X-Idempotency-Key", "a")], "invalid"),
    "the standard name twice": ([("Idempotency-Key", "a"), ("Idempotency-Key", "b")], "invalid"),
    "two names, two values": ([("X-Idempotency-Key", "a"), ("Idempotency-Key", "b")], "invalid"),
    "two names, one empty": ([("X-Idempotency-Key", "a"), ("Idempotency-Key", "")], "invalid"),
}


@pytest.mark.parametrize("case", _KEYS)
async def test_a_payment_needs_exactly_one_idempotency_key(quiet: System, case: str) -> None:
    """A missing, malformed or ambiguous key is refused."""
    headers, fault = _KEYS[case]
    answer = await send_request(
        quiet, "POST", "/v1/deposits", headers=[*headers, _JSON], data=json.dumps(DEPOSIT).encode()
    )
    expect_problem(answer, 400, f"idempotency_key_{fault}")


@pytest.mark.parametrize(
    "names", [["Idempotency-Key"], ["X-Idempotency-Key", "Idempotency-Key"], ["x-idempotency-key"]]
)
@pytest.mark.parametrize("length", [1, 255])
async def test_an_idempotency_key_may_come_under_two_header_names(
    system: System, names: list[str], length: int
) -> None:
    """1 to 255 characters, under its standard name, or under both names with one value."""
    key = (uuid4().hex * 8)[:length] if length > 1 else "!"
    token = system.stack.issuer.user_token(str(uuid4()))
    headers = [*((name, key) for name in names), _JSON]
    answer = await send_request(
        system,
        "POST",
        "/v1/deposits",
        headers=headers,
        data=json.dumps(DEPOSIT).encode(),
        token=token,
    )
    answer.expect(202)


_MEDIA: list[list[tuple[str, str]]] = [
    [],
    [("Content-Type", "text/plain")],
    [("Content-Type", "application/x-www-form-urlencoded")],
    [("Content-Type", "application/json-patch+json")],
    [("Content-Type", "rubbish")],
    [("Content-Type", "application/json; charset=utf-16")],
    [("Content-Type", "application/json; charset=latin-1")],
    [_JSON, ("Content-Encoding", "gzip")],
    [_JSON, ("Content-Encoding", "br")],
    [_JSON, ("Content-Encoding", "gzip, identity")],
]


@pytest.mark.parametrize("headers", _MEDIA)
async def test_the_service_reads_only_json_in_utf8(
    quiet: System, headers: list[tuple[str, str]]
) -> None:
    """A body of another type, charset or encoding is 415."""
    headers = [("X-Idempotency-Key", str(uuid4())), *headers]
    answer = await send_request(
        quiet, "POST", "/v1/deposits", headers=headers, data=json.dumps(DEPOSIT).encode()
    )
    expect_problem(answer, 415, "unsupported_media_type")


async def _in_chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // _KIB):
        yield b" " * _KIB


async def test_the_service_refuses_a_body_above_sixteen_kib(quiet: System) -> None:
    """413, with a Content-Length or in chunks."""
    expect_problem(await post(quiet, "/v1/deposits", b" " * 17 * _KIB), 413, "body_too_large")
    headers = [("X-Idempotency-Key", str(uuid4())), _JSON]
    answer = await send_request(
        quiet, "POST", "/v1/deposits", headers=headers, data=_in_chunks(17 * _KIB)
    )
    expect_problem(answer, 413, "body_too_large")


async def test_the_service_reads_a_body_of_sixteen_kib(system: System) -> None:
    text = json.dumps(DEPOSIT).encode()
    (await post(system, "/v1/deposits", text + b" " * (16 * _KIB - len(text)))).expect(202)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/deposit", 404),
        ("POST", "/v1/deposits/", 404),
        ("GET", "/v2/payments", 404),
        ("POST", "/results/x/deposit/y", 404),
        ("GET", "/v1/payments/x/y/z", 404),
        ("GET", "/v1/payments/%00", 404),
        ("GET", "/v1/payments/not-an-id", 404),
        ("GET", "/v1/payments/%FF", 404),
        ("GET", f"/v1/payments/{UNKNOWN_PAYMENT_ID}/history", 404),
        ("POST", f"/v1/payments/{UNKNOWN_PAYMENT_ID}/cancel", 404),
        ("GET", "/v1/deposits", 405),
        ("PUT", "/v1/deposits", 405),
        ("POST", "/v1/payments", 405),
        ("DELETE", "/v1/payments/x", 405),
        ("GET", f"/v1/payments/{UNKNOWN_PAYMENT_ID}/cancel", 405),
    ],
)
async def test_unknown_routes_and_wrong_methods_are_answered_with_problems(
    quiet: System, method: str, path: str, status: int
) -> None:
    """An unknown route or payment is 404, a wrong method 405 with an Allow header."""
    answer = await send_request(quiet, method, path)
    expect_problem(answer, status, answer.json()["code"])
    assert ("Allow" in answer.headers) == (status == 405)


async def test_the_service_refuses_a_query_on_a_post(quiet: System) -> None:
    """The caller may believe that the query has an effect."""
    problem_details = expect_problem(
        await post(quiet, "/v1/deposits?amount=5", DEPOSIT), 422, "invalid_request"
    )
    assert pointers(problem_details) == {"?amount"}


async def test_refusals_at_once_each_name_their_own_fault(quiet: System) -> None:
    bodies: list[dict[str, Any]] = [{**DEPOSIT, f"field{number}": number} for number in range(30)]
    answers = await asyncio.gather(*(post(quiet, "/v1/deposits", body) for body in bodies))
    for number, answer in enumerate(answers):
        assert pointers(expect_problem(answer, 422, "invalid_request")) == {f"/field{number}"}
