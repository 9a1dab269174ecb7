"""A caller above its rate may only repeat earlier requests, and only some of them at once.

For a repeated request, the service looks up the first answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from domain.errors import RateLimited
from domain.policy import CallerLimits, Policy
from domain.values import Caller, Role
from gateway.rate_limits import Permit, RateLimits

_LIMITS = CallerLimits(requests_per_second=1, burst=1)
_LOOKUPS_MAX = 128


class FixedWait:
    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds

    async def charge(self, _caller_key: str, _limits: CallerLimits) -> float:
        return self._wait_seconds


def rate_limits_of(wait_seconds: float) -> RateLimits:
    async def if_redis_answers(call: Callable[[], Awaitable[object]]) -> object:
        return await call()

    policy = Policy(callers={Role.USER: _LIMITS, Role.BACKEND: _LIMITS})
    resources = cast("Any", SimpleNamespace(if_redis_answers=if_redis_answers))
    return RateLimits(resources, policy, cast("Any", FixedWait(wait_seconds)))


def caller(name: str) -> Caller:
    return Caller("https://project.example", name, Role.USER)


def count_lookups(
    limits: RateLimits, name: str, refusal: RateLimited, requests: int, stack: ExitStack
) -> int:
    """The number of concurrent `requests` that may look up a first answer."""
    permitted = 0
    for _ in range(requests):
        try:
            stack.enter_context(limits.limit_lookups(caller(name), refusal))
        except RateLimited:
            continue
        permitted += 1
    return permitted


async def test_a_caller_above_its_rate_has_a_limited_number_of_lookups_at_once() -> None:
    """Lookups of other callers do not count, and lookups that ended make room."""
    limits = rate_limits_of(7.0)
    with pytest.raises(RateLimited) as refused:
        await limits.obtain_permit(caller("flood"))
    assert refused.value.wait_seconds == 7.0
    for _ in range(2):
        with ExitStack() as stack:
            assert count_lookups(limits, "flood", refused.value, 1000, stack) == _LOOKUPS_MAX
            assert count_lookups(limits, "other", refused.value, 10, stack) == 10


async def test_a_request_within_its_rate_is_counted() -> None:
    """The permit says that the request was counted. A replay is subtracted again later."""
    assert await rate_limits_of(0.0).obtain_permit(caller("busy")) == Permit(is_counted=True)
