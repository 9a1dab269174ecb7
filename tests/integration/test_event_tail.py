"""The tail of the feed: woken by Redis, right without Redis, and idle while no request waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from domain.adapters.postgres.feed import Feed, list_new_events
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import RedisClient
from domain.lifecycle.announce import OutboxEvent
from gateway import tail as tail_module
from gateway.edge.read_queue import ReadQueue
from gateway.tail import EventTail, Subscription, Wait
from tests.integration.conftest import PATIENCE_SECONDS, Store, new_id, success, until

_CHANNEL = "payment-events"


@pytest.fixture
async def tail(store: Store, redis: RedisClient) -> AsyncIterator[EventTail]:
    reads = ReadQueue(at_once=2, patience_seconds=PATIENCE_SECONDS)
    tail = EventTail(Feed(store.database), reads, redis)
    yield tail
    await tail.close()


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tail look only when its bell rings."""
    monkeypatch.setattr(tail_module, "_POLL_SECONDS", 3600.0)


async def _has_begun(tail: EventTail) -> bool:
    return tail._place is not None


async def _listeners(redis: RedisClient) -> int:
    [(_, count)] = await redis.pubsub_numsub(_CHANNEL)
    return int(count)


async def _ring(redis: RedisClient) -> None:
    await RedisBell(redis).ring([OutboxEvent(1, new_id(), "{}")])


async def _begin(tail: EventTail, redis: RedisClient) -> None:
    await until(lambda: _has_begun(tail))
    await until(lambda: _listeners(redis))


async def _rung(wait: Wait) -> bool:
    return await wait.next(asyncio.get_running_loop().time() + PATIENCE_SECONDS)


async def _subject(subscription: Subscription) -> bytes:
    """The next event of the subscription."""
    await subscription.changed(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
    [frame] = subscription.take(0)
    return frame.wire


@pytest.mark.usefixtures("no_polls")
async def test_a_message_on_redis_wakes_a_wait_and_a_stream(
    tail: EventTail, store: Store, redis: RedisClient
) -> None:
    payment_id, _ = await store.claimed()
    with tail.wait_for(payment_id) as wait, tail.subscribe(None) as subscription:
        await _begin(tail, redis)
        assert await _rung(wait), "the beginning wakes the waits that were there before"
        subscription.take(0)
        await store.changing.change(success(payment_id))
        await _ring(redis)
        assert await _rung(wait)
        assert str(payment_id).encode() in await _subject(subscription)


@pytest.mark.usefixtures("no_polls")
async def test_the_tail_finds_what_it_missed_when_it_has_subscribed_again(
    tail: EventTail, store: Store, redis: RedisClient
) -> None:
    """Redis closes the connection, and the message is lost."""
    payment_id, _ = await store.claimed()
    with tail.wait_for(payment_id) as wait:
        await _begin(tail, redis)
        assert await _rung(wait)
        assert await redis.client_kill_filter(_type="pubsub") == 1
        await store.changing.change(success(payment_id))
        assert await _rung(wait)
        assert await _listeners(redis) == 1


async def test_the_tail_looks_by_itself_when_no_message_comes(
    tail: EventTail, store: Store, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_POLL_SECONDS", 0.05)
    payment_id, _ = await store.claimed()
    with tail.wait_for(payment_id) as wait:
        await _begin(tail, redis)
        assert await _rung(wait)
        await store.changing.change(success(payment_id))
        assert await _rung(wait)


@pytest.mark.usefixtures("no_polls")
async def test_an_event_before_the_tail_begins_wakes_a_wait(
    store: Store, redis: RedisClient
) -> None:
    """The request registered before the event, and the tail began after it."""
    payment_id, _ = await store.claimed()
    reads, may_begin = ReadQueue(at_once=1, patience_seconds=PATIENCE_SECONDS), asyncio.Event()
    blocking = asyncio.create_task(reads.run(may_begin.wait))
    await asyncio.sleep(0)
    tail = EventTail(Feed(store.database), reads, redis)
    with tail.wait_for(payment_id) as wait:
        await until(lambda: _listeners(redis))
        await store.changing.change(success(payment_id))
        await list_new_events(store.database)
        may_begin.set()
        await blocking
        assert await _rung(wait)
    await tail.close()


async def test_the_tail_marks_a_stream_as_behind_when_it_begins(tail: EventTail) -> None:
    with tail.subscribe(None) as subscription:
        assert not subscription.is_behind
        await until(lambda: _has_begun(tail))
        assert subscription.is_behind


async def test_the_tail_ends_with_the_last_request_and_begins_again_with_the_next(
    tail: EventTail, redis: RedisClient
) -> None:
    for _ in range(3):
        with tail.wait_for(new_id()):
            await _begin(tail, redis)
        await until(lambda: _has_ended(tail))
        assert await _listeners(redis) == 0


async def _has_ended(tail: EventTail) -> bool:
    return tail._task is None


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_a_request_that_comes_while_the_tail_ends_finds_a_tail(
    tail: EventTail, store: Store, redis: RedisClient, turns: int
) -> None:
    """The request comes after a few turns of the event loop."""
    payment_id, _ = await store.claimed()
    with tail.wait_for(new_id()):
        await _begin(tail, redis)
    for _ in range(turns):
        await asyncio.sleep(0)
    with tail.wait_for(payment_id) as wait:
        await store.changing.change(success(payment_id))
        assert await _rung(wait)


async def test_a_page_that_is_larger_than_one_read_reaches_every_stream_in_order(
    tail: EventTail, store: Store, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_PAGE_SIZE", 3)
    ids = [(await store.claimed())[0] for _ in range(8)]
    with tail.subscribe(None) as subscription:
        await _begin(tail, redis)
        subscription.take(0)
        for payment_id in ids:
            await store.changing.change(success(payment_id))
        await _ring(redis)
        seen: list[UUID] = []

        async def have_all_come() -> bool:
            for frame in subscription.take(0):
                [subject] = [one for one in ids if str(one).encode() in frame.wire]
                seen.append(subject)
            return len(seen) == len(ids)

        await until(have_all_come)
    assert seen == ids
