"""Checks Redis: its kind and version, the rights of our user, and its eviction policy."""

from __future__ import annotations

from redis.exceptions import RedisError

from domain.adapters.outages import Outage
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.faults import explain_error
from domain.adapters.redis.inspecting import RedisFacts, inspect_redis
from domain.adapters.settings.common import RedisSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.errors import QueueUnavailable
from workers.doctor.findings import Finding, failed, ok, skipped, warning

_VERSION_MIN = 7
_FULL_ABOVE = 0.9
_RIGHTS = "Give the user the rights in docs/deployment/redis.md, section 'Rights of the user'."


async def check_redis() -> list[Finding]:
    """The findings about the Redis of REDIS_URL."""
    try:
        settings = read_settings(RedisSettings)
    except SettingsError:
        return [skipped("redis", "REDIS_URL")]
    redis = connect(
        settings.redis_url,
        client_name="mkwanja-doctor",
        ca_file=settings.redis_ca_file,
        verify=settings.redis_tls_verify,
    )
    try:
        facts = await _inspect(redis)
    except (QueueUnavailable, RedisError, OSError, TimeoutError) as error:
        cause = explain_error(error)
        return [failed("redis", cause.problem, cause.remedy)]
    finally:
        await redis.aclose()
    return [judge_kind(facts), _judge_rights(facts), judge_memory(facts)]


async def _inspect(redis: RedisClient) -> RedisFacts:
    """The facts. Tries twice, because a busy machine may need longer than the client's one second.

    All checks begin at the same time.
    """
    try:
        return await inspect_redis(redis)
    except (QueueUnavailable, RedisError, OSError, TimeoutError) as error:
        if explain_error(error).kind != Outage.TIMEOUT:
            raise
    return await inspect_redis(redis)


def judge_kind(facts: RedisFacts) -> Finding:
    text = f"{facts.server} {facts.version}".strip()
    if facts.shards:
        text += f", a cluster of {facts.shards} shard" + ("s" if facts.shards > 1 else "")
    if facts.shards > 1:
        return failed("redis", text, "Use a Redis without cluster mode, or with one shard.")
    if facts.version and facts.major_version < _VERSION_MIN:
        return failed("redis", text, f"Use Redis {_VERSION_MIN} or later, or Valkey.")
    return ok("redis", text)


def _judge_rights(facts: RedisFacts) -> Finding:
    if facts.refused_commands:
        text = f"our user may not use {', '.join(facts.refused_commands)} as the service needs"
        return failed("redis rights", text, _RIGHTS)
    return ok("redis rights", "our user may do what the service needs")


def judge_memory(facts: RedisFacts) -> Finding:
    check = "redis memory"
    policy, limit, used = facts.eviction_policy, facts.memory_max, facts.memory_used
    if policy is None or limit is None or used is None:
        return ok(check, "our user may not read the eviction policy (usual for a hosted Redis)")
    if limit == 0:
        return ok(check, "no memory limit is set")
    text = f"{policy}, {used * 100 // limit} % of the memory is used"
    if policy == "noeviction" and used > limit * _FULL_ABOVE:
        return warning(
            check, text, "Give Redis more memory, or a policy that evicts. A full Redis is slower."
        )
    return ok(check, text)
