"""Attacks on the receiver, with invented callback addresses and with leaked genuine addresses.

The attackers learn nothing, settle no payment and do not fill the database.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import zlib
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.spec.conftest import a_system
from tests.spec.delivering import (
    ACCEPTED,
    AwaitedPayment,
    begin_awaited,
    deliver,
    deliver_result,
)
from tests.spec.in_doubt import inquiries
from tests.spec.system import System

COPIES_MAX = 200
FIRST_AFTER_SECONDS = 30  # the default wait before the next inquiry


async def test_a_body_with_a_content_encoding_is_stored_as_it_came_and_never_decoded(
    system: System,
) -> None:
    """The body is answered 200, and is flagged as unreadable. It settles nothing."""
    one = await begin_awaited(system)
    plain = _body(one, receipt="UKN7PACK01")
    for number, (codings, body) in enumerate(
        [
            (["gzip"], gzip.compress(plain)),
            (["GZIP"], gzip.compress(plain)),
            (["deflate"], zlib.compress(plain)),
            (["gzip, gzip"], gzip.compress(gzip.compress(plain))),
            (["gzip"], gzip.compress(bytes(30_000_000))),  # a decompression bomb
            (["gzip"], plain + b" "),
            (["zstd"], plain),
            (["identity, br"], plain + b"  "),
            (["identity", "gzip"], plain + b"   "),
        ],
        1,
    ):
        headers = [("Content-Encoding", coding) for coding in codings]
        answer = await deliver(system, one.url, body, headers=headers)
        assert (answer.status, answer.json()) == (200, ACCEPTED), codings
        stored = await system.callbacks(one.id)
        assert (len(stored), bytes(stored[-1]["body"])) == (number, body), codings
        assert stored[-1]["disposition"] == "unreadable", codings
        assert stored[-1]["is_flagged"], codings
    assert (await system.payment(one.id))["stage"] == "awaiting_result"
    headers = [("Content-Encoding", "identity")]
    await deliver(system, one.url, _body(one, receipt="UKN7IDENT1"), headers=headers)
    assert (await system.payment(one.id))["receipt"] == "UKN7IDENT1"


def _body(one: AwaitedPayment, **result: Any) -> bytes:
    return json.dumps(one.result(**result)).encode()


@pytest.mark.whole
async def test_a_leaked_address_can_neither_fill_the_database_nor_flood_daraja(
    system: System,
) -> None:
    """Every copy is accepted, but only 200 are stored. Inquiries stay 30 seconds apart."""
    one = await begin_awaited(system, "b2c")
    body = _body(one, code=17)  # not final, so the service inquires
    for _ in range(12):
        for answer in await asyncio.gather(*(deliver(system, one.url, body) for _ in range(50))):
            assert (answer.status, answer.json()) == (200, ACCEPTED)
    stored = await system.callbacks(one.id)
    own = [bytes(row["body"]) for row in stored if row["operation"] == "withdrawal"]
    assert own == [body] * COPIES_MAX
    sent_inquiries = await system.eventually(lambda: inquiries(system, one.id))
    gaps = [
        (later["asked_at"] - earlier["asked_at"]).total_seconds()
        for earlier, later in itertools.pairwise(sent_inquiries)
    ]
    assert all(gap >= FIRST_AFTER_SECONDS for gap in gaps), gaps
    await deliver_result(system, one, receipt="UKN7LEAK01")
    assert (await system.payment(one.id))["receipt"] == "UKN7LEAK01"


_FORGERIES, _AT_ONCE = 3000, 40


@pytest.mark.whole
async def test_genuine_callbacks_finalize_payments_during_a_flood_of_forgeries(
    system: System,
) -> None:
    """Thousands of messages with wrong tokens are refused alike and leave no row."""
    genuine = [await begin_awaited(system) for _ in range(20)]
    forged = asyncio.create_task(_forge(system, genuine[0]))
    await asyncio.gather(
        *(deliver_result(system, one, receipt=f"UKN7FLO{n:03}") for n, one in enumerate(genuine))
    )
    assert not forged.done()  # the flood outlasted the genuine callbacks
    assert await forged == Counter({(403, b""): _FORGERIES})
    for one in genuine:
        assert (await system.payment(one.id))["status"] == "success"
        assert len(await system.callbacks(one.id)) == 1


async def _forge(system: System, one: AwaitedPayment) -> Counter[tuple[int, bytes]]:
    """Sends messages to the payment's address with invented tokens, and counts the answers."""
    base, seen = one.url.rpartition("/")[0], Counter[tuple[int, bytes]]()
    numbers = iter(range(_FORGERIES))

    async def post() -> None:
        for number in numbers:
            answer = await deliver(system, f"{base}/{number:040x}", one.result())
            seen[answer.status, answer.body] += 1

    await asyncio.gather(*(post() for _ in range(_AT_ONCE)))
    return seen


async def test_the_receiver_refuses_a_forgery_without_postgres_and_redis() -> None:
    """Both servers are away. A genuine message is answered 503, and a forgery still 403."""
    away = {
        "DATABASE_URL": "postgresql://user@127.0.0.1:9/nothing",
        "REDIS_URL": "redis://127.0.0.1:9/0",
    }
    async with a_system() as system:
        one = await begin_awaited(system)
        process = await system.stack.start_process("callbacks.2", env=away, wait=False)
        await system.eventually(lambda: _is_up(system, process.url))
        url = process.url + urlsplit(one.url).path
        genuine = asyncio.create_task(deliver(system, url, one.result()))
        for number in range(50):
            forgery = await deliver(system, f"{url[:-40]}{number:040x}", one.result())
            assert (forgery.status, forgery.body) == (403, b"")
        assert (await genuine).status == 503


async def _is_up(system: System, url: str) -> bool:
    try:
        async with system.http.get(f"{url}/healthz") as answer:
            return answer.status == 200
    except OSError:
        return False
