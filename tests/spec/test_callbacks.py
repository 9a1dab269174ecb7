"""The callback receiver: which messages it accepts, what it stores, and what settles a payment."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.spec.conftest import a_system
from tests.spec.delivering import (
    ACCEPTED,
    OPERATIONS,
    AwaitedPayment,
    begin_awaited,
    deliver,
    deliver_raw,
)
from tests.spec.playing import Api, begin
from tests.spec.result_variants import RESULTS
from tests.spec.system import System

_LIMIT = 64 * 1024


async def _deliver_wrong(system: System, url: str, body: Any) -> tuple[int, bytes, str | None]:
    answer = await deliver(system, url, body)
    return answer.status, answer.body, answer.headers.get("Content-Type")


async def test_the_receiver_refuses_a_wrong_address(system: System) -> None:
    """A wrong token, operation or payment gets the same empty 403, and nothing is stored."""
    mine, other = await begin_awaited(system), await begin_awaited(system)
    base, payment_id, operation, token = mine.url.rsplit("/", 3)
    wrong_token = token[:-1] + ("0" if token[-1] != "0" else "1")
    stored = "SELECT count(*) AS stored FROM mkwanja.callbacks"
    before = await system.rows(stored)
    answers = {
        await _deliver_wrong(system, f"{base}/{wrong}", mine.result())
        for wrong in (
            f"{payment_id}/{operation}/{wrong_token}",
            f"{payment_id}/{operation}/{token[:-2]}",
            f"{payment_id}/{operation}/{token}00",
            f"{payment_id}/{operation}/{token.upper()}",
            f"{payment_id}/{operation}/%C3%A9",
            f"{payment_id}/withdrawal/{token}",
            f"{payment_id}/status-1/{token}",
            f"{payment_id}/Deposit/{token}",
            f"{payment_id}/deposit%00/{token}",
            f"{payment_id}/refund/{token}",
            f"{payment_id.upper()}/{operation}/{token}",
            f"{payment_id.replace('-', '')}/{operation}/{token}",
            f"{other.id}/{operation}/{token}",
            f"{uuid4()}/{operation}/{token}",
            f"no-payment/{operation}/{token}",
            f"%FF%FE/{operation}/{token}",
            f"%ED%A0%80/{operation}/{token}",
            f"{payment_id}%20/{operation}/{token}",
        )
    }
    assert len(answers) == 1
    [(status, body, _)] = answers
    assert (status, body) == (403, b"")
    assert await system.rows(stored) == before
    for one in (mine, other):
        assert (await system.payment(one.id))["stage"] == "awaiting_result"


async def test_the_receiver_refuses_a_path_that_is_no_text(system: System) -> None:
    """Bytes that are not UTF-8 get a 4xx answer and leave no token in the log."""
    path = urlsplit((await begin_awaited(system)).url).path.encode()
    for wrong in (
        path + b"\xff",
        b"/results/\xff\xfe/deposit/00",
        b"/results/\xed\xa0\x80/deposit/00",
    ):
        answer = await deliver_raw(system.stack.callbacks_url, wrong)
        assert answer.split(b" ")[1] in {b"400", b"403", b"404"}, answer
    assert path.decode().rpartition("/")[2] not in system.stack.logs()["callbacks.1"]


async def test_the_receiver_has_no_other_routes(system: System) -> None:
    """Its one route accepts only POST."""
    one = await begin_awaited(system)
    for path in ("/", "/results", "/v1/payments", "/docs", "/results/" + one.id):
        async with system.http.get(system.stack.callbacks_url + path) as answer:
            assert answer.status == 404
    for method in ("GET", "PUT", "DELETE"):
        async with system.http.request(method, one.url) as answer:
            assert answer.status == 405
    assert await system.callbacks(one.id) == []


_DEEP = 20_000

_UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n",
    "binary": bytes(range(256)),
    "an array": b"[]",
    "null": b"null",
    "a number": b"0",
    "a text": b'"ResultCode 0"',
    "half of it": b'{"Body":{"stkCallback":{"ResultCode":0',
    "an empty object": b"{}",
    "another shape": b'{"Result":{"ResultCode":0,"TransactionID":"UKN7TEST02"}}',
    "no code": b'{"Body":{"stkCallback":{"ResultDesc":"paid"}}}',
    "a code that is true": b'{"Body":{"stkCallback":{"ResultCode":false}}}',
    "a code that is a fraction": b'{"Body":{"stkCallback":{"ResultCode":0.0}}}',
    "a code that is NaN": b'{"Body":{"stkCallback":{"ResultCode":NaN}}}',
    "an array of callbacks": b'{"Body":[{"stkCallback":{"ResultCode":0}}]}',
    "a code twice": b'{"Body":{"stkCallback":{"ResultCode":1032,"ResultCode":0}}}',
    "deep arrays": b"[" * _DEEP + b"]" * _DEEP,
    "deep objects": b'{"Body":' * 1000 + b"0" + b"}" * 1000,
    "NUL bytes": b"\0" * 100,
    "NUL in a text": b'{"Body":{"stkCallback":{"ResultCode":"0\\u0000"}}}',
    "half a surrogate pair": b'{"Body":{"stkCallback":{"ResultCode":"\\ud800"}}}',
    "a number of a thousand digits": b'{"Body":{"stkCallback":{"ResultCode":1'
    + b"0" * 5000
    + b"}}}",
    "an exponent out of range": b'{"Body":{"stkCallback":{"ResultCode":1e99999999999999999999}}}',
    "another encoding": '{"Body":{"stkCallback":{"ResultCode":0}}}'.encode("utf-16"),
    "as much as is allowed": b"x" * _LIMIT,
}


async def test_the_receiver_stores_any_body_for_a_right_address(system: System) -> None:
    """The answer is 200. The body is stored byte for byte and flagged, and finalizes nothing."""
    one = await begin_awaited(system)
    for case, body in _UNREADABLE.items():
        answer = await deliver(system, one.url, body)
        assert (answer.status, answer.status == 200 and answer.json()) == (200, ACCEPTED), case
        stored = (await system.callbacks(one.id))[-1]
        assert bytes(stored["body"]) == body, case
        assert bytes(stored["body_sha256"]) == hashlib.sha256(body).digest(), case
        assert stored["is_flagged"], case
        assert (await system.payment(one.id))["stage"] == "awaiting_result", case
    assert len(await system.callbacks(one.id)) == len(_UNREADABLE)
    assert (await deliver(system, one.url, one.result(receipt="UKN7KEPT01"))).status == 200
    assert (await system.payment(one.id))["receipt"] == "UKN7KEPT01"


async def test_the_receiver_refuses_a_body_above_64_kib(system: System) -> None:
    """One byte more is 413, with a Content-Length or in chunks, and is not stored."""
    one = await begin_awaited(system)

    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b"x" * 1024

    assert (await deliver(system, one.url, b"x" * (_LIMIT + 1))).status == 413
    assert (await deliver(system, one.url, in_chunks())).status == 413
    assert await system.callbacks(one.id) == []


async def test_a_result_that_disagrees_with_its_payment_settles_nothing(system: System) -> None:
    """Its amount and ids must be the payment's. Otherwise it is stored and flagged."""

    async def deliver_variant(number: int, api: Api, make: Any) -> tuple[str, bool, str]:
        one = await begin_awaited(system, api)
        body = make(one)
        text = json.dumps(body).replace("UKN7TEST01", f"UKN7AGR{number:03}")
        answer = await deliver(system, one.url, text.encode())
        assert (answer.status, answer.json()) == (200, ACCEPTED)
        payment, [stored] = await system.payment(one.id), await system.callbacks(one.id)
        assert stored["is_flagged"] is payment["needs_review"]
        return payment["stage"], payment["needs_review"], stored["disposition"]

    rows = enumerate(RESULTS.values())
    outcomes = await asyncio.gather(
        *(deliver_variant(number, api, make) for number, (api, make, _) in rows)
    )
    wrong = {
        case: (seen, expected)
        for (case, (_, _, expected)), seen in zip(RESULTS.items(), outcomes, strict=True)
        if seen != expected
    }
    assert not wrong, wrong


async def test_the_ids_or_the_receipt_of_another_payment_settle_nothing(system: System) -> None:
    """Such a result is stored and flagged, and settles neither of the payments."""
    one, other, third = (
        await begin_awaited(system),
        await begin_awaited(system),
        await begin_awaited(system),
    )
    await deliver(system, one.url, one.result(receipt="UKN7OWN001"))
    await deliver(system, other.url, other.result(receipt="UKN7OWN001"))
    ids = {
        "CheckoutRequestID": one.ids["CheckoutRequestID"],
        "MerchantRequestID": one.ids["MerchantRequestID"],
    }
    await deliver(system, third.url, third.result(receipt="UKN7OWN003", **ids))
    for wrong, disposition in ((other, "receipt_of_another_payment"), (third, "ids_differ")):
        payment, [stored] = await system.payment(wrong.id), await system.callbacks(wrong.id)
        assert (payment["stage"], payment["needs_review"]) == ("awaiting_result", True)
        assert stored["disposition"] == disposition
    assert (await system.payment(one.id))["needs_review"] is False


@pytest.mark.parametrize("code", [0, 1032])
async def test_a_repeated_result_changes_nothing(system: System, code: int) -> None:
    """Every copy is answered 200 and stored, also if several arrive at once."""
    one = await begin_awaited(system)
    body = one.result(code=code, receipt="UKN7TWICE1")
    answers = await asyncio.gather(*(deliver(system, one.url, body) for _ in range(5)))
    payment, history = await system.payment(one.id), await system.backend.history(one.id)
    answers.append(await deliver(system, one.url, body))
    assert [answer.json() for answer in answers] == [ACCEPTED] * 6
    assert await system.payment(one.id) == payment
    assert await system.backend.history(one.id) == history
    assert payment["status"] == ("failed" if code else "success")
    dispositions = sorted(row["disposition"] for row in await system.callbacks(one.id))
    assert dispositions == ["duplicate"] * 5 + ["finalized"]


@pytest.mark.parametrize("code", [0, 1032])
async def test_a_contradiction_of_a_success_flags_the_payment(system: System, code: int) -> None:
    """A second receipt, or a failure after a success, changes neither stage nor receipt."""
    one = await begin_awaited(system)
    await deliver(system, one.url, one.result(receipt=f"UKN7ONE{code:03}"))
    await deliver(system, one.url, one.result(code=code, receipt=f"UKN7TWO{code:03}"))
    payment = await system.payment(one.id)
    assert (payment["stage"], payment["receipt"], payment["needs_review"]) == (
        "succeeded",
        f"UKN7ONE{code:03}",
        True,
    )
    assert [row["disposition"] for row in await system.callbacks(one.id)] == [
        "finalized",
        "contradiction",
    ]


async def _callbacks_of(system: System, payment_id: str, operation: str) -> list[Any]:
    """The stored callbacks of one operation, without the answers to inquiries between them."""
    return [row for row in await system.callbacks(payment_id) if row["operation"] == operation]


@pytest.mark.parametrize("api", ["b2c", "b2b"])
async def test_the_receiver_stores_a_timeout_message_without_its_credential(
    system: System, api: Api
) -> None:
    """The message finalizes nothing. The stored digest is that of the original body."""
    one = await begin_awaited(system, api)
    url = await system.callback_url(one.id, OPERATIONS[api] + "-timeout")
    echo = {
        "InitiatorName": "clerk",
        "SecurityCredential": 'Zm9v"\\+/=',
        "Amount": one.amount,
        "Remarks": "Payment",
    }
    bodies = [
        json.dumps(echo).encode(),
        json.dumps(echo, indent=2).encode(),
        b'{"Password" : "Zm9v"',
    ]
    for body in bodies:
        assert (await deliver(system, url, body)).json() == ACCEPTED
        stored = (await _callbacks_of(system, one.id, OPERATIONS[api] + "-timeout"))[-1]
        assert b"Zm9v" not in bytes(stored["body"])
        assert bytes(stored["body_sha256"]) == hashlib.sha256(body).digest()
        assert (await system.payment(one.id))["stage"] == "awaiting_result"
    kept = json.loads(
        bytes((await _callbacks_of(system, one.id, OPERATIONS[api] + "-timeout"))[0]["body"])
    )
    assert {**kept, "SecurityCredential": ""} == {**echo, "SecurityCredential": ""}
    assert (
        await deliver(system, one.url, one.result(receipt=f"UKN7AFT{api.upper()}"))
    ).status == 200
    assert (await system.payment(one.id))["status"] == "success"


async def test_the_database_holds_no_credential_and_no_callback_token(system: System) -> None:
    """Daraja echoes our requests; the echoes are stored without these values."""
    payment_id = await begin(system, "b2c", "timeout_message", seconds=0.2)
    await system.settled(payment_id)
    token = (await system.callback_url(payment_id, "withdrawal")).rpartition("/")[2]
    [timeout] = await _callbacks_of(system, payment_id, "withdrawal-timeout")
    assert json.loads(bytes(timeout["body"]))["SecurityCredential"] == "[replaced]"
    sql = (
        "SELECT request::text || coalesce(answer, '') AS text FROM mkwanja.daraja_exchanges"
        " WHERE payment_id = $1::uuid"
    )
    for exchange in await system.rows(sql, payment_id):
        assert token not in exchange["text"]
        assert (
            json.loads(exchange["text"].partition("}")[0] + "}")["SecurityCredential"] == "[masked]"
        )


_TRUSTED_HOPS = [
    ["10.1.2.3"],
    ["203.0.113.9, 10.1.2.3"],
    ["203.0.113.9", "10.1.2.3"],
    ["10.1.2.3, 127.0.0.1"],
    ["10.1.2.3,127.0.0.1, ::ffff:127.0.0.2"],
    ["::ffff:10.1.2.3"],
    ["::FFFF:0A01:0203"],
    ["10.1.2.3:4711"],
    ["[::ffff:10.1.2.3]:443"],
    ["rubbish, 10.1.2.3"],
]
_OTHER_HOPS = [
    [],
    [""],
    ["unknown"],
    ["10.1.2.3, 203.0.113.9"],
    ["10.1.2.3", "203.0.113.9"],
    ["10.1.2.3, rubbish"],
    ["10.1.2.3,"],
    ["10.1.2.3, 203.0.113.9, 127.0.0.1"],
    ["0x0a.1.2.3"],
    ["10.1.2"],
    ["010.001.002.003"],
    ["::ffff:11.1.2.3"],
    ["10.1.2.3, \x80"],
]


async def test_a_result_from_a_wrong_source_address_is_stored_and_settles_nothing() -> None:
    """It gets 403. The receiver follows X-Forwarded-For only through trusted proxies."""
    receiver = {"CALLBACK_ALLOWED_NETWORKS": "10.0.0.0/8", "TRUSTED_PROXIES": "127.0.0.0/8"}
    async with a_system(process_env={"callbacks": receiver}) as system:
        # The simulator's own address is 127.0.0.1, and its requests have no X-Forwarded-For.
        refused = await system.deposit()
        [stored] = await system.eventually(lambda: system.callbacks(refused))
        assert (stored["source_allowed"], stored["is_flagged"]) == (False, True)
        assert (stored["source_address"], stored["disposition"]) == ("127.0.0.1", "wrong_source")
        payment = await system.settled(refused)  # by an inquiry at once, not by the callback
        assert (payment["status"], payment["receipt"]) == ("success", None)
        [delivery] = (await system.control("GET", "/callbacks"))["items"]
        assert delivery["status"] == 403
        await _assert_hops(system, await begin_awaited(system))


async def _assert_hops(system: System, one: AwaitedPayment) -> None:
    for hops in _OTHER_HOPS:
        answer = await deliver(
            system, one.url, one.result(), headers=[("X-Forwarded-For", hop) for hop in hops]
        )
        assert (answer.status, answer.body) == (403, b""), hops
    assert (await system.payment(one.id))["stage"] == "awaiting_result"
    kept = await system.callbacks(one.id)
    assert len(kept) == len(_OTHER_HOPS)
    assert {row["disposition"] for row in kept} == {"wrong_source"}
    for hops in _TRUSTED_HOPS:
        answer = await deliver(
            system, one.url, one.result(), headers=[("X-Forwarded-For", hop) for hop in hops]
        )
        assert answer.status == 200, hops
    assert (await system.payment(one.id))["status"] == "success"
    sources = {
        row["source_address"] for row in await system.callbacks(one.id) if row["source_allowed"]
    }
    assert sources == {"10.1.2.3"}
