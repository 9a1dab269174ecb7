"""Sends payments to Daraja, and retries within one attempt.

The sender tries again only if the last try provably wrote no byte, and only before the attempt's
deadline. Each try passes the same fence (rules.md §3), so no try can write after the deadline.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import structlog
import tenacity

from domain.adapters import observability
from domain.adapters.daraja.client import DarajaClient
from domain.attempts import ProviderIds
from domain.errors import DeadlinePassed, Draining, ProviderError, Refused, Throttled, Unreachable
from domain.failures import FailureReason
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.payment import Payment
from workers.daraja_access import DarajaAccess, Turns

log = structlog.get_logger()

# If Daraja cannot be reached, the problem usually passes within a second, or lasts long. After the
# last try the worker undoes the claim, and a sweeper later finds the payment again.
_TRIES_MAX = 4
_FIRST_WAIT_SECONDS = 0.2
_WAIT_SECONDS_MAX = 2.0


class DarajaSender:
    """Satisfies `domain.lifecycle.submit.Provider`."""

    def __init__(
        self, client: DarajaClient, access: DarajaAccess, turns: Turns, *, draining: asyncio.Event
    ) -> None:
        self._client = client
        self._access = access
        self._turns = turns
        self._draining = draining

    def prepare_send(self, kind: Kind) -> AbstractAsyncContextManager[None]:
        """See `domain.lifecycle.submit.Provider.prepare_send`."""
        return self._access.prepare_send(kind)

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """See `domain.lifecycle.submit.Provider.submit`."""
        outcome = "acknowledged"
        try:
            return await self._submit_with_retries(payment, open_attempt)
        except ProviderError as error:
            outcome = type(error).__name__
            if isinstance(error, Throttled):
                await self._turns.slow_down()
            if isinstance(error, Refused) and error.failure.reason is FailureReason.CONFIGURATION:
                # Our settings are wrong. Until an operator corrects them, Daraja refuses every
                # payment of this kind.
                log.error(  # noqa: TRY400 - the reason is known, so a stack trace adds nothing
                    "daraja_refuses_our_configuration",
                    payment_id=str(payment.id),
                    provider_code=error.code,
                    kind=payment.kind.value,
                )
            raise
        finally:
            observability.submissions.labels(outcome=outcome).inc()

    async def _submit_with_retries(
        self, payment: Payment, open_attempt: OpenAttempt
    ) -> ProviderIds:
        try:
            return await self._client.submit(payment, open_attempt)
        except Unreachable as unreachable:
            if not _is_unsent(unreachable):
                raise
            first_error = unreachable

        # Tenacity costs more than the rest of a send's own code, so it is used only now. It counts
        # the try above as its first one.
        first_errors: list[Unreachable] = [first_error]

        async def submit_again() -> ProviderIds:
            if first_errors:
                raise first_errors.pop()
            return await self._client.submit(payment, open_attempt)

        return await self._retrying(open_attempt)(submit_again)

    def _retrying(self, open_attempt: OpenAttempt) -> tenacity.AsyncRetrying:
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_unsent),
            stop=tenacity.stop_after_attempt(_TRIES_MAX) | _EndsTooLate(open_attempt),
            wait=tenacity.wait_random_exponential(
                multiplier=_FIRST_WAIT_SECONDS, max=_WAIT_SECONDS_MAX
            ),
            sleep=self._sleep,
            reraise=True,
        )

    async def _sleep(self, seconds: float) -> None:
        """Waits until the next try or until the worker drains. A draining worker sends nothing."""
        try:
            await asyncio.wait_for(self._draining.wait(), timeout=seconds)
        except TimeoutError:
            return


def _is_unsent(error: BaseException) -> bool:
    return isinstance(error, Unreachable) and not isinstance(error, (DeadlinePassed, Draining))


class _EndsTooLate(tenacity.stop.stop_base):
    """Stops the retries if the next try would come after the attempt's deadline."""

    def __init__(self, open_attempt: OpenAttempt) -> None:
        self._fence = open_attempt.fence

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return retry_state.upcoming_sleep >= self._fence.seconds_left
