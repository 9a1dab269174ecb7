"""A world with one payment: it replaces PostgreSQL and Daraja for a submitter or an inquirer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from domain.account import Account
from domain.attempts import IdKind, Outcome, ProviderIds
from domain.changes import Change, ChangeResult, Decided, Exchange, Reads
from domain.evidence import Inquiry, InquiryOutcome
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.inquire import Inquirer
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.lifecycle.submit import NextStep, Submitter
from domain.payment import Fact, Payment
from domain.report import Report, ReportedOutcome
from domain.stages import FactName, Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_context,
    a_payment,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.decisions import answer_of, inquiry_of

# Two inquiries. Their answers permit a resend of a withdrawal in doubt.
NOT_FOUND = tuple(
    an_inquiry(n, InquiryOutcome.NOT_FOUND, at=NOW - timedelta(minutes=10)) for n in (1, 2)
)
NO_RESULT = Report(
    outcome=ReportedOutcome.UNDECIDED, code="4999", inquiry_outcome=InquiryOutcome.NO_RESULT
)
AN_EXCHANGE = Exchange(
    id=an_attempt_id(7), attempt_id=None, api="stk_query", request={}, was_written=True,
    http_status=200, answer=None, outcome="no_result",
)  # fmt: skip


class World:
    """Records the `steps` of the submitter and the inquirer. A test may set errors and delays."""

    def __init__(self, payment: Payment | None = None, *inquiries: Inquiry) -> None:
        self.payment: Any = payment or a_payment()
        self.evidence = evidence_of(*inquiries)
        self.steps: list[str] = []
        self.postponed_by: list[timedelta] = []
        self.exchanges: tuple[Exchange, ...] = ()
        self.slots_in_use = 0
        self.clock = 1000.0
        self.fence: Fence | None = None
        self.prepare_error: Exception | None = None
        self.change_errors: list[type[Exception]] = []  # the next changes raise these
        self.is_commit_kept = False  # if a change raises an error
        self.on_claim: Callable[[], None] = lambda: None
        self.answer: ProviderIds | Exception = frozenset({(IdKind.CHECKOUT_REQUEST, "ws_CO_1")})
        self.is_written = True
        self.inquiry_answer: Report | None = NO_RESULT
        self.sent, self.may_answer, self.store_failed = (asyncio.Event() for _ in range(3))
        self.may_answer.set()
        parts: dict[str, Any] = {"changes": self, "provider": self, "announcer": self}
        parts |= {"times": replace(TIMES, retry_after=timedelta(seconds=2)), "accounts": ACCOUNTS}
        anything: Any = self
        self.submitter = Submitter(claims=anything, clock=lambda: self.clock, **parts)
        self.inquirer = Inquirer(submitter=self.submitter, **parts)

    async def submit_payment(self) -> None:
        await self.submitter.submit(PAYMENT_ID)

    async def resend(self) -> None:
        await self.submitter.resend(PAYMENT_ID, self.payment.kind)

    async def inquire(self, *, is_due: bool = True) -> None:
        await self.inquirer.inquire(replace(self._next_step(), is_due=is_due))

    async def probe(self) -> None:
        self.inquirer.probe_soon(PAYMENT_ID)
        await asyncio.gather(*self.inquirer._probes)

    @property
    def stage(self) -> Stage:
        return self.payment.stage  # type: ignore[no-any-return]

    @property
    def outcomes(self) -> list[Outcome | None]:
        return [attempt.outcome for attempt in self.payment.attempts]

    def _next_step(self) -> NextStep:
        payment: Payment = self.payment
        return NextStep(
            payment_id=payment.id,
            kind=payment.kind,
            stage=payment.stage,
            is_expired=payment.expires_at <= NOW,
        )

    # --- PostgreSQL -------------------------------------------------------------------------------

    async def find_next_step(self, payment_id: UUID) -> NextStep | None:
        return self._next_step() if payment_id == self.payment.id else None

    async def claim(
        self, _payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account
    ) -> Payment | None:
        assert lease == TIMES.lease
        self.steps.append("claim")
        if self.stage is Stage.ACCEPTED:
            fact = Fact(name=FactName.CLAIMED, attempt_id=attempt_id, account=account)
            self.payment = self.payment.apply(fact)
        self.on_claim()
        return self.payment if self.payment.attempt_id == attempt_id else None

    async def postpone(self, _payment_id: UUID, wait: timedelta) -> None:
        self.postponed_by.append(wait)

    async def change(self, change: Change) -> ChangeResult:
        decided = change.decide(self.payment, a_context(evidence=self.evidence))
        is_claim = change.reads is Reads.CLAIM
        if is_claim:
            self.steps.append("claim")
        if self.change_errors:
            if self.is_commit_kept:
                self.payment = decided.payment
            self.store_failed.set()
            raise self.change_errors.pop()
        if not is_claim:
            self._note_step(change, decided)
        self.payment = decided.payment
        if is_claim:
            self.on_claim()
        return ChangeResult(decided, None)

    def _note_step(self, change: Change, decided: Decided) -> None:
        inquiry, answered = inquiry_of(decided), answer_of(decided)
        if inquiry is not None:
            self.steps.append(f"store inquiry {inquiry.number}")
            inquiries = (*self.evidence.inquiries, inquiry)
            self.evidence = replace(self.evidence, inquiries=inquiries)
        elif answered is not None:
            self.steps.append(f"record answer {answered.number}")
            self.exchanges += change.exchanges
        elif decided.payment != self.payment:
            self.steps.append("record")

    def announce_soon(self, _result: ChangeResult) -> None:
        pass

    # --- Daraja -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        assert kind is self.payment.kind
        async with self.prepare_inquiry():
            yield

    @asynccontextmanager
    async def prepare_inquiry(self) -> AsyncIterator[None]:
        self.steps.append("prepare")
        if self.prepare_error is not None:
            raise self.prepare_error
        self.slots_in_use += 1
        try:
            yield
        finally:
            self.slots_in_use -= 1

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        assert payment.attempt_id == open_attempt.attempt_id
        self.fence = open_attempt.fence
        self.fence.begin_send()
        if self.is_written:
            self.fence.pass_first_byte()
            self.steps.append("send")
            self.sent.set()
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        assert (payment.id, is_probe) == (PAYMENT_ID, False)
        self.steps.append(f"send inquiry {number}")
        return InquiryAnswer(self.inquiry_answer, (AN_EXCHANGE,))
