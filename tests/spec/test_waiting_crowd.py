"""Thousands of clients wait at once, during load, while Redis pub/sub is cut twice."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.crowd import CrowdStream, memory_bytes, open_streams
from tests.spec.playing import stopped_payouts
from tests.spec.requesting import new_subject
from tests.spec.streaming import wait_until_waiting
from tests.spec.system import System

_STREAMS = 2_000
_BACKENDS = 20  # of the streams
_WAITS = 2_000
_DEPOSITS = 400  # the load beside the payments that the clients wait for
_FILES = 8_000
# Two cores need about half a minute for these payments, and more beside other work.
_PATIENCE_SECONDS = 300.0

_EVENTS = (
    "SELECT event.owner, history.id FROM mkwanja.events AS event"
    " JOIN mkwanja.payment_history AS history ON history.id = event.history_id"
    " ORDER BY event.position"
)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * _FILES:
        pytest.skip("this machine does not allow so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _FILES), hard))
    async with a_system() as system:
        system.patience_seconds = _PATIENCE_SECONDS
        yield system
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.whole
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
async def test_a_crowd_sees_every_event_once_while_pub_sub_is_cut(system: System) -> None:
    """2,000 streams and 2,000 waits in one process. Ordinary requests go on beside them."""
    if not system.stack.redis.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    web = system.stack.process("web")
    issuer = system.stack.issuer
    users = [new_subject() for _ in range(_STREAMS - _BACKENDS)]
    tokens: list[tuple[str, str | None]] = [(issuer.user_token(user), user) for user in users]
    tokens += [(issuer.backend_token(), None)] * _BACKENDS
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def wait_until_final(payment_id: str, token: str) -> str:
            """As a client does: it asks again if the wait ends too soon."""
            url = f"{system.stack.web_url}/v1/payments/{payment_id}?wait=60"
            headers = {"Authorization": f"Bearer {token}"}
            while True:
                async with http.get(url, headers=headers) as answer:
                    payment = await answer.json(content_type=None)
                    if answer.status == 503:
                        await asyncio.sleep(int(answer.headers["Retry-After"]))
                    elif answer.status != 200 or payment["status"] != "pending":
                        assert answer.status == 200, payment
                        return str(payment["status"])

        async with stopped_payouts(system):
            owners = [users[number % len(users)] for number in range(_WAITS)]
            payment_ids: list[str] = []
            for first in range(0, _WAITS, 100):
                payment_ids += await asyncio.gather(
                    *(system.withdrawal(owner=owner) for owner in owners[first : first + 100])
                )
            empty_bytes = memory_bytes(web)
            streams = await open_streams(system.stack.web_url, tokens)
            await wait_until_waiting(system, "stream", _STREAMS)
            streams_bytes = memory_bytes(web)
            token_of = {owner: token for token, owner in tokens}
            waits = [
                asyncio.create_task(wait_until_final(payment_id, token_of[owner]))
                for payment_id, owner in zip(payment_ids, owners, strict=True)
            ]
            await wait_until_waiting(system, "payment", _WAITS)
            waits_bytes = memory_bytes(web)
            # Ordinary requests have all their places beside the crowd.
            (await system.backend.get("/v1/payments")).expect(200)
        deposits = asyncio.create_task(_pay(system, users))
        await system.eventually(lambda: sum(wait.done() for wait in waits) > _WAITS // 10)
        await _cut_subscriptions(system)
        await system.eventually(lambda: sum(wait.done() for wait in waits) > _WAITS // 3)
        await system.stack.redis.stop()
        await asyncio.sleep(2)
        await system.stack.redis.start()
        assert set(await asyncio.gather(*waits)) == {"success"}
        for payment_id in await deposits:
            await system.settled(payment_id)
        await _assert_complete(system, streams)
        print(  # noqa: T201 - for docs/performance
            f"memory of the web process: {empty_bytes / 2**20:.0f} MiB;"
            f" {(streams_bytes - empty_bytes) / _STREAMS / 1024:.0f} KiB for a stream,"
            f" {(waits_bytes - streams_bytes) / _WAITS / 1024:.0f} KiB for a wait"
        )
        for stream in streams:
            stream.close()
    await wait_until_waiting(system, "stream", 0)


async def _pay(system: System, users: list[str]) -> list[str]:
    """Make payments of one kind after the other, each for another user."""
    return [
        await (system.bill_payment if number % 2 else system.withdrawal)(owner=users[number])
        for number in range(_DEPOSITS)
    ]


async def _cut_subscriptions(system: System) -> None:
    """Close the connections of all subscribers of Redis."""
    redis: Redis = Redis.from_url(system.stack.redis_url)
    assert await redis.client_kill_filter(_type="pubsub") >= 1
    await redis.aclose()


async def _assert_complete(system: System, streams: list[CrowdStream]) -> None:
    """Check that each stream had every event of its owner once, in the order of the feed."""
    rows = await system.rows(_EVENTS)
    expected: defaultdict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        expected[None].append(str(row["id"]))
        if row["owner"] is not None:
            expected[row["owner"]].append(str(row["id"]))
    await system.eventually(
        lambda: sum(len(stream.ids) < len(expected[stream.owner]) for stream in streams),
        lambda behind: behind == 0,
        "every stream has all its events",
    )
    cursor_of: dict[str, str] = {}
    for stream in streams:
        assert not stream.is_closed, stream.end
        assert stream.ids == expected[stream.owner], stream.owner
        for event_id, cursor in zip(stream.ids, stream.cursors, strict=True):
            assert cursor_of.setdefault(event_id, cursor) == cursor, "one event has two cursors"
