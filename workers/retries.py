"""Trying again within one attempt: only what provably did not happen, and only before the attempt's deadline.

Each try passes the same fence (design.md, rule 3), so no retry can write after the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
import tenacity

from domain.adapters import observability
from domain.adapters.daraja.client import NO_ANSWER, DarajaClient
from domain.adapters.daraja.status import ACKNOWLEDGED
from domain.adapters.redis.sharing import InquiryBudget, SharedRate, Turn
from domain.attempts import ProviderIds
from domain.changes import Exchange
from domain.errors import (
    DeadlinePassed,
    Draining,
    ProductRefused,
    ProviderError,
    QueueUnavailable,
    Refused,
    Throttled,
    Unreachable,
)
from domain.failures import FailureReason
from domain.fence import Attempting
from domain.inquiry import Verdict
from domain.kinds import RULES, Kind
from domain.lifecycle.inquire import Asked
from domain.operations import Standing
from domain.payment import Payment
from domain.report import Report
from domain.stages import Step

log = structlog.get_logger()

# A refused connection mostly heals within a second or never; more than this and the payment goes back to be woken.
_TRIES_MAX = 4
_FIRST_WAIT_SECONDS = 0.2
_WAIT_SECONDS_MAX = 2.0

_OWN_SLOT_WAIT_SECONDS = 1.0

# Payouts before inquiries before pushes; and none starves (design.md: a limit on everything).
_PAYOUTS = Turn("payouts")
_INQUIRIES = Turn("inquiries", part_of_burst=2 / 3, own_share=0.1)
_PUSHES = Turn("pushes", part_of_burst=1 / 3, own_share=0.2)


class RetryingProvider:
    """Satisfies `domain.lifecycle.submit.Provider`: the Daraja client, its slots and limit, and retries around a send."""

    def __init__(
        self,
        client: DarajaClient,
        rate: SharedRate,
        *,
        budgets: Mapping[Step, InquiryBudget] | None = None,
        slots: int,
        draining: asyncio.Event,
    ) -> None:
        self._client = client
        self._rate = rate
        self._budgets = budgets or {}
        self._slots = asyncio.Semaphore(slots)
        # Of kinds that few may be under way of at once.
        self._own_slots = {
            kind: asyncio.Semaphore(rules.at_once_max) for kind, rules in RULES.items() if rules.at_once_max is not None
        }
        self._draining = draining

    @asynccontextmanager
    async def readied(self, kind: Kind) -> AsyncIterator[None]:
        """See `domain.lifecycle.submit.Provider.readied`."""
        await self._client.ready()
        async with self._slots:
            turn = _PUSHES if RULES[kind].is_prompt else _PAYOUTS
            own_slots = self._own_slots.get(kind)
            if own_slots is None:
                await self._take_turn(turn)
                yield
                return
            if own_slots.locked():
                # Not waited for here: a job that waits keeps its place from payments of other kinds.
                raise Throttled(f"all slots for {kind} are taken", wait_seconds=_OWN_SLOT_WAIT_SECONDS)
            async with own_slots:
                await self._take_turn(turn)
                yield

    async def submit(self, payment: Payment, attempting: Attempting) -> ProviderIds:
        """See `domain.lifecycle.submit.Provider.submit`."""
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
            if isinstance(error, Throttled):
                await self._slow_down()
            if isinstance(error, Refused) and error.failure.reason is FailureReason.CONFIGURATION:
                # Not this payment's fault: every other one will end the same until somebody mends our settings.
                log.error("daraja_refuses_our_configuration", provider_code=error.code, kind=payment.kind.value)  # noqa: TRY400
            raise
        finally:
            observability.submissions.labels(meaning=meaning).inc()

    @asynccontextmanager
    async def readied_to_ask(self) -> AsyncIterator[None]:
        """See `domain.lifecycle.inquire.Asker.readied_to_ask`."""
        await self._client.ready()
        async with self._slots:
            await self._take_turn(_INQUIRIES)
            yield

    async def ask(self, payment: Payment, number: int, *, is_probe: bool = False) -> Asked:
        """See `domain.lifecycle.inquire.Asker.ask`."""
        exchanges: list[Exchange] = []
        unanswered = NO_ANSWER if payment.question is Step.QUERY else None
        standing, code = None, None
        try:
            report = await self._client.ask(payment, number, exchanges, is_probe=is_probe)
            standing = _standing_of(report, exchanges)
        except Throttled:
            await self._slow_down(payment.question)
            report = unanswered
        except Unreachable:
            report = unanswered
        except ProductRefused as refusal:
            report, standing, code = unanswered, Standing.PRODUCT_REFUSED, refusal.code
        said = "by callback" if report is None else str(report.verdict)
        observability.inquiries.labels(api=str(payment.question), verdict=said).inc()
        return Asked(report, tuple(exchanges), standing, code)

    async def _slow_down(self, question: Step | None = None) -> None:
        observability.throttled.inc()
        log.warning("daraja_throttles_us")
        budget = self._budgets.get(question) if question else None
        with contextlib.suppress(QueueUnavailable):
            await self._rate.slow_down()
            if budget is not None:
                await budget.slow_down()

    async def _take_turn(self, turn: Turn) -> None:
        wait_seconds = await self._rate.take(turn)
        if wait_seconds > 0:
            raise Throttled("our own limit", wait_seconds=wait_seconds)

    async def _sleep(self, seconds: float) -> None:
        """Waits, but not while the worker stops: the fence then refuses the next try."""
        try:
            await asyncio.wait_for(self._draining.wait(), timeout=seconds)
        except TimeoutError:
            return


def _standing_of(report: Report | None, exchanges: list[Exchange]) -> Standing | None:
    """WORKS if Daraja dealt with the question itself: it acknowledged it, or answered it."""
    if report is None:
        return Standing.WORKS if exchanges and exchanges[-1].meaning == ACKNOWLEDGED else None
    return None if report.verdict is Verdict.NO_ANSWER else Standing.WORKS


def _did_not_happen(error: BaseException) -> bool:
    return isinstance(error, Unreachable) and not isinstance(error, (DeadlinePassed, Draining))


class _EndsTooLate(tenacity.stop.stop_base):
    """Stops where the next try would come after the attempt's deadline."""

    def __init__(self, attempting: Attempting) -> None:
        self._fence = attempting.fence

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return retry_state.upcoming_sleep >= self._fence.seconds_left
