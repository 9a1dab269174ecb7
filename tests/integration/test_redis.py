"""The uses of Redis: wake-ups that arq reads, the bell, and copies of answers."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.constants import job_key_prefix
from arq.jobs import deserialize_job_raw
from redis.exceptions import TimeoutError as RedisTimeoutError

from domain.adapters.redis import arq_queue, wakeups
from domain.adapters.redis import replays as replays_module
from domain.adapters.redis.arq_queue import PAYMENTS_PER_JOB_MAX, QUEUE, STEP_JOB, decode_job
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.replays import Copy, CopyToWrite, Replays
from domain.adapters.redis.wakeups import RedisWakeups
from domain.errors import QueueUnavailable
from domain.idempotency import FirstAnswer
from domain.lifecycle.announce import OutboxEvent
from tests.integration.conftest import PATIENCE_SECONDS, new_id
from tests.integration.redis_uses import USES, client_of

NOW = datetime.now(UTC)
COPY = Copy(
    FirstAnswer(b"\x01\xff\x00", 202, b'{"id": "1"}\n', "0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b"),
    "one life",
)


async def jobs(redis: RedisClient) -> list[tuple[Any, ...]]:
    """Returns the function and the arguments of each queued job, in order, as arq reads them."""
    read = []
    for job_id in await redis.zrange(QUEUE, 0, -1):
        raw = await redis.get(job_key_prefix + job_id.decode())
        assert raw is not None
        assert await redis.ttl(job_key_prefix + job_id.decode()) > 0
        json.loads(raw)
        read.append(deserialize_job_raw(raw, deserializer=decode_job)[:3])
    return read


class TestWakeups:
    """Wake-ups are arq jobs that carry only the id of a payment."""

    async def test_a_wake_up_is_a_json_job_with_an_id_of_its_own(self, redis: RedisClient) -> None:
        """One payment may have two jobs, so a killed worker's job does not block the next job."""
        payment_id = new_id()
        queue = RedisWakeups(redis)
        await asyncio.gather(queue.wake_one(payment_id), queue.wake_one(payment_id))
        await queue.wake([payment_id])
        await queue.wake_new([payment_id])
        await queue.wake([])  # a sweep may find nothing
        assert await jobs(redis) == [(STEP_JOB, [str(payment_id)], {})] * 4

    async def test_payments_that_are_woken_together_share_jobs_of_bounded_size(
        self, redis: RedisClient
    ) -> None:
        """Each payment is in one job, in the order of the call."""
        payment_ids = [new_id() for _ in range(2 * PAYMENTS_PER_JOB_MAX + 3)]
        await RedisWakeups(redis).wake_new(payment_ids)
        queued = [arguments for _, arguments, _ in await jobs(redis)]
        assert sorted(map(len, queued)) == [3, PAYMENTS_PER_JOB_MAX, PAYMENTS_PER_JOB_MAX]
        assert sorted(itertools.chain(*queued)) == sorted(map(str, payment_ids))

    async def test_the_sweeper_counts_the_payments_and_not_the_jobs_in_the_queue(
        self, redis: RedisClient
    ) -> None:
        """A job of an older release has no number in its id. It carries one payment."""
        queue = RedisWakeups(redis)
        await queue.wake_new([new_id() for _ in range(60)])
        await redis.zadd(QUEUE, {"{arq:abort}0199a0b1c2d37e4f8a5b6c7d8e9f0a1b": 1})
        assert await queue.room() == 200 - 61
        await queue.wake_new([new_id() for _ in range(200)])
        assert await queue.room() == 20

    async def test_with_a_long_queue_only_a_few_wake_ups_are_added_in_front(
        self, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A long queue has enough work. The few are for payments that lost their wake-up."""
        monkeypatch.setattr(wakeups, "_ENOUGH_QUEUED", 10)
        monkeypatch.setattr(wakeups, "_ALWAYS_WOKEN", 2)
        queue = RedisWakeups(redis)
        await asyncio.gather(*(queue.wake_one(new_id()) for _ in range(5)))
        assert await queue.room() == 5
        await queue.wake([new_id() for _ in range(20)])
        assert await queue.room() == 2
        lost = [new_id() for _ in range(2)]
        await queue.wake(lost)
        ahead = [arguments for _, arguments, _ in (await jobs(redis))[:2]]
        assert set(itertools.chain(*ahead)) >= set(map(str, lost))

    async def test_a_full_queue_accepts_wake_ups_of_the_sweeper_but_not_of_a_flood(
        self, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flood beyond the limit adds no job, and leaves no key in Redis.

        The sweeper's jobs go before the jobs of the flood, up to a limit.
        """
        monkeypatch.setattr(wakeups, "_QUEUE_LENGTH_MAX", 10)
        monkeypatch.setattr(wakeups, "_PLACES_OF_SWEEPERS", 4)
        monkeypatch.setattr(arq_queue, "PAYMENTS_PER_JOB_MAX", 1)
        queue = RedisWakeups(redis)
        early = [new_id() for _ in range(3)]
        await queue.wake(early)
        flood = [new_id() for _ in range(200)]
        await asyncio.gather(*map(queue.wake_one, flood))
        late = [new_id() for _ in range(4)]
        await queue.hand_over(late)
        await asyncio.gather(*map(queue.wake_one, flood))
        await queue.wake([new_id() for _ in range(50)])
        queued = [arguments[0] for _, arguments, _ in await jobs(redis)]
        assert len(queued) == 14
        assert set(queued[:7]) == set(map(str, early + late))
        assert set(queued[7:]) <= set(map(str, flood))
        assert len(await redis.keys(f"{job_key_prefix}*")) == 14


class TestBell:
    """The bell publishes the events of a batch, each at most once."""

    async def test_events_are_published_in_order_on_both_channels_byte_for_byte(
        self, redis: RedisClient
    ) -> None:
        events = [
            OutboxEvent(number, new_id(), f'{{"note":"thanks \u00e9 \u2713","n":{number}}}')
            for number in range(20)
        ]
        bell = RedisBell(redis)
        async with redis.pubsub() as listener, asyncio.timeout(PATIENCE_SECONDS):
            await listener.subscribe("payment-events", f"payment-events:{events[0].payment_id}")
            await bell.ring(events)
            received: list[tuple[str, str]] = []
            while len(received) < 21:
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    received.append((message["channel"].decode(), message["data"].decode()))
        of_all = [body for channel, body in received if channel == "payment-events"]
        assert of_all == [event.body for event in events]
        own = [body for channel, body in received if channel != "payment-events"]
        assert own == [events[0].body]


def to_write(
    caller_key: str, key: str, copy: Copy, expires_at: datetime = NOW + timedelta(hours=1)
) -> CopyToWrite:
    return CopyToWrite(caller_key, key, copy, expires_at)


class TestReplays:
    """Copies of first answers."""

    async def test_a_copy_is_the_answer_byte_for_byte_for_its_own_caller_and_key(
        self, redis: RedisClient
    ) -> None:
        """No name of a key in Redis shows the caller or the idempotency key."""
        replays = Replays(redis)
        await replays.write([to_write("3:isssub", "order-42", COPY)])
        assert await replays.read("3:isssub", "order-42", now=NOW) == COPY
        assert await replays.read("3:isssub", "order-43", now=NOW) is None
        assert await replays.read("3:isssuborder", "-42", now=NOW) is None
        assert not [name for name in await redis.keys() if b"order" in name or b"sub" in name]

    async def test_concurrent_reads_get_their_own_copies(self, redis: RedisClient) -> None:
        """One write stores all copies. Concurrent reads share round trips, but not answers."""
        replays = Replays(redis)
        copies = [
            Copy(FirstAnswer(b"\x01", 202, str(n).encode(), str(n)), f"life {n}") for n in range(50)
        ]
        await replays.write([to_write("caller", copy.answer.payment_id, copy) for copy in copies])
        read = await asyncio.gather(
            *(replays.read("caller", copy.answer.payment_id, now=NOW) for copy in copies)
        )
        assert read == copies

    async def test_an_expired_copy_is_not_returned(self, redis: RedisClient) -> None:
        """A copy expires by the reader's clock and by the clock of Redis."""
        replays = Replays(redis)
        await replays.write([to_write("caller", "key", COPY)])
        assert await replays.read("caller", "key", now=NOW + timedelta(hours=1)) is None
        (name,) = await redis.keys(f"{PREFIX}replay:*")
        assert 0 < await redis.ttl(name) <= 3600
        await replays.write([to_write("caller", "key", COPY, NOW - timedelta(seconds=1))])
        assert await redis.keys(f"{PREFIX}replay:*") == []

    async def test_copies_are_bounded_in_size_and_time_and_number(
        self, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Postgres has every answer, so Redis needs only a few copies."""
        replays = Replays(redis)
        monkeypatch.setattr(replays_module, "_COPIES_MAX", 3)
        large = Copy(FirstAnswer(b"\x01", 202, b"x" * 4096, "1"), "one life")
        tomorrow = datetime.now(UTC) + timedelta(hours=24)
        await replays.write([to_write("caller", "large", large, tomorrow)])
        assert await redis.keys(f"{PREFIX}replay:*") == []
        await replays.write(
            [to_write("caller", str(number), COPY, tomorrow) for number in range(9)]
        )
        names = await redis.keys(f"{PREFIX}replay:*")
        assert len(names) == 3
        assert all([0 < await redis.ttl(name) <= 600 for name in names])

    @pytest.mark.parametrize(
        "garbage",
        [
            b"",
            b"\xff\xfe",
            b"{",
            b"[]",
            b"null",
            b"7",
            b'{"expires_at": 32503680000}',
            b'{"expires_at": 32503680000}\n{}',
            b'{"expires_at": "2999-01-01T00:00:00+00:00"}\n{}',
        ],
    )
    async def test_garbage_is_not_returned_as_a_copy(
        self, redis: RedisClient, garbage: bytes
    ) -> None:
        """If the copy is garbage, the service reads the answer from Postgres."""
        replays = Replays(redis)
        await replays.write([to_write("caller", "key", COPY)])
        (name,) = await redis.keys(f"{PREFIX}replay:*")
        await redis.set(name, garbage)
        assert await replays.read("caller", "key", now=NOW) is None


class TestAway:
    """If Redis is away, every call raises the same error."""

    # The command `doctor` inspects, and names redis-py's own errors.
    @pytest.mark.parametrize("use", [name for name in USES if name not in {"jobs", "inspect"}])
    async def test_every_call_raises_queue_unavailable(self, use: str) -> None:
        """No exception of redis-py escapes."""
        async with client_of("redis://127.0.0.1:9/0") as away:
            with pytest.raises(QueueUnavailable):
                await USES[use](away)

    async def test_a_call_to_a_hanging_server_times_out(self, redis_of_run: Any) -> None:
        """A frozen Redis accepts connections but answers nothing. After its thaw, calls work."""
        if not redis_of_run.can_be_stopped:
            pytest.skip("REDIS_URL names a server that is not ours to stop")
        async with client_of(redis_of_run.url + "?socket_timeout=0.2") as client:
            await USES["rate"](client)
            redis_of_run.freeze()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    with pytest.raises(QueueUnavailable):
                        await USES["rate"](client)
            finally:
                redis_of_run.thaw()
            await USES["rate"](client)


class TestSending:
    """A command is sent without a task of its own, within the time limit of the connection."""

    async def test_a_command_makes_no_task(self, redis: RedisClient) -> None:
        """A task is a fifth of the time of a command, and every payment needs several commands."""
        await redis.set("a", 1)  # connects
        made: list[Any] = []

        def count(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
            made.append(work)
            return asyncio.Task(work, loop=loop, **options)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(count)
        try:
            await redis.set("a", 2)
        finally:
            loop.set_task_factory(None)
        assert await redis.get("a") == b"2"
        assert made == []

    async def test_a_server_that_reads_nothing_ends_the_connection(self, redis_of_run: Any) -> None:
        """A part of the command may be sent, so the next command needs another connection."""
        if not redis_of_run.can_be_stopped:
            pytest.skip("REDIS_URL names a server that is not ours to stop")
        more_than_buffers = b"x" * 32 * 1024 * 1024
        async with client_of(redis_of_run.url + "?socket_timeout=0.2") as client:
            await client.set("b", 1)
            redis_of_run.freeze()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    with pytest.raises(RedisTimeoutError, match="writing"):
                        await client.set("a", more_than_buffers)
            finally:
                redis_of_run.thaw()
            answer = None
            async with asyncio.timeout(PATIENCE_SECONDS):
                while answer is None:
                    with suppress(RedisTimeoutError):  # the server may still be busy
                        answer = await client.get("b")
            assert answer == b"1"  # and not the answer to the first command, which may still run
