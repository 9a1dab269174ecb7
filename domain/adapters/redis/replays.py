"""Copies of first answers in Redis, so that most retries need no query to Postgres.

A copy may be missing. Then the service reads Postgres.
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
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.names import PREFIX
from domain.idempotency import FirstAnswer

# Most clients retry within minutes; Postgres answers later retries. Redis often has little memory
# and shares it with other applications.
_LIFETIME = timedelta(minutes=10)
_LENGTH_MAX = 4096
_COPIES_MAX = 20_000  # the most that one process writes within `_LIFETIME`

_PREFIX = f"{PREFIX}replay:"


@dataclass(frozen=True, slots=True)
class Copy:
    """A first answer, and the epoch of the database in which it was given.

    In another epoch, for example after a restore, the answer's payment may be missing.
    """

    answer: FirstAnswer
    epoch: str | None


@dataclass(frozen=True, slots=True)
class _PendingWrite:
    """A copy for Redis. `expires_at` is in seconds of Unix time."""

    name: str
    text: str
    expires_at: int


class Replays:
    """Reads and writes copies. Raises QueueUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._counted_since = 0.0
        self._count = 0
        self._writes: Lane[_PendingWrite, None] = Lane(
            self._write_batch, key=lambda copy: copy.name
        )
        self._reads: Lane[str, bytes | None] = Lane(
            self._read_batch,
            key=lambda name: name,
            shared=lambda name: name,
            abandoned=Abandoned.DROP,
        )

    async def read(self, caller_key: str, key: str, *, now: datetime) -> Copy | None:
        """Returns the copy of the first answer, or None if there is none that is valid now."""
        async with record_use(self._redis, "reading copies", is_write=False):
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
        """Stores a copy that expires before the idempotency key can be free again.

        Stores nothing if the answer is too long, or if this process wrote many copies already.
        """
        answer = copy.answer
        members = {
            "epoch": copy.epoch,
            "fingerprint": answer.fingerprint.hex(),
            "status": answer.status,
            "body": base64.b64encode(answer.body).decode(),
            "payment_id": answer.payment_id,
            "expires_at": expires_at.isoformat(),
        }
        text = json.dumps(members)
        if len(text) > _LENGTH_MAX or not self._count_copy():
            return
        until = min(expires_at.timestamp(), time.time() + _LIFETIME.total_seconds())
        async with record_use(self._redis, "copies"):
            await self._writes.submit(_PendingWrite(_name(caller_key, key), text, int(until)))

    def _count_copy(self) -> bool:
        """Counts one more copy. Returns whether this process may write it."""
        now = time.monotonic()
        if now - self._counted_since > _LIFETIME.total_seconds():
            self._counted_since, self._count = now, 0
        self._count += 1
        return self._count <= _COPIES_MAX

    async def _read_batch(self, names: Sequence[str]) -> list[bytes | None]:
        return list(await self._redis.mget(names))

    async def _write_batch(self, copies: Sequence[_PendingWrite]) -> list[None]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for copy in copies:
                pipeline.set(copy.name, copy.text, exat=copy.expires_at)
            await pipeline.execute()
        return [None] * len(copies)


def _name(caller_key: str, key: str) -> str:
    """Returns a name of fixed length that shows neither the caller nor the key."""
    return _PREFIX + hashlib.sha256(f"{len(caller_key)}:{caller_key}{key}".encode()).hexdigest()
