"""A caller's turns: how often it may ask, and what it is still owed when it asks too often."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from domain.adapters.redis.rates import CallerRates
from domain.errors import QueueUnavailable, RateLimited, RequestRefused, Unavailable
from domain.policy import Policy, WithoutRedis
from domain.values import Caller
from gateway.edge.load import Bound
from gateway.resources import Resources

# Above its rate a caller is still owed the first answers of earlier requests. So many of its requests may have them looked
# up at once where Redis has no copy; the rest are refused without a look.
_LOOKUPS_ABOVE_RATE_MAX = 128


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether the caller's rate lets a request go on (no refusal), and whether it has taken one request of that rate."""

    refusal: RequestRefused | Unavailable | None = None
    was_taken: bool = False


class Turns:
    """The turns of all callers."""

    def __init__(self, resources: Resources, policy: Policy, rates: CallerRates) -> None:
        self._resources = resources
        self._policy = policy
        self._rates = rates
        self._lookups = Bound(_LOOKUPS_ABOVE_RATE_MAX)

    async def take(self, caller: Caller) -> Turn:
        """Takes one request of the caller's rate, or says why this request comes too soon after the others."""
        limits = self._policy.callers[caller.role]
        if limits.requests_per_second is None:
            return Turn()
        wait_seconds = await self._resources.if_redis_answers(lambda: self._rates.take(caller.key, limits))
        if not isinstance(wait_seconds, float):
            if self._policy.without_redis is WithoutRedis.ALLOW:
                return Turn()
            return Turn(
                QueueUnavailable("How often you asked cannot be told right now. Send the same request again shortly.")
            )
        if wait_seconds == 0:
            return Turn(was_taken=True)
        message = "You have sent too many requests. Send the same request again later."
        return Turn(RateLimited(message, limit="caller.requests_per_second", wait_seconds=wait_seconds))

    async def give_back(self, caller: Caller, turn: Turn) -> None:
        """Gives back what a replay has taken of the caller's rate, because only Postgres knew that it is one."""
        if turn.was_taken:
            limits = self._policy.callers[caller.role]
            await self._resources.if_redis_answers(lambda: self._rates.give_back(caller.key, limits))

    def lookup(self, caller: Caller, turn: Turn) -> AbstractContextManager[None]:
        """The block looks up a first answer. Raises the refusal of the rate if too many of the caller's do so above it."""
        return self._lookups.place(caller.key, turn.refusal) if turn.refusal else nullcontext()
