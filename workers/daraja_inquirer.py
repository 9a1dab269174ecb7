"""Sends inquiries to Daraja, once each. The answer also shows the health of the operation."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from domain.adapters import observability
from domain.adapters.daraja.client import NO_ANSWER, DarajaClient
from domain.adapters.daraja.status import ACKNOWLEDGED
from domain.changes import Exchange
from domain.errors import ProductRefused, Throttled, Unreachable
from domain.evidence import InquiryOutcome
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.operations import OperationHealth
from domain.payment import Payment
from domain.report import Report
from domain.stages import Step
from workers.daraja_access import DarajaAccess, Turns


class DarajaInquirer:
    """Satisfies `domain.lifecycle.inquire.InquiryProvider`."""

    def __init__(self, client: DarajaClient, access: DarajaAccess, turns: Turns) -> None:
        self._client = client
        self._access = access
        self._turns = turns

    def prepare_inquiry(self) -> AbstractAsyncContextManager[None]:
        """See `domain.lifecycle.inquire.InquiryProvider.prepare_inquiry`."""
        return self._access.prepare_inquiry()

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        """See `domain.lifecycle.inquire.InquiryProvider.send_inquiry`."""
        exchanges: list[Exchange] = []
        unanswered = NO_ANSWER if payment.inquiry_step is Step.QUERY else None
        health, code = None, None
        try:
            report = await self._client.inquire(payment, number, exchanges, is_probe=is_probe)
            health = _health_from(report, exchanges)
        except Throttled:
            await self._turns.slow_down(payment.inquiry_step)
            report = unanswered
        except Unreachable:
            report = unanswered
        except ProductRefused as refusal:
            report, health, code = unanswered, OperationHealth.PRODUCT_REFUSED, refusal.code
        outcome = "by callback" if report is None else str(report.inquiry_outcome)
        observability.inquiries.labels(api=str(payment.inquiry_step), outcome=outcome).inc()
        return InquiryAnswer(report, tuple(exchanges), health, code)


def _health_from(report: Report | None, exchanges: list[Exchange]) -> OperationHealth | None:
    """Returns WORKS if Daraja acknowledged the inquiry or answered it, else None."""
    if report is None:
        return (
            OperationHealth.WORKS if exchanges and exchanges[-1].outcome == ACKNOWLEDGED else None
        )
    return None if report.inquiry_outcome is InquiryOutcome.NO_ANSWER else OperationHealth.WORKS
