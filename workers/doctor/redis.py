"""Checks Redis: its kind and version, the rights of our user, and its eviction policy."""

from __future__ import annotations

from redis.exceptions import RedisError

from domain.adapters.redis.connection import connect
from domain.adapters.redis.faults import EXPLANATIONS, classify_error
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
        facts = await inspect_redis(redis)
    except (QueueUnavailable, RedisError, OSError, TimeoutError) as error:
        return [_explain(error)]
    finally:
        await redis.aclose()
    return [judge_kind(facts), _judge_rights(facts), judge_memory(facts)]


def _explain(error: BaseException) -> Finding:
    kind = classify_error(error)
    if kind is None:
        return failed(
            "redis",
            "Redis does not answer at REDIS_URL",
            "Check host and port, and that the network permits it. Payments continue, slower.",
        )
    explanation = EXPLANATIONS[kind]
    return failed("redis", explanation.problem, explanation.remedy)


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
