"""Everything that may wait or fail before Daraja is asked: the token, the credential, a free slot,
a turn.

`DarajaAccess` has the order. All of it comes before a claim is committed (rules.md §11): a
claimed payment that waited could pass its deadline unsent.
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

# Payouts before inquiries before pushes; and none starves (rules.md §10).
PAYOUTS = RequestClass("payouts")
INQUIRIES = RequestClass("inquiries", part_of_burst=2 / 3, own_share=0.1)
PUSHES = RequestClass("pushes", part_of_burst=1 / 3, own_share=0.2)


class Slots:
    """The requests that this worker may have under way: as many as it has connections, and few
    of some kinds.
    """

    def __init__(self, at_once_max: int) -> None:
        self._all = asyncio.Semaphore(at_once_max)
        self._own = {
            kind: asyncio.Semaphore(rules.at_once_max)
            for kind, rules in RULES.items()
            if rules.at_once_max is not None
        }

    @asynccontextmanager
    async def acquire(self, kind: Kind | None = None) -> AsyncIterator[None]:
        """Waits for a slot and holds it for the block.

        Raises Throttled if the kind's own slots are taken.
        """
        async with self._all:
            own = self._own.get(kind) if kind is not None else None
            if own is None:
                yield
                return
            if own.locked():
                # Not waited for here: a job that waits keeps its place from payments of other
                # kinds.
                raise Throttled(
                    f"all slots for {kind} are taken", wait_seconds=_OWN_SLOT_WAIT_SECONDS
                )
            async with own:
                yield


class Turns:
    """Turns at the rate that all workers keep together, and the slowing down when Daraja says
    that it is too much.
    """

    def __init__(
        self, rate: SharedRate, budgets: Mapping[Step, InquiryBudget] | None = None
    ) -> None:
        self._rate = rate
        self._budgets = budgets or {}

    async def acquire(self, turn: RequestClass) -> None:
        """Takes a turn now.

        Raises Throttled with the wait if there is none, and QueueUnavailable.
        """
        wait_seconds = await self._rate.charge(turn)
        if wait_seconds > 0:
            raise Throttled("our own limit", wait_seconds=wait_seconds)

    async def slow_down(self, question: Step | None = None) -> None:
        """Halves the common rate, and the budget of `question` if it was one that Daraja
        throttled.
        """
        observability.throttled.inc()
        log.warning("daraja_throttles_us")
        budget = self._budgets.get(question) if question else None
        with contextlib.suppress(QueueUnavailable):
            await self._rate.slow_down()
            if budget is not None:
                await budget.slow_down()


class DarajaAccess:
    """The way to Daraja: token and credential, then a slot, then a turn.

    A turn comes last because it cannot be given back. Both methods raise what `Provider.prepare_send`
    says.
    """

    def __init__(self, client: DarajaClient, slots: Slots, turns: Turns) -> None:
        self._client = client
        self._slots = slots
        self._turns = turns

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        """Before a send of this kind is claimed."""
        await self._client.ensure_token()
        async with self._slots.acquire(kind):
            await self._turns.acquire(PUSHES if RULES[kind].is_prompt else PAYOUTS)
            yield

    @asynccontextmanager
    async def prepare_inquiry(self) -> AsyncIterator[None]:
        """Before an inquiry is committed."""
        await self._client.ensure_token()
        async with self._slots.acquire():
            await self._turns.acquire(INQUIRIES)
            yield
