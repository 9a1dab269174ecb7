"""The order of an inquiry: prepare, store, send, record; or a resend in its place, if permitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Change, ChangeResult, Exchange
from domain.errors import OutcomeUnknown, QueueUnavailable, StoreUnavailable, Throttled, Unreachable
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquire import Inquirer
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.lifecycle.submit import Due
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_context,
    a_due_payment,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.decisions import answer_of, inquiry_of

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
    """All that an inquirer reaches: PostgreSQL with one payment and its inquiries, and Daraja."""

    def __init__(self, payment: Payment | None, *inquiries: Inquiry) -> None:
        self.payment = payment
        self.evidence = evidence_of(*inquiries)
        self.steps: list[str] = []
        self.prepare_raises: Exception | None = None
        self.answer: Report | None = NO_RESULT
        self.exchanges: tuple[Exchange, ...] = ()
        self.store_raises: Exception | None = None
        anything: Any = self
        self.inquirer = Inquirer(
            changes=self,
            provider=self,
            submitter=anything,
            announcer=anything,
            times=TIMES,
            accounts=ACCOUNTS,
        )

    async def run(self, *, is_due: bool = True) -> None:
        assert self.payment is not None
        due = Due(
            payment_id=PAYMENT_ID,
            kind=self.payment.kind,
            stage=self.payment.stage,
            is_expired=False,
            is_due=is_due,
        )
        await self.inquirer.inquire(due)

    @asynccontextmanager
    async def prepare_inquiry(self) -> AsyncIterator[None]:
        self.steps.append("prepare")
        if self.prepare_raises is not None:
            raise self.prepare_raises
        yield

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        assert payment.id == PAYMENT_ID
        self.steps.append(f"send {number}{' as a probe' if is_probe else ''}")
        return InquiryAnswer(self.answer, (AN_EXCHANGE,))

    async def change(self, change: Change) -> ChangeResult:
        if self.store_raises is not None:
            raise self.store_raises
        decided = change.decide(self.payment, a_context(evidence=self.evidence))
        inquiry, answered = inquiry_of(decided), answer_of(decided)
        if inquiry is not None:
            self.steps.append(f"store {inquiry.number}")
            self.evidence = Evidence(inquiries=(*self.evidence.inquiries, inquiry))
        elif answered is not None:
            self.steps.append(f"record {answered.number}")
            self.exchanges += change.exchanges
        elif decided.payment != self.payment:
            self.steps.append("postpone")
        self.payment = decided.payment
        return ChangeResult(decided, None)

    def announce_soon(self, _result: ChangeResult) -> None:
        pass

    async def resend(self, payment_id: UUID, _kind: Kind) -> None:
        assert payment_id == PAYMENT_ID
        self.steps.append("resend")


@pytest.mark.parametrize("kind", Kind)
async def test_an_inquiry_is_prepared_stored_sent_and_recorded_in_this_order(kind: Kind) -> None:
    """Steps that may wait come before the number is stored, which comes before the send."""
    world = World(a_due_payment(kind))
    await world.run()
    assert world.steps == ["prepare", "store 1", "send 1", "record 1"]
    assert world.exchanges == (AN_EXCHANGE,)


async def test_an_answer_that_comes_by_callback_is_not_recorded_by_the_inquirer() -> None:
    world = World(a_due_payment())
    world.answer = None
    await world.run()
    assert world.steps == ["prepare", "store 1", "send 1"]


async def test_a_job_for_a_payment_that_is_not_due_sends_no_inquiry() -> None:
    world = World(a_due_payment())
    await world.run(is_due=False)
    assert world.steps == []
    # It was due when the job read it.
    world = World(a_due_payment(next_step_at=NOW + timedelta(minutes=1)))
    await world.run()
    assert world.steps == ["prepare"]


async def test_of_two_jobs_for_one_due_time_only_one_sends_an_inquiry() -> None:
    world = World(a_due_payment())
    await asyncio.gather(world.run(), world.run())
    assert [step for step in world.steps if step.startswith("send")] == ["send 1"]


async def test_an_inquiry_over_our_own_limit_is_postponed() -> None:
    world = World(a_due_payment())
    world.prepare_raises = Throttled(wait_seconds=7)
    await world.run()
    assert world.steps == ["prepare", "postpone"]
    assert world.payment == a_due_payment(next_step_at=NOW + timedelta(seconds=7))


@pytest.mark.parametrize("error", [Unreachable(), OutcomeUnknown(), QueueUnavailable()])
async def test_an_inquiry_that_cannot_be_prepared_changes_nothing(error: Exception) -> None:
    """The sweeper moved the due time when it queued the job, so it retries within seconds."""
    world = World(a_due_payment())
    world.prepare_raises = error
    await world.run()
    assert (world.steps, world.payment) == (["prepare"], a_due_payment())


async def test_a_withdrawal_that_may_be_resent_is_resent_without_an_inquiry() -> None:
    for is_due in (True, False):
        world = World(a_due_payment(), *NOT_FOUND)
        await world.run(is_due=is_due)
        assert world.steps == ["resend"]


@pytest.mark.parametrize(
    ("payment", "inquiries"),
    [
        (a_due_payment(), NOT_FOUND[:1]),
        (a_due_payment(needs_review=True), NOT_FOUND),
        (a_due_payment(stage=Stage.AWAITING_RESULT), NOT_FOUND),
        (a_due_payment(Kind.BILL_PAYMENT), NOT_FOUND),
        (a_due_payment(Kind.DEPOSIT), NOT_FOUND),
    ],
    ids=["one answer", "flagged", "awaiting", "bill payment", "deposit"],
)
async def test_a_payment_that_may_not_be_resent_gets_an_inquiry(
    payment: Payment, inquiries: tuple[Inquiry, ...]
) -> None:
    world = World(payment, *inquiries)
    await world.run()
    assert "resend" not in world.steps
    assert f"send {len(inquiries) + 1}" in world.steps


async def run_probe(world: World) -> None:
    world.inquirer.probe_soon(PAYMENT_ID)
    await asyncio.gather(*world.inquirer._probes)


async def test_a_probe_inquires_about_a_final_payment() -> None:
    world = World(a_due_payment(stage=Stage.FAILED, next_step_at=None))
    world.answer = None
    await run_probe(world)
    assert world.steps == ["prepare", "store 1", "send 1"]


@pytest.mark.parametrize("error", [StoreUnavailable(), RuntimeError("bug")])
async def test_a_failed_probe_does_not_stop_the_sweeper(error: Exception) -> None:
    world = World(a_due_payment())
    world.store_raises = error
    await run_probe(world)
    assert world.steps == ["prepare"]
