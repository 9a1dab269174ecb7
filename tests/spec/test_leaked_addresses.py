"""The receiver under attack, by strangers and by those who know a callback address.

They learn nothing, change nothing and fill nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.spec.conftest import a_system
from tests.spec.delivering import ACCEPTED, AwaitedPayment, begin_awaited, deliver, deliver_raw
from tests.spec.in_doubt import inquiries
from tests.spec.system import System
from tests.stack.client import Answer

COPIES_MAX = 200
FIRST_AFTER_SECONDS = 30  # as shipped: the wait before the next inquiry
_DATE = re.compile(rb"\r\nDate: [^\r]*")


async def test_every_wrong_address_gets_the_same_answer_byte_for_byte(
    system: System,
) -> None:
    """For a wrong token, operation or payment, malformed or not: status, headers and body."""
    one = await begin_awaited(system)
    payment_id, operation, token = urlsplit(one.url).path.split("/")[2:]
    wrong_token = token[:-1] + ("0" if token[-1] != "0" else "1")
    answers = {}
    for address in (
        f"{payment_id}/{operation}/{wrong_token}",
        f"{payment_id}/{operation}/{token}0",
        f"{payment_id}/{operation}/{token[:-1]}",
        f"{payment_id}/{operation}/{token.upper()}",
        f"{payment_id}/{operation}/0x{token}",
        f"{payment_id}/{operation}/%00",
        f"{payment_id}/withdrawal/{token}",
        f"{payment_id}/status-1/{token}",
        f"{payment_id}/refund/{token}",
        f"{payment_id}/{'x' * 2000}/{token}",
        f"{uuid4()}/{operation}/{token}",
        f"no-payment/{operation}/{token}",
        f"{payment_id.upper()}/{operation}/{token}",
    ):
        whole = await deliver_raw(system.stack.callbacks_url, f"/results/{address}".encode())
        answers[address] = _DATE.sub(b"", whole)
    [answer] = set(answers.values())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")
    assert await system.callbacks(one.id) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_a_callback_address_accepts_only_post(system: System, method: str) -> None:
    """A link from a log changes nothing, and the answer does not show if it was right."""
    one = await begin_awaited(system)
    seen = set()
    for url in (one.url, one.url[:-40] + "0" * 40):
        async with system.http.request(method, url) as answer:
            seen.add((answer.status, await answer.read(), answer.headers.get("Content-Type")))
    [(status, body, _)] = seen
    assert (status, one.url.rpartition("/")[2].encode() in body) == (405, False)
    assert await system.callbacks(one.id) == []


def _encoded_bodies(body: bytes) -> dict[str, tuple[str, bytes]]:
    """The body in codings that a reader might decode, and under codings that it only claims."""
    return {
        "gzip": ("gzip", gzip.compress(body)),
        "x-gzip": ("x-gzip", gzip.compress(body)),
        "deflate": ("deflate", zlib.compress(body)),
        "twice": ("gzip, gzip", gzip.compress(gzip.compress(body))),
        "a bomb": ("gzip", gzip.compress(bytes(30_000_000))),
        "only claimed": ("gzip", body),
        "unknown": ("zstd", body),
        "in capitals": ("GZIP", body),
        "with an identity": ("identity, br", body),
    }


async def test_a_body_with_a_content_encoding_is_stored_as_it_came_and_never_decoded(
    system: System,
) -> None:
    """It is answered 200 and flagged. Nothing that it might contain is believed."""
    one = await begin_awaited(system)
    for number, (case, (coding, body)) in enumerate(
        _encoded_bodies(_body(one, receipt="UKN7PACK01")).items(), 1
    ):
        answer = await deliver(system, one.url, body, headers=[("Content-Encoding", coding)])
        assert (answer.status, answer.json()) == (200, ACCEPTED), case
        stored = await system.callbacks(one.id)
        assert (len(stored), bytes(stored[-1]["body"])) == (number, body), case
        assert (stored[-1]["disposition"], stored[-1]["is_flagged"]) == ("unreadable", True), case
    assert (await system.payment(one.id))["stage"] == "awaiting_result"
    await deliver(
        system,
        one.url,
        _body(one, receipt="UKN7IDENT1"),
        headers=[("Content-Encoding", "identity")],
    )
    assert (await system.payment(one.id))["receipt"] == "UKN7IDENT1"


def _body(one: AwaitedPayment, **result: Any) -> bytes:
    return json.dumps(one.result(**result)).encode()


async def test_a_second_content_encoding_header_counts_like_the_first(system: System) -> None:
    one = await begin_awaited(system)
    headers = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    answer = await deliver(system, one.url, one.result(receipt="UKN7PACK02"), headers=headers)
    assert answer.json() == ACCEPTED
    assert (await system.payment(one.id))["stage"] == "awaiting_result"


async def test_the_receiver_ignores_the_source_that_a_sender_claims() -> None:
    """`Forwarded` and the like are never read, nor X-Forwarded-For unless from a trusted proxy."""
    receiver = {"CALLBACK_ALLOWED_NETWORKS": "10.0.0.0/8", "TRUSTED_PROXIES": "192.0.2.0/24"}
    async with a_system(process_env={"callbacks": receiver}) as system:
        one = await begin_awaited(system)
        for name, value in (
            ("Forwarded", "for=10.1.2.3"),
            ("Forwarded", 'for="[::ffff:10.1.2.3]";by=192.0.2.1'),
            ("X-Real-IP", "10.1.2.3"),
            ("True-Client-IP", "10.1.2.3"),
            ("CF-Connecting-IP", "10.1.2.3"),
            ("X-Forwarded-For", "10.1.2.3"),
            ("X-Forwarded-For", "10.1.2.3, 192.0.2.1"),
        ):
            assert (
                await deliver(system, one.url, one.result(), headers=[(name, value)])
            ).status == 403, name
        assert {row["source_address"] for row in await system.callbacks(one.id)} == {"127.0.0.1"}
        assert (await system.payment(one.id))["stage"] == "awaiting_result"


@pytest.mark.whole
async def test_a_leaked_address_can_neither_fill_the_database_nor_flood_daraja(
    system: System,
) -> None:
    """All copies are answered, a limited number is stored, and inquiries stay 30 seconds apart."""
    one = await begin_awaited(system, "b2c")
    body = _body(one, code=17)  # not final, so the service inquires
    answers = Counter[tuple[int, bytes]]()
    for _ in range(12):
        replies = await asyncio.gather(*(deliver(system, one.url, body) for _ in range(50)))
        answers.update((reply.status, reply.body) for reply in replies)
    assert [(status, json.loads(reply), times) for (status, reply), times in answers.items()] == [
        (200, ACCEPTED, 600)
    ]
    stored = await system.callbacks(one.id)
    own = [row for row in stored if row["operation"] == "withdrawal"]
    assert len(own) == COPIES_MAX
    assert {bytes(row["body"]) for row in own} == {body}
    sent_inquiries = await system.eventually(lambda: inquiries(system, one.id))
    gaps = [
        (later["asked_at"] - earlier["asked_at"]).total_seconds()
        for earlier, later in itertools.pairwise(sent_inquiries)
    ]
    assert all(gap >= FIRST_AFTER_SECONDS for gap in gaps), gaps
    assert (await deliver(system, one.url, one.result(receipt="UKN7LEAK01"))).json() == ACCEPTED
    assert (await system.payment(one.id))["receipt"] == "UKN7LEAK01"


_FORGERIES, _AT_ONCE = 3000, 40


async def test_genuine_callbacks_finalize_payments_during_a_flood_of_forgeries(
    system: System,
) -> None:
    """Thousands of messages with wrong tokens are refused alike and leave no row."""
    genuine = [await begin_awaited(system) for _ in range(20)]
    forged = asyncio.create_task(_forge(system, genuine[0]))
    answers = await asyncio.gather(
        *(
            deliver(system, one.url, one.result(receipt=f"UKN7FLO{n:03}"))
            for n, one in enumerate(genuine)
        )
    )
    assert not forged.done()  # the flood outlasted the genuine callbacks
    assert await forged == Counter({(403, b""): _FORGERIES})
    assert [answer.json() for answer in answers] == [ACCEPTED] * len(genuine)
    assert {(await system.payment(one.id))["status"] for one in genuine} == {"success"}
    assert [len(await system.callbacks(one.id)) for one in genuine] == [1] * len(genuine)


async def _forge(system: System, one: AwaitedPayment) -> Counter[tuple[int, bytes]]:
    """Sends messages with a real payment and operation and invented tokens; counts the answers."""
    base, seen = one.url.rpartition("/")[0], Counter[tuple[int, bytes]]()
    body = _body(one, receipt="UKN7FORGE1")
    numbers = iter(range(_FORGERIES))

    async def post() -> None:
        for number in numbers:
            answer: Answer = await deliver(system, f"{base}/{number:040x}", body)
            seen[answer.status, answer.body] += 1

    await asyncio.gather(*(post() for _ in range(_AT_ONCE)))
    return seen


async def test_the_receiver_refuses_a_forgery_without_postgres_and_redis() -> None:
    """Both servers are away. A genuine message is answered 503, and a forgery still 403."""
    async with a_system() as system:
        one = await begin_awaited(system)
        away = {
            "DATABASE_URL": "postgresql://user@127.0.0.1:9/nothing",
            "REDIS_URL": "redis://127.0.0.1:9/0",
        }
        process = await system.stack.start_process("callbacks.2", env=away, wait=False)
        await system.eventually(lambda: _is_up(system, process.url))
        path = urlsplit(one.url).path
        genuine = asyncio.create_task(deliver(system, process.url + path, one.result()))
        forgeries = [
            await deliver(system, process.url + path[:-40] + f"{n:040x}", one.result())
            for n in range(50)
        ]
        assert {(answer.status, answer.body) for answer in forgeries} == {(403, b"")}
        assert (await genuine).status == 503


async def _is_up(system: System, url: str) -> bool:
    try:
        async with system.http.get(f"{url}/healthz") as answer:
            return answer.status == 200
    except OSError:
        return False
