"""The callback receiver: which messages it accepts, what it stores, and what settles a payment."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from domain.callback_address import make_token
from tests.spec.conftest import a_system
from tests.spec.delivering import (
    ACCEPTED,
    AwaitedPayment,
    begin_awaited,
    deliver,
    deliver_raw,
    deliver_result,
)
from tests.spec.hostile_callbacks import BYTES_MAX
from tests.spec.playing import Api, begin
from tests.spec.result_variants import RESULTS
from tests.spec.system import System


async def test_the_receiver_refuses_a_wrong_address(system: System) -> None:
    """A wrong token, operation or payment gets the same 403, and nothing is stored."""
    mine, other = await begin_awaited(system), await begin_awaited(system)
    payment_id, operation, token = urlsplit(mine.url).path.split("/")[2:]
    secret = system.stack.env("callbacks")["CALLBACK_SECRETS"].split(",")[0]
    stored = "SELECT count(*) AS stored FROM mkwanja.callbacks"
    before = await system.rows(stored)
    answers = {
        await deliver_raw(system.stack.callbacks_url, f"/results/{wrong}".encode())
        for wrong in (
            f"{payment_id}/{operation}/{token[:-1]}{'1' if token.endswith('0') else '0'}",
            f"{payment_id}/{operation}/{token[:-2]}",
            f"{payment_id}/{operation}/{token}0",
            f"{payment_id}/{operation}/{token * 50}",
            f"{payment_id}/{operation}/{token.upper()}",
            f"{payment_id}/{operation}/{token}%00",
            f"{payment_id}/{operation}/%C3%A9",
            f"{payment_id}/{operation}/{make_token('s' * 40, payment_id, operation)}",
            f"{payment_id}/{operation}/{make_token(secret[::-1], payment_id, operation)}",
            f"{payment_id}/{operation}/{make_token(secret, payment_id, 'status-1')}",
            f"{payment_id}/{operation}/{make_token(secret, other.id, operation)}",
            f"{payment_id}/withdrawal/{token}",
            f"{payment_id}/status-1/{token}",
            f"{payment_id}/Deposit/{token}",
            f"{payment_id}/refund/{make_token(secret, payment_id, 'refund')}",
            f"{payment_id}/{'x' * 2000}/{token}",
            f"{payment_id.upper()}/{operation}/{token}",
            f"{payment_id.replace('-', '')}/{operation}/{token}",
            f"{other.id}/{operation}/{token}",
            f"{uuid4()}/{operation}/{token}",
            f"no-payment/{operation}/{token}",
            f"%FF%FE/{operation}/{token}",
        )
    }
    # These two headers say nothing about the address.
    varying = rb"\r\n(?:Date|X-Request-Id): [^\r]*"
    [answer] = {re.sub(varying, b"", answer) for answer in answers}
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")
    assert await system.rows(stored) == before
    for one in (mine, other):
        assert (await system.payment(one.id))["stage"] == "awaiting_result"
        await deliver_result(system, one, receipt=f"UKN7{one.amount:06}")


async def test_the_receiver_refuses_a_path_that_is_not_utf8(system: System) -> None:
    """The answer is 4xx, and the log does not contain the token in the path."""
    path = urlsplit((await begin_awaited(system)).url).path.encode()
    for wrong in (path + b"\xff", b"/results/\xed\xa0\x80/deposit/00"):
        answer = await deliver_raw(system.stack.callbacks_url, wrong)
        assert answer.split(b" ")[1] in {b"400", b"403", b"404"}, answer
    assert path.decode().rpartition("/")[2] not in system.stack.logs()["callbacks.1"]


async def test_the_receiver_has_no_other_routes(system: System) -> None:
    """The only route accepts only POST. Other methods get 405, for right and wrong addresses."""
    one = await begin_awaited(system)
    for path in ("/", "/results", "/v1/payments", "/docs", "/results/" + one.id):
        async with system.http.get(system.stack.callbacks_url + path) as answer:
            assert answer.status == 404
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"):
        seen = set()
        for url in (one.url, one.url[:-40] + "0" * 40):
            async with system.http.request(method, url) as answer:
                seen.add((answer.status, await answer.read(), answer.headers.get("Content-Type")))
        [(status, body, _)] = seen
        assert (status, one.url.rpartition("/")[2].encode() in body) == (405, False)
    assert await system.callbacks(one.id) == []


# `hostile_callbacks.py` has many more bodies.
_UNREADABLE: dict[str, bytes] = {
    "an empty body": b"",
    "binary": bytes(range(256)),
    "a text": b'"ResultCode 0"',
    "half of a message": b'{"Body":{"stkCallback":{"ResultCode":0',
    "an empty object": b"{}",
    "no code": b'{"Body":{"stkCallback":{"ResultDesc":"paid"}}}',
    "a code that is NaN": b'{"Body":{"stkCallback":{"ResultCode":NaN}}}',
    "deep arrays": b"[" * 20_000 + b"]" * 20_000,
    "NUL in a text": b'{"Body":{"stkCallback":{"ResultCode":"0\\u0000"}}}',
    "another encoding": '{"Body":{"stkCallback":{"ResultCode":0}}}'.encode("utf-16"),
    "the largest size": b"x" * BYTES_MAX,
}


async def test_the_receiver_stores_any_body_for_a_right_address(system: System) -> None:
    """The answer is 200. The message is flagged, and finalizes nothing.

    The body is stored byte for byte, except that a credential in it is replaced. The stored digest
    is that of the original body.
    """
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
    echo = b'{"Password": "Zm9v", "ResultCode": 0}'
    await deliver(system, one.url, echo)
    stored = (await system.callbacks(one.id))[-1]
    assert bytes(stored["body"]) == echo.replace(b"Zm9v", b"[replaced]")
    assert bytes(stored["body_sha256"]) == hashlib.sha256(echo).digest()
    await deliver_result(system, one, receipt="UKN7KEPT01")
    assert (await system.payment(one.id))["receipt"] == "UKN7KEPT01"


async def test_the_receiver_refuses_a_body_above_64_kib(system: System) -> None:
    """A larger body gets 413 and is not stored, also if it comes in chunks."""
    one = await begin_awaited(system)

    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b"x" * 1024

    assert (await deliver(system, one.url, b"x" * (BYTES_MAX + 1))).status == 413
    assert (await deliver(system, one.url, in_chunks())).status == 413
    assert await system.callbacks(one.id) == []


async def test_a_result_that_disagrees_with_its_payment_settles_nothing(system: System) -> None:
    """A result with another amount, with other ids or without a receipt flags the payment."""

    async def deliver_variant(number: int, api: Api, make: Any) -> tuple[str, bool, str]:
        one = await begin_awaited(system, api)
        text = json.dumps(make(one)).replace("UKN7TEST01", f"UKN7AGR{number:03}")
        answer = await deliver(system, one.url, text.encode())
        assert (answer.status, answer.json()) == (200, ACCEPTED)
        payment, [stored] = await system.payment(one.id), await system.callbacks(one.id)
        assert stored["is_flagged"] is payment["needs_review"]
        return payment["stage"], payment["needs_review"], stored["disposition"]

    rows = enumerate(RESULTS.values())
    outcomes = await asyncio.gather(
        *(deliver_variant(number, api, make) for number, (api, make, _) in rows)
    )
    expected = {case: row[-1] for case, row in RESULTS.items()}
    assert dict(zip(RESULTS, outcomes, strict=True)) == expected


async def test_the_ids_or_the_receipt_of_another_payment_settle_nothing(system: System) -> None:
    """A result that names them is stored, flags its payment, and settles no payment."""
    one, other, third = [await begin_awaited(system) for _ in range(3)]
    await deliver_result(system, one, receipt="UKN7OWN001")
    await deliver_result(system, other, receipt="UKN7OWN001")
    await deliver_result(system, third, receipt="UKN7OWN003", **one.ids)
    for wrong, disposition in ((other, "receipt_of_another_payment"), (third, "ids_differ")):
        payment, [stored] = await system.payment(wrong.id), await system.callbacks(wrong.id)
        assert (payment["stage"], payment["needs_review"]) == ("awaiting_result", True)
        assert stored["disposition"] == disposition
    assert (await system.payment(one.id))["needs_review"] is False


@pytest.mark.parametrize("code", [0, 1032])
async def test_a_repeated_result_changes_nothing(system: System, code: int) -> None:
    """Every copy is answered 200 and stored, even if several arrive at once."""
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


async def test_the_database_holds_no_credential_and_no_callback_token(system: System) -> None:
    """Daraja may repeat our request in a message. The receiver stores the message without secrets.

    A timeout message finalizes nothing.
    """
    payment_id = await begin(system, "b2c", "timeout_message", seconds=0.2)
    await system.settled(payment_id)
    token = (await system.callback_url(payment_id, "withdrawal")).rpartition("/")[2]
    # The timeout message makes a worker inquire earlier, so an inquiry's answer may be stored too.
    stored = {row["operation"]: row for row in await system.callbacks(payment_id)}
    timeout = stored.pop("withdrawal-timeout")
    assert timeout["disposition"] != "finalized"
    assert "finalized" in [row["disposition"] for row in stored.values()]
    assert json.loads(bytes(timeout["body"]))["SecurityCredential"] == "[replaced]"
    exchanges = await system.rows(
        "SELECT request::text AS request, coalesce(answer, '') AS answer"
        " FROM mkwanja.daraja_exchanges WHERE payment_id = $1::uuid AND api = 'b2c'",
        payment_id,
    )
    assert exchanges
    for exchange in exchanges:
        assert token not in exchange["request"] + exchange["answer"]
        assert json.loads(exchange["request"])["SecurityCredential"] == "[masked]"


# `tests/unit/test_sources.py` has more headers.
_FORWARDED = "X-Forwarded-For"
_TRUSTED_HOPS = [
    [(_FORWARDED, "203.0.113.9"), (_FORWARDED, "10.1.2.3")],
    [(_FORWARDED, "10.1.2.3,127.0.0.1, ::ffff:127.0.0.2")],
    [(_FORWARDED, "[::ffff:10.1.2.3]:443")],
]
_OTHER_HOPS = [
    [],
    [("Forwarded", "for=10.1.2.3")],
    [("X-Real-IP", "10.1.2.3")],
    [(_FORWARDED, "10.1.2.3"), (_FORWARDED, "203.0.113.9")],
    [(_FORWARDED, "10.1.2.3,")],
    [(_FORWARDED, "10.1.2.3, 203.0.113.9, 127.0.0.1")],
    [(_FORWARDED, "10.1.2.3, \x80")],
]


async def test_a_result_from_a_wrong_source_address_is_stored_and_settles_nothing() -> None:
    """Such a result gets 403. The receiver believes X-Forwarded-For only from trusted proxies.

    The receiver reads no other header of this kind.
    """
    receiver = {"CALLBACK_ALLOWED_NETWORKS": "10.0.0.0/8", "TRUSTED_PROXIES": "127.0.0.0/8"}
    async with a_system(process_env={"callbacks": receiver}) as system:
        # The simulator's own address is 127.0.0.1, and its requests have no X-Forwarded-For.
        refused = await system.deposit()
        [stored] = await system.eventually(lambda: system.callbacks(refused))
        assert (stored["source_allowed"], stored["is_flagged"]) == (False, True)
        assert (stored["source_address"], stored["disposition"]) == ("127.0.0.1", "wrong_source")
        # An inquiry settled it. The refused callback did not.
        payment = await system.settled(refused)
        assert (payment["status"], payment["receipt"]) == ("success", None)
        [delivery] = (await system.control("GET", "/callbacks"))["items"]
        assert delivery["status"] == 403
        await _assert_hops(system, await begin_awaited(system))


async def _assert_hops(system: System, one: AwaitedPayment) -> None:
    async def deliver_through(hops: list[tuple[str, str]]) -> int:
        return (await deliver(system, one.url, one.result(), headers=hops)).status

    assert {await deliver_through(hops) for hops in _OTHER_HOPS} == {403}
    assert (await system.payment(one.id))["stage"] == "awaiting_result"
    kept = await system.callbacks(one.id)
    assert [row["disposition"] for row in kept] == ["wrong_source"] * len(_OTHER_HOPS)
    assert {await deliver_through(hops) for hops in _TRUSTED_HOPS} == {200}
    assert (await system.payment(one.id))["status"] == "success"
    believed = [row for row in await system.callbacks(one.id) if row["source_allowed"]]
    assert {row["source_address"] for row in believed} == {"10.1.2.3"}
