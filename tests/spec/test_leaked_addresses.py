"""The receiver against whoever knows nothing, and whoever learned an address: neither learns,
hurts or fills anything.
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
FIRST_AFTER_SECONDS = 30  # as shipped: what a payment's second question waits for
_DATE = re.compile(rb"\r\nDate: [^\r]*")


async def test_whatever_is_wrong_with_an_address_the_answer_is_the_same_to_the_byte(
    system: System,
) -> None:
    """Status, headers and body: for a wrong token, operation or payment, in form or in content."""
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
        f"nobody/{operation}/{token}",
        f"{payment_id.upper()}/{operation}/{token}",
    ):
        whole = await deliver_raw(system.stack.callbacks_url, f"/results/{address}".encode())
        answers[address] = _DATE.sub(b"", whole)
    [answer] = set(answers.values())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")
    assert await system.callbacks(one.id) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_an_address_takes_nothing_but_post(system: System, method: str) -> None:
    """Whoever follows a link from a log changes nothing, and is not told whether it was a right
    one.
    """
    one = await begin_awaited(system)
    seen = set()
    for url in (one.url, one.url[:-40] + "0" * 40):
        async with system.http.request(method, url) as answer:
            seen.add((answer.status, await answer.read(), answer.headers.get("Content-Type")))
    [(status, body, _)] = seen
    assert (status, one.url.rpartition("/")[2].encode() in body) == (405, False)
    assert await system.callbacks(one.id) == []


def _packed(body: bytes) -> dict[str, tuple[str, bytes]]:
    """A body in every coding that a reader might undo, and in some that are only said."""
    return {
        "gzip": ("gzip", gzip.compress(body)),
        "x-gzip": ("x-gzip", gzip.compress(body)),
        "deflate": ("deflate", zlib.compress(body)),
        "twice": ("gzip, gzip", gzip.compress(gzip.compress(body))),
        "a bomb": ("gzip", gzip.compress(bytes(30_000_000))),
        "only said": ("gzip", body),
        "unknown": ("zstd", body),
        "in capitals": ("GZIP", body),
        "with an identity": ("identity, br", body),
    }


async def test_a_body_that_claims_to_be_packed_is_kept_as_it_came_and_never_read(
    system: System,
) -> None:
    """Answered 200, flagged, and believed in nothing: what it would unpack to is nobody's word."""
    one = await begin_awaited(system)
    for number, (what, (coding, body)) in enumerate(
        _packed(_body(one, receipt="UKN7PACK01")).items(), 1
    ):
        answer = await deliver(system, one.url, body, headers=[("Content-Encoding", coding)])
        assert (answer.status, answer.json()) == (200, ACCEPTED), what
        stored = await system.callbacks(one.id)
        assert (len(stored), bytes(stored[-1]["body"])) == (number, body), what
        assert (stored[-1]["disposition"], stored[-1]["is_flagged"]) == ("unreadable", True), what
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


async def test_a_second_header_that_claims_a_coding_counts_like_the_first(system: System) -> None:
    one = await begin_awaited(system)
    headers = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    answer = await deliver(system, one.url, one.result(receipt="UKN7PACK02"), headers=headers)
    assert answer.json() == ACCEPTED
    assert (await system.payment(one.id))["stage"] == "awaiting_result"


async def test_what_a_sender_says_of_itself_is_not_where_it_comes_from() -> None:
    """`Forwarded`, `X-Real-IP` and their like are never read, nor is `X-Forwarded-For` from who
    is no proxy of ours.
    """
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
async def test_an_address_that_leaked_is_no_way_to_fill_the_record_or_to_have_daraja_asked_without_end(
    system: System,
) -> None:
    """The same message, hundreds of times: answered each time, kept a bounded number of times,
    and no reason to ask more.
    """
    one = await begin_awaited(system, "b2c")
    body = _body(one, code=17)  # says nothing final, so that Daraja is asked
    answers = Counter[tuple[int, bytes]]()
    for _ in range(12):
        replies = await asyncio.gather(*(deliver(system, one.url, body) for _ in range(50)))
        answers.update((reply.status, reply.body) for reply in replies)
    assert [(status, json.loads(reply), times) for (status, reply), times in answers.items()] == [
        (200, ACCEPTED, 600)
    ]
    kept = await system.callbacks(one.id)
    own = [row for row in kept if row["operation"] == "withdrawal"]
    assert len(own) == COPIES_MAX
    assert {bytes(row["body"]) for row in own} == {body}
    asked = await system.eventually(lambda: inquiries(system, one.id))
    gaps = [
        (later["asked_at"] - earlier["asked_at"]).total_seconds()
        for earlier, later in itertools.pairwise(asked)
    ]
    assert all(gap >= FIRST_AFTER_SECONDS for gap in gaps), gaps
    assert (await deliver(system, one.url, one.result(receipt="UKN7LEAK01"))).json() == ACCEPTED
    assert (await system.payment(one.id))["receipt"] == "UKN7LEAK01"


_FORGERIES, _AT_ONCE = 3000, 40


async def test_a_flood_of_forgeries_keeps_no_true_callback_from_being_heard(system: System) -> None:
    """Thousands of messages under wrong tokens: each is refused alike and leaves no row; what is
    true is finalized.
    """
    true = [await begin_awaited(system) for _ in range(20)]
    forged = asyncio.create_task(_forge(system, true[0]))
    answers = await asyncio.gather(
        *(
            deliver(system, one.url, one.result(receipt=f"UKN7FLO{n:03}"))
            for n, one in enumerate(true)
        )
    )
    assert not forged.done()  # else it was no flood
    assert await forged == Counter({(403, b""): _FORGERIES})
    assert [answer.json() for answer in answers] == [ACCEPTED] * len(true)
    assert {(await system.payment(one.id))["status"] for one in true} == {"success"}
    assert [len(await system.callbacks(one.id)) for one in true] == [1] * len(true)


async def _forge(system: System, one: AwaitedPayment) -> Counter[tuple[int, bytes]]:
    """So many messages with a right payment and operation, and tokens that nobody gave out; what
    they were answered.
    """
    base, seen = one.url.rpartition("/")[0], Counter[tuple[int, bytes]]()
    body = _body(one, receipt="UKN7FORGE1")
    numbers = iter(range(_FORGERIES))

    async def post() -> None:
        for number in numbers:
            answer: Answer = await deliver(system, f"{base}/{number:040x}", body)
            seen[answer.status, answer.body] += 1

    await asyncio.gather(*(post() for _ in range(_AT_ONCE)))
    return seen


async def test_nothing_is_read_for_a_forgery() -> None:
    """Where neither Postgres nor Redis can be reached a forgery is refused as ever; only a true
    one is told to come back.
    """
    async with a_system() as system:
        one = await begin_awaited(system)
        away = {
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing",
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
