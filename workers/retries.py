"""Trying again within one attempt: only what provably did not happen, and only before the attempt's deadline.

Each try passes the same fence (design.md, rule 3), so no retry can write after the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import tenacity

from domain.adapters import observability
from domain.adapters.daraja.client import DarajaClient
from domain.adapters.redis.sharing import SharedRate
from domain.errors import ProviderError, Refused, Throttled, Unreachable
from domain.failures import FailureReason
from domain.fence import DeadlinePassed, Draining
from domain.payment import Payment
from domain.ports import Attempting, ProviderIds
from domain.values import Kind

log = structlog.get_logger()

# A refused connection mostly heals within a second or never; more than this and the payment goes back to be woken.
_TRIES_MAX = 4
_FIRST_WAIT_SECONDS = 0.2
_WAIT_SECONDS_MAX = 2.0

# Each bill payment lost in `submitting` is a person's afternoon: Daraja gives B2B no key (design.md, rule 11).
_BILL_PAYMENTS_AT_ONCE = 4
_BILL_SLOT_WAIT_SECONDS = 1.0


class RetryingProvider:
    """Satisfies `domain.ports.Provider`: the Daraja client, its slots and limit, and retries around a send."""

    def __init__(self, client: DarajaClient, rate: SharedRate, *, slots: int, draining: asyncio.Event) -> None:
        self._client = client
        self._rate = rate
        self._slots = asyncio.Semaphore(slots)
        self._bill_slots = asyncio.Semaphore(_BILL_PAYMENTS_AT_ONCE)
        self._draining = draining

    @asynccontextmanager
    async def readied(self, kind: Kind) -> AsyncIterator[None]:
        """See `domain.ports.Provider.readied`."""
        await self._client.ready()
        async with self._slots:
            if kind is not Kind.BILL_PAYMENT:
                await self._take_turn()
                yield
                return
            if self._bill_slots.locked():
                # Not waited for here: a job that waits keeps its place from payments of other kinds.
                raise Throttled("all slots for bill payments are taken", wait_seconds=_BILL_SLOT_WAIT_SECONDS)
            async with self._bill_slots:
                await self._take_turn()
                yield

    async def submit(self, payment: Payment, attempting: Attempting) -> ProviderIds:
        """See `domain.ports.Provider.submit`."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_did_not_happen),
            stop=tenacity.stop_after_attempt(_TRIES_MAX) | _EndsTooLate(attempting),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_WAIT_SECONDS_MAX),
            sleep=self._sleep,
            reraise=True,
        )
        meaning = "acknowledged"
        try:
            return await retrying(self._client.submit, payment, attempting)
        except ProviderError as error:
            meaning = type(error).__name__
            if isinstance(error, Refused) and error.failure.reason is FailureReason.CONFIGURATION:
                # Not this payment's fault: every other one will end the same until somebody mends our settings.
                log.error("daraja_refuses_our_configuration", provider_code=error.code, kind=payment.kind.value)  # noqa: TRY400
            raise
        finally:
            observability.submissions.labels(meaning=meaning).inc()

    async def _take_turn(self) -> None:
        wait_seconds = await self._rate.take()
        if wait_seconds > 0:
            raise Throttled("our own limit", wait_seconds=wait_seconds)

    async def _sleep(self, seconds: float) -> None:
        """Waits, but not while the worker stops: the fence then refuses the next try."""
        try:
            await asyncio.wait_for(self._draining.wait(), timeout=seconds)
        except TimeoutError:
            return


def _did_not_happen(error: BaseException) -> bool:
    return isinstance(error, Unreachable) and not isinstance(error, (DeadlinePassed, Draining))


class _EndsTooLate(tenacity.stop.stop_base):
    """Stops where the next try would come after the attempt's deadline."""

    def __init__(self, attempting: Attempting) -> None:
        self._fence = attempting.fence

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return retry_state.upcoming_sleep >= self._fence.seconds_left
