"""Obtains what a request to Daraja needs: a token, a slot and a turn.

A slot is one of the requests that this worker may send at the same time. A turn is one request of
the rate that all workers share. To obtain a token, a slot or a turn can take long or fail.
Therefore the worker obtains them before it commits the claim (rules.md §11). Otherwise a claimed
payment could miss its deadline unsent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from domain.adapters import observability
from domain.adapters.daraja.client import DarajaClient
from domain.adapters.redis.sharing import InquiryBudget, RequestClass, SharedRate
from domain.errors import QueueUnavailable, Throttled
from domain.kinds import RULES, Kind
from domain.stages import Step

log = structlog.get_logger()

_OWN_SLOT_WAIT_SECONDS = 1.0

# If turns are scarce, payouts go before inquiries, and inquiries before pushes (the requests of
# deposits). Inquiries and pushes still get a share of the turns (rules.md §10).
PAYOUTS = RequestClass("payouts")
INQUIRIES = RequestClass("inquiries", part_of_burst=2 / 3, own_share=0.1)
PUSHES = RequestClass("pushes", part_of_burst=1 / 3, own_share=0.2)


class Slots:
    """Limits this worker's concurrent requests. Some kinds have an additional, lower limit."""

    def __init__(self, at_once_max: int) -> None:
        self._all = asyncio.Semaphore(at_once_max)
        self._own = {
            kind: asyncio.Semaphore(rules.at_once_max)
            for kind, rules in RULES.items()
            if rules.at_once_max is not None
        }

    @asynccontextmanager
    async def acquire(self, kind: Kind | None = None) -> AsyncIterator[None]:
        """Waits until this worker has a free slot, and occupies it for the block.

        If the kind has a lower limit of its own, and has reached it, raises Throttled.
        """
        async with self._all:
            own = self._own.get(kind) if kind is not None else None
            if own is None:
                yield
                return
            if own.locked():
                # Do not wait: a waiting job would occupy a slot that other kinds need.
                raise Throttled(
                    f"all slots for {kind} are occupied", wait_seconds=_OWN_SLOT_WAIT_SECONDS
                )
            async with own:
                yield


class Turns:
    """Limits the request rate of all workers together, and lowers it if Daraja throttles us."""

    def __init__(
        self, rate: SharedRate, budgets: Mapping[Step, InquiryBudget] | None = None
    ) -> None:
        self._rate = rate
        self._budgets = budgets or {}

    async def acquire(self, turn: RequestClass) -> None:
        """Uses up one turn.

        If no turn is free, raises Throttled, which says how long to wait. If Redis is away, raises
        QueueUnavailable.
        """
        wait_seconds = await self._rate.charge(turn)
        observability.count_turn(turn.name, wait_seconds)
        if wait_seconds > 0:
            raise Throttled("our own limit", wait_seconds=wait_seconds)

    async def slow_down(self, inquiry_step: Step | None = None) -> None:
        """Halves the shared rate, because Daraja throttles us.

        If Daraja throttled an inquiry of `inquiry_step`, also halves the budget of this step.
        """
        observability.throttled.inc()
        log.warning("daraja_throttles_us")
        budget = self._budgets.get(inquiry_step) if inquiry_step else None
        with contextlib.suppress(QueueUnavailable):
            await self._rate.slow_down()
            if budget is not None:
                await budget.slow_down()


class DarajaAccess:
    """Prepares a request to Daraja: obtains a token, then a slot, then a turn.

    The turn comes last, because an unused turn cannot be returned. Both methods raise the errors
    that `Provider.prepare_send` lists.
    """

    def __init__(self, client: DarajaClient, slots: Slots, turns: Turns) -> None:
        self._client = client
        self._slots = slots
        self._turns = turns

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        """Prepares a send of this kind, before its claim."""
        await self._client.ensure_token()
        async with self._slots.acquire(kind):
            await self._turns.acquire(PUSHES if RULES[kind].is_prompt else PAYOUTS)
            yield

    @asynccontextmanager
    async def prepare_inquiry(self) -> AsyncIterator[None]:
        """Prepares an inquiry, before it is stored."""
        await self._client.ensure_token()
        async with self._slots.acquire():
            await self._turns.acquire(INQUIRIES)
            yield
