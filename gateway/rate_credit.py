"""Lets requests in on credit. Redis counts them a moment later, many in one round trip.

Only callers with a large burst get credit (`rate_limits.py`). Until Redis has counted a caller's
earlier requests, a process lets in at most `credit` more of them. If Redis then says that the
caller is above its rate, the process refuses the caller's requests, without asking Redis, until the
rate allows one again.

Redis counts every request, also those above the burst. So a caller never has more than its rate on
average. Its burst may be larger, by at most the credits of all web processes together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from domain.adapters.redis.rates import Spending
from domain.policy import CallerLimits

# Reports what callers spent. Returns the seconds that each caller must wait. Returns None for the
# whole report if Redis did not count it.
Report = Callable[[Sequence[Spending]], Awaitable[Sequence[float] | None]]

_TIMER_SECONDS = 0.01  # a timer of the loop may be early by a few milliseconds


class _Account:
    """The requests of one caller that Redis has not counted yet."""

    __slots__ = ("counting", "limits", "refused_until", "uncounted")

    def __init__(self, limits: CallerLimits) -> None:
        self.limits = limits
        self.uncounted = 0
        self.counting = 0  # in the report under way
        self.refused_until = 0.0


class CreditLedger:
    """The accounts of all callers with credit. One report to Redis runs at a time."""

    def __init__(self, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._changed: dict[str, _Account] = {}
        self._reporting: asyncio.Task[None] | None = None
        self._counted = asyncio.Event()

    def __len__(self) -> int:
        """The number of callers that the ledger remembers."""
        return len(self._accounts)

    async def spend(self, caller_key: str, limits: CallerLimits, credit: int) -> float:
        """Lets one request in and returns 0, or returns the seconds to wait.

        Waits for Redis only if the caller has used up its credit.
        """
        while True:
            account = self._accounts.get(caller_key)
            if account is None:
                account = self._accounts[caller_key] = _Account(limits)
            elif (wait := account.refused_until - self._clock()) > 0:
                return wait
            if account.uncounted + account.counting < credit:
                self._change(caller_key, account, 1)
                return 0.0
            self._ensure_report()
            await self._counted.wait()

    def give_back(self, caller_key: str, limits: CallerLimits) -> None:
        """Undoes one `spend` that returned 0."""
        account = self._accounts.setdefault(caller_key, _Account(limits))
        self._change(caller_key, account, -1)

    async def drain(self) -> None:
        """Waits until Redis has counted every request."""
        while self._reporting is not None:
            await asyncio.wait({self._reporting})

    def _change(self, caller_key: str, account: _Account, count: int) -> None:
        account.uncounted += count
        self._changed[caller_key] = account
        self._ensure_report()

    def _ensure_report(self) -> None:
        """Ensures that a task reports what was spent."""
        if self._reporting is None:
            self._counted.clear()
            self._reporting = asyncio.create_task(self._report_all())

    async def _report_all(self) -> None:
        try:
            while self._changed:
                changed, self._changed = self._changed, {}
                await self._report_changed(changed)
        finally:
            self._reporting = None
            self._counted.set()

    async def _report_changed(self, changed: dict[str, _Account]) -> None:
        spendings = []
        for caller_key, account in changed.items():
            account.counting, account.uncounted = account.uncounted, 0
            if account.counting:
                spendings.append(Spending(caller_key, account.limits, account.counting))
        waits: Sequence[float] | None = None
        try:
            waits = await self._report(spendings) if spendings else None
        finally:
            # If Redis is away, these requests are never counted. The policy permits that.
            by_caller = dict(zip((one.caller_key for one in spendings), waits or (), strict=False))
            for caller_key, account in changed.items():
                account.counting = 0
                self._settle(caller_key, account, by_caller.get(caller_key, 0.0))
            self._counted.set()
            self._counted.clear()

    def _settle(self, caller_key: str, account: _Account, wait_seconds: float) -> None:
        if wait_seconds > 0:
            account.refused_until = self._clock() + wait_seconds
            asyncio.get_running_loop().call_later(
                wait_seconds + _TIMER_SECONDS, self._forget_if_unused, caller_key, account
            )
        self._forget_if_unused(caller_key, account)

    def _forget_if_unused(self, caller_key: str, account: _Account) -> None:
        is_refused = account.refused_until > self._clock()
        is_in_use = account.uncounted or account.counting or is_refused
        if not is_in_use and self._accounts.get(caller_key) is account:
            del self._accounts[caller_key]
