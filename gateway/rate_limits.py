"""Limits each caller's rate of requests. Callers above their rate still get first answers again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

from domain.adapters.redis.rates import CallerRates, Spending
from domain.errors import QueueUnavailable, RateLimited, RequestRefused, Unavailable
from domain.policy import CallerLimits, Policy, WithoutRedis
from domain.values import Caller
from gateway.edge.load import ConcurrencyLimit
from gateway.rate_credit import CreditLedger
from gateway.resources import Resources

# A caller above its rate still gets the first answers to its earlier requests. If Redis has no copy
# of such an answer, the request reads it from Postgres. At most this many requests of one caller
# may do so at the same time. The others are rejected without a look-up.
_LOOKUPS_ABOVE_RATE_MAX = 128

# A caller whose burst is at least this large gets credit for a hundredth of it. A smaller burst is
# exact: Redis counts each request before it is let in.
_BURST_WITH_CREDIT_MIN = 1_000
_BURST_PER_CREDIT = 100


@dataclass(frozen=True, slots=True)
class Permit:
    """The caller's rate allows a request.

    `is_counted`: the request counts against the rate. `is_on_credit`: Redis counts it later.
    """

    is_counted: bool
    is_on_credit: bool = False


_UNCOUNTED = Permit(is_counted=False)
_COUNTED = Permit(is_counted=True)
_ON_CREDIT = Permit(is_counted=True, is_on_credit=True)


class RateLimits:
    """The rate limits of all callers."""

    def __init__(self, resources: Resources, policy: Policy, rates: CallerRates) -> None:
        self._resources = resources
        self._policy = policy
        self._rates = rates
        self._lookups = ConcurrencyLimit(_LOOKUPS_ABOVE_RATE_MAX)
        self._ledger = CreditLedger(self._report)

    async def obtain_permit(self, caller: Caller) -> Permit:
        """Counts one request against the caller's rate.

        Redis counts the requests. Raises RateLimited if the caller is above its rate. Raises
        QueueUnavailable if Redis is away and the policy says that requests are then rejected.
        """
        limits = self._policy.callers[caller.role]
        if limits.requests_per_second is None:
            return _UNCOUNTED
        if credit := self._credit(limits):
            return _permit_after(
                await self._ledger.spend(caller.key, limits, credit), permit=_ON_CREDIT
            )
        wait_seconds = await self._resources.if_redis_answers(
            lambda: self._rates.charge(caller.key, limits)
        )
        if not isinstance(wait_seconds, float):
            if self._policy.without_redis is WithoutRedis.ALLOW:
                return _UNCOUNTED
            raise QueueUnavailable(
                "Your requests cannot be counted right now. Send the same request again shortly."
            )
        return _permit_after(wait_seconds, permit=_COUNTED)

    async def return_permit(self, caller: Caller, permit: Permit) -> None:
        """Subtracts the request from the caller's rate, because the request was a replay.

        Replays do not count. The request was counted before Postgres showed that it is a replay.
        """
        limits = self._policy.callers[caller.role]
        if permit.is_on_credit:
            self._ledger.give_back(caller.key, limits)
        elif permit.is_counted:
            await self._resources.if_redis_answers(lambda: self._rates.refund(caller.key, limits))

    async def drain(self) -> None:
        """Waits until Redis has counted every request."""
        await self._ledger.drain()

    def _credit(self, limits: CallerLimits) -> int:
        """How many requests a process may let in before Redis has counted them.

        If the policy rejects requests that cannot be counted, there is no credit.
        """
        if (
            self._policy.without_redis is WithoutRedis.REFUSE
            or limits.burst < _BURST_WITH_CREDIT_MIN
        ):
            return 0
        return limits.burst // _BURST_PER_CREDIT

    async def _report(self, spendings: Sequence[Spending]) -> Sequence[float] | None:
        waits = await self._resources.if_redis_answers(
            lambda: self._rates.charge_afterwards(spendings)
        )
        return cast("Sequence[float] | None", waits)

    def limit_lookups(
        self, caller: Caller, refusal: RequestRefused | Unavailable
    ) -> AbstractContextManager[None]:
        """Lets the block look up a first answer, although the request was rejected.

        Raises `refusal` if too many requests of this caller do so at the same time.
        """
        return self._lookups.enter(caller.key, refusal)


def _permit_after(wait_seconds: float, *, permit: Permit) -> Permit:
    """`permit` if the caller need not wait. Otherwise raises RateLimited."""
    if wait_seconds > 0:
        message = "You have sent too many requests. Send the same request again later."
        raise RateLimited(message, limit="caller.requests_per_second", wait_seconds=wait_seconds)
    return permit
