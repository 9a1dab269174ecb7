"""The judgements of `doctor` that need no server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from domain.adapters.postgres.inspecting import DatabaseFacts
from domain.adapters.postgres.tables import REVISION
from domain.adapters.redis.inspecting import RedisFacts
from workers.doctor import postgres, redis, running
from workers.doctor.clock import judge_clock
from workers.doctor.findings import Finding, State, ok

NOW = datetime(2026, 3, 1, 7, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("began", "ended", "precision", "state", "text"),
    [
        (0.0, 0.2, 0.0, State.OK, "agree"),
        (-5.0, 1.0, 0.0, State.OK, "agree"),  # a slow answer proves nothing
        (2.5, 2.7, 0.0, State.OK, "agree"),
        (3.9, 4.0, 1.0, State.OK, "agree"),  # the header has whole seconds
        (4.0, 4.1, 0.0, State.WARNING, "4 s ahead"),
        (-90.0, -89.0, 0.0, State.WARNING, "89 s behind"),
    ],
)
def test_a_clock_is_wrong_only_by_what_the_request_does_not_explain(
    began: float, ended: float, precision: float, state: State, text: str
) -> None:
    other = NOW.timestamp()
    found = judge_clock("clock", NOW, other + began, other + ended, precision_seconds=precision)
    assert found.state is state
    assert text in found.text
    assert (found.remedy is None) == (state is State.OK)


def facts(**changes: object) -> DatabaseFacts:
    members: dict[str, object] = {
        "version": "17.2",
        "version_number": 170002,
        "now": NOW,
        "role": "mkwanja_service",
        "is_superuser": False,
        "is_owner": False,
        "is_pooled": False,
        "is_read_only": False,
        "has_schema": True,
        "revision": REVISION,
        "missing_functions": (),
        "missing_rights": (),
        "deletable_tables": (),
    }
    return DatabaseFacts(**{**members, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, State.OK, "PostgreSQL 17.2, reached directly"),
        ({"is_pooled": True}, State.OK, "reached through a pooler"),
        ({"version": "14.9", "version_number": 140009}, State.FAILED, "PostgreSQL 14.9"),
    ],
)
def test_postgres_must_be_15_or_later(changes: dict[str, object], state: State, text: str) -> None:
    found = postgres.judge_version(facts(**changes))
    assert found.state is state
    assert text in found.text


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, State.OK, REVISION),
        ({"has_schema": False}, State.FAILED, "does not exist"),
        ({"revision": None}, State.FAILED, "may not read"),
        ({"revision": "9999"}, State.FAILED, "at 9999"),
        ({"missing_functions": ("accept_1",)}, State.FAILED, "1 functions"),
    ],
)
def test_the_schema_and_the_functions_must_be_those_of_this_release(
    changes: dict[str, object], state: State, text: str
) -> None:
    found = postgres.judge_migrations(facts(**changes))
    assert found.state is state
    assert text in found.text


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, State.OK, "may delete nothing"),
        ({"missing_rights": ("a", "b", "c", "d", "e", "f", "g")}, State.FAILED, "and 2 more"),
        ({"is_owner": True}, State.WARNING, "owns the tables"),
        ({"is_superuser": True}, State.WARNING, "is a superuser"),
        ({"deletable_tables": ("payments",)}, State.WARNING, "payments"),
    ],
)
def test_the_role_has_the_rights_that_it_needs_and_no_right_to_delete(
    changes: dict[str, object], state: State, text: str
) -> None:
    found = postgres.judge_rights(facts(**changes))
    assert found.state is state
    assert text in found.text


def redis_facts(**changes: object) -> RedisFacts:
    members: dict[str, object] = {
        "server": "redis",
        "version": "7.4.1",
        "role": "master",
        "shards": 0,
        "refused_commands": (),
        "eviction_policy": "noeviction",
        "memory_used": 50,
        "memory_max": 100,
    }
    return RedisFacts(**{**members, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, State.OK, "redis 7.4.1"),
        ({"server": "valkey", "version": "8.1.0"}, State.OK, "valkey 8.1.0"),
        ({"version": "6.2.0"}, State.FAILED, "6.2.0"),
        ({"version": ""}, State.OK, "redis"),
        ({"shards": 1}, State.OK, "a cluster of 1 shard"),
        ({"shards": 3}, State.FAILED, "a cluster of 3 shards"),
    ],
)
def test_redis_must_be_7_or_later_with_one_shard(
    changes: dict[str, object], state: State, text: str
) -> None:
    found = redis.judge_kind(redis_facts(**changes))
    assert found.state is state
    assert text in found.text


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, State.OK, "50 %"),
        ({"memory_used": 95}, State.WARNING, "95 %"),
        ({"memory_used": 95, "eviction_policy": "allkeys-lru"}, State.OK, "allkeys-lru"),
        ({"memory_max": 0}, State.OK, "no memory limit"),
        ({"eviction_policy": None}, State.OK, "may not read"),
    ],
)
def test_a_redis_that_evicts_nothing_and_is_almost_full_is_a_warning(
    changes: dict[str, object], state: State, text: str
) -> None:
    found = redis.judge_memory(redis_facts(**changes))
    assert found.state is state
    assert text in found.text


async def test_a_check_that_fails_or_hangs_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text of its error is not printed, because it may quote a secret."""

    async def break_down() -> list[Finding]:
        raise RuntimeError("s3cr3t")

    async def hang() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def pass_() -> list[Finding]:
        return [ok("third", "fine")]

    checks = {
        name: (check, ("web",))
        for name, check in (("first", break_down), ("second", hang), ("third", pass_))
    }
    monkeypatch.setattr(running, "_CHECKS", checks)
    monkeypatch.setattr(running, "_CHECK_SECONDS_MAX", 0.01)
    found = {finding.check: finding for finding in await running.run_checks(("web",))}
    assert [found[name].state for name in checks] == [State.FAILED, State.FAILED, State.OK]
    assert "RuntimeError" in found["first"].text
    assert "s3cr3t" not in found["first"].text
    assert "did not end" in found["second"].text
