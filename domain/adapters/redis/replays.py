"""A copy of first answers, so that a retry need not ask Postgres.

It may be empty or gone; then Postgres is asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis.connection import RedisClient, available
from domain.adapters.redis.names import PREFIX
from domain.idempotency import FirstAnswer

# A client that retries does it within minutes; later ones Postgres answers. Redis is often small,
# and its memory shared.
_KEPT = timedelta(minutes=10)
_LENGTH_MAX = 4096
_COPIES_MAX = 20_000  # of this process, in that time

_PREFIX = f"{PREFIX}replay:"


@dataclass(frozen=True, slots=True)
class Copy:
    """A first answer, and the life of the database in which it was given.

    In another one its payment may be missing.
    """

    answer: FirstAnswer
    epoch: str | None


@dataclass(frozen=True, slots=True)
class _Written:
    """A copy to keep until `expires_at`, in seconds since the epoch."""

    name: str
    text: str
    expires_at: int


class Replays:
    """Reads and writes copies. Raises QueueUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._counted_since = 0.0
        self._count = 0
        self._writes: Lane[_Written, None] = Lane(self._write_batch, key=lambda copy: copy.name)
        self._reads: Lane[str, bytes | None] = Lane(
            self._read_batch,
            key=lambda name: name,
            shared=lambda name: name,
            abandoned=Abandoned.DROP,
        )

    async def read(self, caller_key: str, key: str, *, now: datetime) -> Copy | None:
        """The copy, unless its time is over."""
        async with available(self._redis, "reading copies", writes=False):
            raw = await self._reads.submit(_name(caller_key, key))
        if raw is None:
            return None
        try:
            copy = json.loads(raw)
            if datetime.fromisoformat(copy["expires_at"]) <= now:
                return None
            answer = FirstAnswer(
                bytes.fromhex(copy["fingerprint"]),
                int(copy["status"]),
                base64.b64decode(copy["body"]),
                str(copy["payment_id"]),
            )
            return Copy(answer, str(copy["epoch"]))
        except (ValueError, KeyError, TypeError):
            return None

    async def write(self, caller_key: str, key: str, copy: Copy, expires_at: datetime) -> None:
        """Keeps a copy for a while, and no longer than until the key may be free again.

        Not every answer has one.
        """
        answer = copy.answer
        written = {
            "epoch": copy.epoch,
            "fingerprint": answer.fingerprint.hex(),
            "status": answer.status,
            "body": base64.b64encode(answer.body).decode(),
            "payment_id": answer.payment_id,
            "expires_at": expires_at.isoformat(),
        }
        text = json.dumps(written)
        if len(text) > _LENGTH_MAX or not self._has_room():
            return
        until = min(expires_at.timestamp(), time.time() + _KEPT.total_seconds())
        async with available(self._redis, "copies"):
            await self._writes.submit(_Written(_name(caller_key, key), text, int(until)))

    def _has_room(self) -> bool:
        """Counts one more copy, if this process may write one."""
        now = time.monotonic()
        if now - self._counted_since > _KEPT.total_seconds():
            self._counted_since, self._count = now, 0
        self._count += 1
        return self._count <= _COPIES_MAX

    async def _read_batch(self, names: Sequence[str]) -> list[bytes | None]:
        return list(await self._redis.mget(names))

    async def _write_batch(self, copies: Sequence[_Written]) -> list[None]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for copy in copies:
                pipeline.set(copy.name, copy.text, exat=copy.expires_at)
            await pipeline.execute()
        return [None] * len(copies)


def _name(caller_key: str, key: str) -> str:
    """A name of fixed length that shows neither caller nor key."""
    return _PREFIX + hashlib.sha256(f"{len(caller_key)}:{caller_key}{key}".encode()).hexdigest()
