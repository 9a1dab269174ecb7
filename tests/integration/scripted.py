"""A provider and a bell that the test controls, in place of Daraja and of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from domain.attempts import IdKind, ProviderIds
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.announce import Announcer, OutboxEvent
from domain.lifecycle.submit import Submitter
from domain.payment import Payment
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import Store
from workers.main import boot_clock

Play = Callable[[Payment, OpenAttempt], Awaitable[ProviderIds]]


class Provider:
    """Calls `play` for each send, and records the calls.

    Satisfies `domain.lifecycle.submit.Provider`.
    """

    def __init__(self) -> None:
        self.play: Play = acknowledge
        self.prepared: list[Kind] = []
        self.submitted: list[UUID] = []

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        self.prepared.append(kind)
        yield

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        self.submitted.append(payment.id)
        return await self.play(payment, open_attempt)


class Bell:
    """Records the events. Satisfies `domain.lifecycle.announce.Bell`."""

    def __init__(self) -> None:
        self.rung: list[OutboxEvent] = []

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        self.rung += events


def an_id(payment: Payment) -> ProviderIds:
    return frozenset({(IdKind.CONVERSATION, f"AG_{payment.id.hex}")})


async def acknowledge(payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
    open_attempt.fence.pass_first_byte()
    return an_id(payment)


def fails(error: Exception, *, written: bool = True) -> Play:
    """Return a send that raises `error` before or after its first byte."""

    async def play(_payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        if written:
            open_attempt.fence.pass_first_byte()
        raise error

    return play


class Held:
    """A send that waits after its first byte until the test sets `may_answer`."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        open_attempt.fence.pass_first_byte()
        self.is_asked.set()
        await self.may_answer.wait()
        return an_id(payment)


async def charge_limit(store: Store, payment_id: UUID) -> list[Kind]:
    """Submit the payment as a worker does. Returns the kinds that charged the shared limit."""
    provider = Provider()
    submitter = Submitter(
        claims=store.claiming,
        changes=store.changing,
        provider=provider,
        announcer=Announcer(store.outbox, Bell()),
        times=TIMES,
        accounts=ACCOUNTS,
        clock=boot_clock,
    )
    await submitter.submit(payment_id)
    return provider.prepared
