"""A provider and a bell that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from domain.attempts import IdKind, ProviderIds
from domain.changes import Announcement
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.submit import Submitter
from domain.payment import Payment
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import Store
from workers.main import boot_clock

Play = Callable[[Payment, OpenAttempt], Awaitable[ProviderIds]]


class Provider:
    """Does with each payment what the test says, and counts.

    Satisfies `domain.lifecycle.submit.Provider`.
    """

    def __init__(self) -> None:
        self.play: Play = acknowledge
        self.not_ready: Exception | None = None
        self.submitted: list[UUID] = []

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        assert kind in Kind
        if self.not_ready is not None:
            raise self.not_ready
        yield

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        self.submitted.append(payment.id)
        return await self.play(payment, open_attempt)


class Bell:
    """Keeps what was rung. Satisfies `domain.lifecycle.announce.Bell`."""

    def __init__(self) -> None:
        self.rung: list[Announcement] = []

    async def ring(self, announcement: Announcement) -> None:
        self.rung.append(announcement)


def an_id(payment: Payment) -> ProviderIds:
    return frozenset({(IdKind.CONVERSATION, f"AG_{payment.id.hex}")})


async def acknowledge(payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
    open_attempt.fence.pass_first_byte()
    return an_id(payment)


def fails(error: Exception, *, written: bool = True) -> Play:
    """A provider with that trouble, before or after the first byte."""

    async def play(_payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        if written:
            open_attempt.fence.pass_first_byte()
        raise error

    return play


class Held:
    """A provider that waits, once the first byte is written or before it, until the test lets it
    go on.
    """

    def __init__(self, *, written: bool) -> None:
        self.written = written
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        if self.written:
            open_attempt.fence.pass_first_byte()
        self.is_asked.set()
        await self.may_answer.wait()
        open_attempt.fence.pass_first_byte()
        return an_id(payment)


class CountingProvider(Provider):
    """A provider that notes every kind for which the shared limit was charged a request."""

    readied_for: list[Kind]

    def prepare_send(self, kind: Kind):  # type: ignore[no-untyped-def]
        self.readied_for.append(kind)
        return super().prepare_send(kind)


async def charge_limit(store: Store, payment_id: UUID) -> list[Kind]:
    """Let a worker submit the payment; returns the kinds that charged the shared limit."""
    provider = CountingProvider()
    provider.readied_for = []
    submitter = Submitter(
        claims=store.claiming,
        changes=store.changing,
        provider=provider,
        announcer=Announcer(store.sweeping, Bell()),
        times=TIMES,
        accounts=ACCOUNTS,
        clock=boot_clock,
    )
    await submitter.submit(payment_id)
    return provider.readied_for
