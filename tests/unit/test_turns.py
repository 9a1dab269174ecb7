"""Above its rate a caller is owed the first answers of earlier requests, and no more work than a few look-ups at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

from domain.errors import RateLimited
from domain.policy import CallerLimits, Policy
from domain.values import Caller, Role
from gateway.turns import Turn, Turns

_LIMITS = CallerLimits(requests_per_second=1, burst=1)
_LOOKUPS_MAX = 128


class Rates:
    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds

    async def take(self, _caller_key: str, _limits: CallerLimits) -> float:
        return self._wait_seconds


def turns_of(wait_seconds: float) -> Turns:
    async def if_redis_answers(ask: Callable[[], Awaitable[object]]) -> object:
        return await ask()

    policy = Policy(callers={Role.USER: _LIMITS, Role.BACKEND: _LIMITS})
    resources = cast("Any", SimpleNamespace(if_redis_answers=if_redis_answers))
    return Turns(resources, policy, cast("Any", Rates(wait_seconds)))


def caller(name: str) -> Caller:
    return Caller("https://project.example", name, Role.USER)


def looked_up(turns: Turns, one: Caller, turn: Turn, times: int, stack: ExitStack) -> int:
    """How many of so many requests at once look up a first answer."""
    done = 0
    for _ in range(times):
        try:
            stack.enter_context(turns.lookup(one, turn))
        except RateLimited:
            continue
        done += 1
    return done


async def test_above_its_rate_a_caller_has_a_bounded_number_of_look_ups() -> None:
    """The rest is refused without one. Another caller's look-ups do not count, and those that ended make room."""
    turns = turns_of(7.0)
    turn = await turns.take(caller("flood"))
    assert isinstance(turn.refusal, RateLimited)
    for _ in range(2):
        with ExitStack() as stack:
            assert looked_up(turns, caller("flood"), turn, 1000, stack) == _LOOKUPS_MAX
            assert looked_up(turns, caller("other"), turn, 10, stack) == 10


async def test_within_its_rate_a_caller_may_look_up_what_it_likes() -> None:
    """A request that is refused for its body has paid for its look-up."""
    turns = turns_of(0.0)
    turn = await turns.take(caller("busy"))
    assert turn == Turn(was_taken=True)
    with ExitStack() as stack:
        assert looked_up(turns, caller("busy"), turn, 1000, stack) == 1000
