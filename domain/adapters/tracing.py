"""Traces: one trace for each payment, with a span for each hop of its way.

A trace has the payment's id as its id, so no queue and no column carries it. Every process wraps
its parts with the classes below if traces are configured. If not, nothing is wrapped, and the
library of OpenTelemetry is not even imported (ADR 39).

A hop never has a phone number, a name, an amount, a token or a text of a caller or of Daraja.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

import orjson

from domain.account import Account
from domain.adapters.settings.common import TraceSettings
from domain.adapters.webhooks.sender import Sent
from domain.attempts import ProviderIds
from domain.changes import Change, ChangeResult, ChangingStore
from domain.errors import ProviderError
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.announce import Bell, OutboxEvent
from domain.lifecycle.inquire import InquiryProvider
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.lifecycle.submit import ClaimingStore, NextStep, Provider
from domain.operations import OPERATION_OF_INQUIRY_STEP
from domain.payment import Payment


class HopKind(Enum):
    """What a hop is, in the words of OpenTelemetry."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


@dataclass(slots=True)
class Hop:
    """One hop of a payment. Without a `payment_id` it is not recorded.

    `is_first`: all other hops of the payment are below this one. `caller_trace`: the trace id and
    the span id that the caller sent.
    """

    name: str
    payment_id: UUID | None
    kind: HopKind = HopKind.INTERNAL
    attributes: dict[str, str | int | bool] = field(default_factory=dict)
    is_first: bool = False
    has_failed: bool = False
    caller_trace: tuple[int, int] | None = None


class Tracer(Protocol):
    """Records hops. It raises nothing, and waits for nothing."""

    def record(self, hop: Hop, begun_ns: int, ended_ns: int) -> None:
        """Records a hop that began and ended at these times, in nanoseconds since 1970."""
        ...

    def begin_close(self) -> None:
        """Begins to send what is recorded and not sent yet. Later hops are lost."""
        ...

    async def wait_closed(self) -> None:
        """Waits until everything is sent, or until the time for that is over."""
        ...


def start_tracing(settings: TraceSettings, process: str) -> Tracer | None:
    """Returns the tracer of this process, or None if no variable OTEL_… asks for traces.

    A forked process must call this after the fork.
    """
    if not settings.has_traces:
        return None
    # Only now, because the library costs memory and half a second of start time.
    from domain.adapters.otel import OtelTracer  # noqa: PLC0415

    return OtelTracer(process)


@contextmanager
def hop(
    tracer: Tracer, name: str, payment_id: UUID | None, kind: HopKind = HopKind.INTERNAL
) -> Iterator[Hop]:
    """Records the block as a hop. The block may still change the hop."""
    recorded = Hop(name, payment_id, kind)
    begun_ns = time.time_ns()
    try:
        yield recorded
    except BaseException as error:
        recorded.has_failed = True
        recorded.attributes["error.type"] = type(error).__name__
        raise
    finally:
        tracer.record(recorded, begun_ns, time.time_ns())


class TracedWakeups:
    """The wake-ups of new payments, each as a hop."""

    def __init__(self, wake_new: Callable[[Sequence[UUID]], Awaitable[None]], tracer: Tracer):
        self._wake_new = wake_new
        self._tracer = tracer

    async def wake_new(self, payment_ids: Sequence[UUID]) -> None:
        begun_ns = time.time_ns()
        has_failed = True
        try:
            await self._wake_new(payment_ids)
            has_failed = False
        finally:
            ended_ns = time.time_ns()
            for payment_id in payment_ids:
                one = Hop("wake-up", payment_id, HopKind.PRODUCER, has_failed=has_failed)
                self._tracer.record(one, begun_ns, ended_ns)


def trace_job(
    run_step: Callable[[str], Awaitable[None]], tracer: Tracer | None
) -> Callable[[str], Awaitable[None]]:
    """The work of one payment of a job, as a hop if there is a tracer."""
    if tracer is None:
        return run_step

    async def run(payment_id: str) -> None:
        with hop(tracer, "job", _uuid(payment_id), HopKind.CONSUMER):
            await run_step(payment_id)

    return run


def _uuid(text: Any) -> UUID | None:
    """The id in `text`, which may be anything."""
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        return None


class TracedClaims:
    """Satisfies `domain.lifecycle.submit.ClaimingStore`: each claim is a hop."""

    def __init__(self, claims: ClaimingStore, tracer: Tracer) -> None:
        self._claims = claims
        self._tracer = tracer

    async def find_next_step(self, payment_id: UUID) -> NextStep | None:
        """See `domain.lifecycle.submit.ClaimingStore.find_next_step`."""
        return await self._claims.find_next_step(payment_id)

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """See `domain.lifecycle.submit.ClaimingStore.postpone`."""
        await self._claims.postpone(payment_id, wait)

    async def claim(
        self, payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account | None
    ) -> Payment | None:
        """See `domain.lifecycle.submit.ClaimingStore.claim`."""
        with hop(self._tracer, "claim", payment_id) as claim:
            payment = await self._claims.claim(payment_id, attempt_id, lease=lease, account=account)
            claim.attributes["mkwanja.is_claimed"] = payment is not None
            return payment


class TracedProvider:
    """Satisfies `domain.lifecycle.submit.Provider`: each send is a hop, with its tries."""

    def __init__(self, provider: Provider, tracer: Tracer) -> None:
        self._provider = provider
        self._tracer = tracer

    def prepare_send(self, kind: Kind) -> AbstractAsyncContextManager[None]:
        """See `domain.lifecycle.submit.Provider.prepare_send`."""
        return self._provider.prepare_send(kind)

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """See `domain.lifecycle.submit.Provider.submit`."""
        operation = payment.rules.operation.value
        with hop(self._tracer, f"daraja {operation}", payment.id, HopKind.CLIENT) as send:
            send.attributes["mkwanja.operation"] = operation
            try:
                ids = await self._provider.submit(payment, open_attempt)
            except ProviderError as error:
                send.attributes["mkwanja.outcome"] = type(error).__name__
                raise
            finally:
                send.attributes["mkwanja.requests"] = len(open_attempt.exchanges)
            send.attributes["mkwanja.outcome"] = "acknowledged"
            return ids


class TracedInquiries:
    """Satisfies `domain.lifecycle.inquire.InquiryProvider`: each inquiry is a hop."""

    def __init__(self, provider: InquiryProvider, tracer: Tracer) -> None:
        self._provider = provider
        self._tracer = tracer

    def prepare_inquiry(self) -> AbstractAsyncContextManager[None]:
        """See `domain.lifecycle.inquire.InquiryProvider.prepare_inquiry`."""
        return self._provider.prepare_inquiry()

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        """See `domain.lifecycle.inquire.InquiryProvider.send_inquiry`."""
        step = payment.inquiry_step
        operation = OPERATION_OF_INQUIRY_STEP[step].value if step is not None else "inquiry"
        with hop(self._tracer, f"daraja {operation}", payment.id, HopKind.CLIENT) as inquiry:
            inquiry.attributes |= {"mkwanja.operation": operation, "mkwanja.number": number}
            answer = await self._provider.send_inquiry(payment, number, is_probe=is_probe)
            report = answer.report
            outcome = "by callback" if report is None else str(report.inquiry_outcome)
            inquiry.attributes["mkwanja.outcome"] = outcome
            return answer


class TracedChanges:
    """Satisfies `domain.changes.ChangingStore`: each change with a history entry is a hop."""

    def __init__(self, changes: ChangingStore, tracer: Tracer) -> None:
        self._changes = changes
        self._tracer = tracer

    async def change(self, change: Change) -> ChangeResult:
        """See `domain.changes.ChangingStore.change`."""
        with hop(self._tracer, "commit", change.payment_id) as commit:
            result = await self._changes.change(change)
            payment, entry = result.decided.payment, result.decided.entry
            if payment is None or entry is None:
                commit.payment_id = None  # nothing about the payment changed
            else:
                commit.name = f"commit {entry.name.value}"
                commit.attributes |= _about(payment)
            return result


def _about(payment: Payment) -> Mapping[str, str]:
    return {"mkwanja.kind": payment.kind.value, "mkwanja.stage": payment.stage.value}


class MessageSender(Protocol):
    """Sends messages to endpoints: `domain.adapters.webhooks.sender.WebhookSender`."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """Sends the message and returns what came of it."""
        ...

    async def close(self) -> None: ...


class TracedWebhooks:
    """Satisfies `MessageSender`: each attempt to send a payment's event is a hop."""

    def __init__(self, sender: MessageSender, tracer: Tracer) -> None:
        self._sender = sender
        self._tracer = tracer

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """See `MessageSender.send`."""
        with hop(self._tracer, "webhook", _subject(body), HopKind.CLIENT) as attempt:
            sent = await self._sender.send(url, headers, body)
            attempt.attributes["mkwanja.outcome"] = sent.outcome.value
            if sent.http_status is not None:
                attempt.attributes["http.response.status_code"] = sent.http_status
            return sent

    async def close(self) -> None:
        await self._sender.close()


def _subject(event: bytes) -> UUID | None:
    """The payment of an event. None for the event of a test of an endpoint."""
    members = orjson.loads(event)
    is_of_payment = members["type"].startswith("mkwanja.payment.")
    return _uuid(members["subject"]) if is_of_payment else None


class TracedBell:
    """Satisfies `domain.lifecycle.announce.Bell`: the publication of each event is a hop."""

    def __init__(self, bell: Bell, tracer: Tracer) -> None:
        self._bell = bell
        self._tracer = tracer

    async def ring(self, events: Sequence[OutboxEvent]) -> None:
        """See `domain.lifecycle.announce.Bell.ring`."""
        begun_ns = time.time_ns()
        has_failed = True
        try:
            await self._bell.ring(events)
            has_failed = False
        finally:
            ended_ns = time.time_ns()
            for event in events:
                one = Hop("publish", event.payment_id, HopKind.PRODUCER, has_failed=has_failed)
                one.attributes["mkwanja.position"] = event.position
                self._tracer.record(one, begun_ns, ended_ns)
