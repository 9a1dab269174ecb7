"""The order of an inquiry: made ready, stored, asked, recorded; or sent again instead, where
that is permitted.
"""

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
SENT_NOTHING = Exchange(
    id=an_attempt_id(7), attempt_id=None, api="stk_query", request={}, was_written=True, http_status=200, answer=None,
    outcome="no_result",
)  # fmt: skip


class World:
    """Postgres with one payment and its inquiries, and Daraja: everything that an inquirer
    reaches.
    """

    def __init__(self, payment: Payment | None, *inquiries: Inquiry) -> None:
        self.payment = payment
        self.evidence = evidence_of(*inquiries)
        self.did: list[str] = []
        self.not_ready: Exception | None = None
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
        self.did.append("ready")
        if self.not_ready is not None:
            raise self.not_ready
        yield

    async def send_inquiry(
        self, payment: Payment, number: int, *, is_probe: bool = False
    ) -> InquiryAnswer:
        assert payment.id == PAYMENT_ID
        self.did.append(f"ask {number}{' as a probe' if is_probe else ''}")
        return InquiryAnswer(self.answer, (SENT_NOTHING,))

    async def change(self, change: Change) -> ChangeResult:
        if self.store_raises is not None:
            raise self.store_raises
        decided = change.decide(self.payment, a_context(evidence=self.evidence))
        asked, answered = inquiry_of(decided), answer_of(decided)
        if asked is not None:
            self.did.append(f"store {asked.number}")
            self.evidence = Evidence(inquiries=(*self.evidence.inquiries, asked))
        elif answered is not None:
            self.did.append(f"answered {answered.number}")
            self.exchanges += change.exchanges
        elif decided.payment != self.payment:
            self.did.append("changed")
        self.payment = decided.payment
        return ChangeResult(decided, None)

    def announce_soon(self, _result: ChangeResult) -> None:
        pass

    async def resend(self, payment_id: UUID, _kind: Kind) -> None:
        assert payment_id == PAYMENT_ID
        self.did.append("resend")


@pytest.mark.parametrize("kind", Kind)
async def test_a_question_is_readied_stored_asked_and_recorded_in_this_order(kind: Kind) -> None:
    """What may wait comes before the number is taken; the number is on disk before Daraja is
    asked.
    """
    world = World(a_due_payment(kind))
    await world.run()
    assert world.did == ["ready", "store 1", "ask 1", "answered 1"]
    assert world.exchanges == (SENT_NOTHING,)


async def test_an_answer_that_comes_by_callback_is_not_recorded_as_one() -> None:
    world = World(a_due_payment())
    world.answer = None
    await world.run()
    assert world.did == ["ready", "store 1", "ask 1"]


async def test_a_job_that_finds_nothing_due_asks_nothing() -> None:
    world = World(a_due_payment())
    await world.run(is_due=False)
    assert world.did == []
    world = World(
        a_due_payment(next_step_at=NOW + timedelta(minutes=1))
    )  # it was due when the job looked
    await world.run()
    assert world.did == ["ready"]


async def test_of_two_jobs_for_one_due_time_one_asks() -> None:
    world = World(a_due_payment())
    await asyncio.gather(world.run(), world.run())
    assert [word for word in world.did if word.startswith("ask")] == ["ask 1"]


async def test_a_question_that_our_own_limit_holds_back_has_its_turn_later() -> None:
    world = World(a_due_payment())
    world.not_ready = Throttled(wait_seconds=7)
    await world.run()
    assert world.did == ["ready", "changed"]
    assert world.payment == a_due_payment(next_step_at=NOW + timedelta(seconds=7))


@pytest.mark.parametrize(
    "error",
    [Unreachable(), OutcomeUnknown(), QueueUnavailable()],
)
async def test_a_question_that_cannot_be_made_ready_leaves_no_trace(error: Exception) -> None:
    """The sweep moved its due time when it handed it over: it comes again within seconds."""
    world = World(a_due_payment())
    world.not_ready = error
    await world.run()
    assert (world.did, world.payment) == (["ready"], a_due_payment())


async def test_a_withdrawal_that_may_be_sent_again_is_sent_and_not_asked_about() -> None:
    for is_due in (True, False):
        world = World(a_due_payment(), *NOT_FOUND)
        await world.run(is_due=is_due)
        assert world.did == ["resend"]


@pytest.mark.parametrize(
    ("payment", "inquiries"),
    [
        (a_due_payment(), NOT_FOUND[:1]),
        (a_due_payment(needs_review=True), NOT_FOUND),
        (a_due_payment(stage=Stage.AWAITING_RESULT), NOT_FOUND),
        (a_due_payment(Kind.BILL_PAYMENT), NOT_FOUND),
        (a_due_payment(Kind.DEPOSIT), NOT_FOUND),
    ],
    ids=["one answer", "for review", "awaiting", "bill payment", "deposit"],
)
async def test_what_may_not_be_sent_again_is_asked_about(
    payment: Payment, inquiries: tuple[Inquiry, ...]
) -> None:
    world = World(payment, *inquiries)
    await world.run()
    assert "resend" not in world.did
    assert f"ask {len(inquiries) + 1}" in world.did


async def probed(world: World) -> None:
    world.inquirer.probe_soon(PAYMENT_ID)
    await asyncio.gather(*world.inquirer._probes)


async def test_a_probe_asks_about_a_payment_that_is_long_final() -> None:
    world = World(a_due_payment(stage=Stage.FAILED, next_step_at=None))
    world.answer = None
    await probed(world)
    assert world.did == ["ready", "store 1", "ask 1"]


@pytest.mark.parametrize("error", [StoreUnavailable(), RuntimeError("bug")])
async def test_a_probe_that_fails_ends_nobody_s_sweep(error: Exception) -> None:
    world = World(a_due_payment())
    world.store_raises = error
    await probed(world)
    assert world.did == ["ready"]
