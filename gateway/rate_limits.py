"""Limits each caller's rate of requests. Callers above their rate still get first answers again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from domain.adapters.redis.rates import CallerRates
from domain.errors import QueueUnavailable, RateLimited, RequestRefused, Unavailable
from domain.policy import Policy, WithoutRedis
from domain.values import Caller
from gateway.edge.load import ConcurrencyLimit
from gateway.resources import Resources

# A caller above its rate still gets the first answers to its earlier requests. If Redis has no copy
# of such an answer, the request reads it from Postgres. At most this many requests of one caller
# may do so at the same time. The others are rejected without a look-up.
_LOOKUPS_ABOVE_RATE_MAX = 128


@dataclass(frozen=True, slots=True)
class Permit:
    """The caller's rate allows a request. `is_counted`: Redis counted the request."""

    is_counted: bool


class RateLimits:
    """The rate limits of all callers."""

    def __init__(self, resources: Resources, policy: Policy, rates: CallerRates) -> None:
        self._resources = resources
        self._policy = policy
        self._rates = rates
        self._lookups = ConcurrencyLimit(_LOOKUPS_ABOVE_RATE_MAX)

    async def obtain_permit(self, caller: Caller) -> Permit:
        """Counts one request against the caller's rate.

        Redis counts the requests. Raises RateLimited if the caller is above its rate. Raises
        QueueUnavailable if Redis is away and the policy says that requests are then rejected.
        """
        limits = self._policy.callers[caller.role]
        if limits.requests_per_second is None:
            return Permit(is_counted=False)
        wait_seconds = await self._resources.if_redis_answers(
            lambda: self._rates.charge(caller.key, limits)
        )
        if not isinstance(wait_seconds, float):
            if self._policy.without_redis is WithoutRedis.ALLOW:
                return Permit(is_counted=False)
            raise QueueUnavailable(
                "Your requests cannot be counted right now. Send the same request again shortly."
            )
        if wait_seconds > 0:
            message = "You have sent too many requests. Send the same request again later."
            raise RateLimited(
                message, limit="caller.requests_per_second", wait_seconds=wait_seconds
            )
        return Permit(is_counted=True)

    async def return_permit(self, caller: Caller, permit: Permit) -> None:
        """Subtracts the request from the caller's rate, because the request was a replay.

        Replays do not count. Redis counted the request before Postgres showed that it is a replay.
        """
        if permit.is_counted:
            limits = self._policy.callers[caller.role]
            await self._resources.if_redis_answers(lambda: self._rates.refund(caller.key, limits))

    def limit_lookups(
        self, caller: Caller, refusal: RequestRefused | Unavailable
    ) -> AbstractContextManager[None]:
        """Lets the block look up a first answer, although the request was rejected.

        Raises `refusal` if too many requests of this caller do so at the same time.
        """
        return self._lookups.enter(caller.key, refusal)
