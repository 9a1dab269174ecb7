"""A caller's turns: how often it may ask, and what it is still owed when it asks too often."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from domain.adapters.redis.rates import CallerRates
from domain.errors import QueueUnavailable, RateLimited, RequestRefused, Unavailable
from domain.policy import Policy, WithoutRedis
from domain.values import Caller
from gateway.edge.load import Bound
from gateway.resources import Resources

# Above its rate a caller is still owed the first answers of earlier requests. So many of its
# requests may have them looked up at once where Redis has no copy; the rest are refused without a
# look.
_LOOKUPS_ABOVE_RATE_MAX = 128


@dataclass(frozen=True, slots=True)
class Turn:
    """The caller's rate lets a request go on.

    `is_counted`: the request was counted against that rate.
    """

    is_counted: bool


class Turns:
    """The turns of all callers."""

    def __init__(self, resources: Resources, policy: Policy, rates: CallerRates) -> None:
        self._resources = resources
        self._policy = policy
        self._rates = rates
        self._lookups = Bound(_LOOKUPS_ABOVE_RATE_MAX)

    async def take(self, caller: Caller) -> Turn:
        """Counts one request against the caller's rate.

        Raises RateLimited if it comes too soon after the others, and QueueUnavailable if Redis,
        which counts, is away and the policy then refuses.
        """
        limits = self._policy.callers[caller.role]
        if limits.requests_per_second is None:
            return Turn(is_counted=False)
        wait_seconds = await self._resources.if_redis_answers(
            lambda: self._rates.take(caller.key, limits)
        )
        if not isinstance(wait_seconds, float):
            if self._policy.without_redis is WithoutRedis.ALLOW:
                return Turn(is_counted=False)
            raise QueueUnavailable(
                "How often you asked cannot be told right now. Send the same request again shortly."
            )
        if wait_seconds > 0:
            message = "You have sent too many requests. Send the same request again later."
            raise RateLimited(
                message, limit="caller.requests_per_second", wait_seconds=wait_seconds
            )
        return Turn(is_counted=True)

    async def give_back(self, caller: Caller, turn: Turn) -> None:
        """Takes a replay off the caller's rate again.

        Only Postgres knew that the request is a replay.
        """
        if turn.is_counted:
            limits = self._policy.callers[caller.role]
            await self._resources.if_redis_answers(
                lambda: self._rates.give_back(caller.key, limits)
            )

    def bound_lookup(
        self, caller: Caller, refusal: RequestRefused | Unavailable
    ) -> AbstractContextManager[None]:
        """The block looks up a first answer, although the rate refused the request.

        Raises `refusal` if too many do so.
        """
        return self._lookups.place(caller.key, refusal)
