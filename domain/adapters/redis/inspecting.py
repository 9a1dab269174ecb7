"""What an operator should know about Redis before the processes use it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError
from redis.utils import str_if_bytes

from domain.adapters.redis.arq_queue import QUEUE
from domain.adapters.redis.bell import CHANNEL
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.sharing import SharedRate, SharedText
from domain.adapters.redis.wakeups import RedisWakeups

# Asks Redis whether our user may use a command with these keys and channels, without using it.
# KEYS: none. ARGV: the command and its arguments. Returns 1 or 0, or 2 if Redis cannot say it.
_MAY_USE = """
if not redis.acl_check_cmd then return 2 end
return redis.acl_check_cmd(unpack(ARGV)) and 1 or 0
"""
# One command of each kind that changes nothing here.
_COMMANDS = (
    ("PUBLISH", CHANNEL, ""),
    ("PUBLISH", f"{CHANNEL}:0", ""),
    ("SUBSCRIBE", CHANNEL),
    ("ZADD", QUEUE, "1", "job"),
    ("ZREM", QUEUE, "job"),
    ("ZRANGEBYSCORE", QUEUE, "0", "1"),
    ("PSETEX", f"arq:job:{PREFIX}", "1", "1"),
    ("LPUSH", f"{PREFIX}new-jobs", "1"),
    ("BRPOP", f"{PREFIX}new-jobs", "1"),
    ("WATCH", QUEUE),
    ("MULTI",),
    ("EXEC",),
    ("DEL", QUEUE),
    ("EXPIRE", QUEUE, "1"),
    ("HSET", f"{PREFIX}hash", "1", "1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """What Redis is, and what our user may not do there.

    `shards` is 0 if Redis is no cluster. The memory's members are None if our user may not read
    them. `memory_max` is 0 if there is no limit.
    """

    server: str
    version: str
    role: str
    shards: int
    refused_commands: tuple[str, ...]
    eviction_policy: str | None
    memory_used: int | None
    memory_max: int | None

    @property
    def major_version(self) -> int:
        digits = self.version.partition(".")[0]
        return int(digits) if digits.isdigit() else 0


async def inspect_redis(redis: RedisClient) -> RedisFacts:
    """Reads the facts, and uses Redis as the processes do, with keys that expire at once.

    Raises QueueUnavailable, or an error of redis-py: `classify_error` names its kind.
    """
    hello = await _hello(redis)
    shards = await redis.count_shards()
    text = SharedText(redis, f"doctor:{uuid4().hex}")
    await text.write("1", ttl_seconds=1)
    await text.read()
    await SharedRate(redis, f"doctor:{uuid4().hex}", per_second=1000).charge()
    wakeups = RedisWakeups(redis)
    await wakeups.room()
    await wakeups.consume_hand_over(uuid4())
    memory = await _read_memory(redis)
    return RedisFacts(
        server=hello.get("server", "redis"),
        version=hello.get("version", ""),
        role=hello.get("role", ""),
        shards=shards,
        refused_commands=await _refused_commands(redis),
        eviction_policy=memory.get("maxmemory_policy"),
        memory_used=memory.get("used_memory"),
        memory_max=memory.get("maxmemory"),
    )


async def _hello(redis: RedisClient) -> dict[str, str]:
    """The server's name, version and role, as far as it says them."""
    execute: Any = redis.execute_command
    try:
        answer = await execute("HELLO")
    except ResponseError:
        return {}  # an older server, or a user that may not ask
    pairs = (
        answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=False)
    )
    return {str_if_bytes(name): str(str_if_bytes(value)) for name, value in pairs}


async def _read_memory(redis: RedisClient) -> Mapping[str, Any]:
    with suppress(ResponseError):  # a user of a hosted Redis often may not
        answer: Mapping[str, Any] = await redis.info("memory")
        return answer
    return {}


async def _refused_commands(redis: RedisClient) -> tuple[str, ...]:
    may_use = redis.register_script(_MAY_USE)
    refused = []
    for command in _COMMANDS:
        try:
            if await may_use(keys=[], args=list(command)) == 0:
                refused.append(command[0])
        except RedisError:
            continue  # this server does not know the command by this name
    return tuple(dict.fromkeys(refused))
