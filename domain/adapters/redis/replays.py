"""Copies of first answers in Redis, so that most retries need no query to Postgres.

A copy may be missing. Then the service reads Postgres.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.redis.connection import RedisClient, record_use
from domain.adapters.redis.names import PREFIX
from domain.idempotency import FirstAnswer

# Most clients retry within minutes; Postgres answers later retries. Redis often has little memory
# and shares it with other applications.
LIFETIME = timedelta(minutes=10)
_LENGTH_MAX = 4096
_COPIES_MAX = 20_000  # the most that one process writes within `LIFETIME`

_PREFIX = f"{PREFIX}replay:"

# One call for many copies. redis-py needs as much time for one answer as for one call.
# KEYS: the names. ARGV: for each name the text, and the Unix time at which it expires.
_WRITE = """
for i, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[2 * i - 1], 'EXAT', ARGV[2 * i])
end
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A first answer, and the epoch of the database in which it was given.

    In another epoch, for example after a restore, the answer's payment may be missing.
    """

    answer: FirstAnswer
    epoch: str | None


@dataclass(frozen=True, slots=True)
class CopyToWrite:
    """A copy, and the caller and the idempotency key whose first answer it is.

    The copy expires at `expires_at`, before the key can be free again.
    """

    caller_key: str
    key: str
    copy: Copy
    expires_at: datetime


class Replays:
    """Reads and writes copies. Raises QueueUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._write_script = redis.register_script(_WRITE)
        self._counted_since = 0.0
        self._count = 0
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
        return None if raw is None else _decode(raw, now)

    async def write(self, copies: Sequence[CopyToWrite]) -> None:
        """Stores the copies in one round trip.

        Leaves out an answer that is too long, and all copies after this process has written many.
        """
        now = time.time()
        names: list[str] = []
        arguments: list[bytes | int] = []
        for one in copies:
            text = _encode(one)
            if len(text) <= _LENGTH_MAX and self._count_copy():
                until = min(one.expires_at.timestamp(), now + LIFETIME.total_seconds())
                names.append(_name(one.caller_key, one.key))
                arguments += [text, int(until)]
        if names:
            async with record_use(self._redis, "copies"):
                await self._write_script(keys=names, args=arguments)

    def _count_copy(self) -> bool:
        """Counts one more copy. Returns whether this process may write it."""
        now = time.monotonic()
        if now - self._counted_since > LIFETIME.total_seconds():
            self._counted_since, self._count = now, 0
        self._count += 1
        return self._count <= _COPIES_MAX

    async def _read_batch(self, names: Sequence[str]) -> list[bytes | None]:
        return list(await self._redis.mget(names))


# The text of a copy is one line of JSON and then the body of the answer.
def _encode(one: CopyToWrite) -> bytes:
    answer = one.copy.answer
    members = {
        "epoch": one.copy.epoch,
        "fingerprint": answer.fingerprint.hex(),
        "status": answer.status,
        "payment_id": answer.payment_id,
        "expires_at": one.expires_at.timestamp(),
    }
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE) + answer.body


def _decode(raw: bytes, now: datetime) -> Copy | None:
    """The copy, or None if it has expired or if `raw` is not the text of a copy."""
    head, is_whole, body = raw.partition(b"\n")
    try:
        members = orjson.loads(head)
        if not is_whole or float(members["expires_at"]) <= now.timestamp():
            return None
        answer = FirstAnswer(
            bytes.fromhex(members["fingerprint"]),
            int(members["status"]),
            body,
            str(members["payment_id"]),
        )
        return Copy(answer, str(members["epoch"]))
    except (ValueError, KeyError, TypeError):
        return None


def _name(caller_key: str, key: str) -> str:
    """Returns a name of fixed length that shows neither the caller nor the key."""
    return _PREFIX + hashlib.sha256(f"{len(caller_key)}:{caller_key}{key}".encode()).hexdigest()
