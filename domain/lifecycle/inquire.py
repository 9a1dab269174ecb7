"""Inquires with Daraja about a payment that is overdue or in doubt, or sends it again.

An inquiry is stored before it is sent. Daraja answers an STK query at once, and a Transaction
Status inquiry by a callback to the inquiry's own address. `inquiry_changes` makes the decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import structlog

from domain.account import Account
from domain.changes import (
    Change,
    ChangeResult,
    ChangingStore,
    Context,
    Decided,
    HistoryEntry,
    ProbeOperation,
    Reads,
    StoreInquiry,
)
from domain.errors import PaymentServiceError, ProviderError, QueueUnavailable, Throttled
from domain.evidence import Inquiry
from domain.inquiry import (
    may_be_resent,
)
from domain.kinds import RULES, Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.inquiry_changes import (
    InquiryAnswer,
    inquiry_answer_change,
    inquiry_change,
    postponement_change,
)
from domain.lifecycle.submit import NextStep, Submitter
from domain.payment import Payment
from domain.stages import Stage
from domain.times import Times

log = structlog.get_logger()


class InquiryProvider(Protocol):
    """The part of Daraja that inquiries use."""

    def prepare_inquiry(self) -> AbstractAsyncContextManager[None]:
        """Does for an inquiry what `Provider.prepare_send` does for a send."""
        ...

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        """Sends inquiry `number` about the payment to Daraja.

        `is_probe`: the inquiry's operation is held, and this inquiry probes the operation.
        """
        ...


class Inquirer:
    """Inquires about payments, or sends them again. Each worker process has one."""

    def __init__(
        self,
        *,
        changes: ChangingStore,
        provider: InquiryProvider,
        submitter: Submitter,
        announcer: Announcer,
        times: Times,
        accounts: Mapping[Kind, Account],
    ) -> None:
        self._changes = changes
        self._provider = provider
        self._submitter = submitter
        self._announcer = announcer
        self._times = times
        self._accounts = accounts
        self._probes: set[asyncio.Task[None]] = set()

    async def inquire(self, next_step: NextStep) -> None:
        """Sends the payment again if that is permitted, or inquires about it if an inquiry is due.

        In all other cases nothing changes.
        """
        can_be_resent = (
            RULES[next_step.kind].can_be_sent_again and next_step.stage is Stage.IN_DOUBT
        )
        if can_be_resent and await self._may_be_resent(next_step.payment_id):
            await self._submitter.resend(next_step.payment_id, next_step.kind)
        elif next_step.is_due:
            await self._inquire_when_ready(next_step.payment_id, is_breaker_probe=False)

    def probe_soon(self, payment_id: UUID) -> None:
        """Inquires about a payment, final or not, to test if Daraja accepts our credential."""
        task = asyncio.create_task(self._probe(payment_id))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, payment_id: UUID) -> None:
        try:
            await self._inquire_when_ready(payment_id, is_breaker_probe=True)
        except PaymentServiceError as error:
            log.warning("probe_postponed", payment_id=str(payment_id), error=type(error).__name__)
        except Exception:
            log.exception("probe_failed", payment_id=str(payment_id))

    async def _may_be_resent(self, payment_id: UUID) -> bool:
        is_permitted = False

        def decide(payment: Payment | None, context: Context) -> Decided:
            nonlocal is_permitted
            is_permitted = payment is not None and may_be_resent(
                payment, context.evidence, context.now, self._times, self._accounts
            )
            return Decided(payment=payment)

        await self._changes.change(
            Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)
        )
        return is_permitted

    async def _inquire_when_ready(self, payment_id: UUID, *, is_breaker_probe: bool) -> None:
        try:
            async with self._provider.prepare_inquiry():
                change = inquiry_change(
                    payment_id, self._times, self._accounts, is_breaker_probe=is_breaker_probe
                )
                result = await self._changes.change(change)
                self._announcer.announce_soon(result)
                payment, entry = result.decided.payment, result.decided.entry
                if entry is not None and entry.name is HistoryEntry.ACCOUNT_NOT_CONFIGURED:
                    log.error("account_not_configured", payment_id=str(payment_id), **entry.detail)
                stored = result.decided.effect(StoreInquiry)
                if payment is not None and stored is not None:
                    is_probe = result.decided.effect(ProbeOperation) is not None
                    await self._send_and_record(payment, stored.inquiry, is_probe=is_probe)
        except Throttled as error:
            await self._changes.change(
                postponement_change(payment_id, timedelta(seconds=error.wait_seconds))
            )
        except (ProviderError, QueueUnavailable) as error:
            log.warning(
                "not_ready_to_inquire", payment_id=str(payment_id), error=type(error).__name__
            )

    async def _send_and_record(self, payment: Payment, inquiry: Inquiry, *, is_probe: bool) -> None:
        answer = await self._provider.send_inquiry(payment, inquiry.number, is_probe=is_probe)
        change = inquiry_answer_change(
            payment.id, inquiry.number, answer.report, answer.exchanges, self._times, answer=answer
        )
        result: ChangeResult = await self._changes.change(change)
        self._announcer.announce_soon(result)
