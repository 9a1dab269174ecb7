"""Resends of a withdrawal: the steps of a first send, under the conditions of the claim."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.attempts import Outcome, ProviderIds
from domain.changes import Change, ChangeResult, Reads
from domain.errors import (
    OutcomeUnknown,
    PaymentServiceError,
    QueueUnavailable,
    Refused,
    StoreUnavailable,
    Throttled,
    Unreachable,
)
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.submit import Submitter
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_context,
    a_due_payment,
    a_payment,
    a_send,
    an_inquiry,
    evidence_of,
)

NOT_FOUND = tuple(
    an_inquiry(n, InquiryOutcome.NOT_FOUND, at=NOW - timedelta(minutes=10)) for n in (1, 2)
)


class World:
    """PostgreSQL with a withdrawal in doubt, and Daraja: everything that a resend calls."""

    def __init__(self, payment: Payment, *inquiries: Inquiry) -> None:
        self.payment = payment
        self.evidence = evidence_of(*inquiries)
        self.steps: list[str] = []
        self.claim_errors: list[PaymentServiceError] = []
        self.is_committed = False  # if a claim raises an error
        self.answer: Exception | None = None
        self.prepare_error: Exception | None = None
        times = replace(TIMES, retry_after=timedelta(seconds=2))
        anything: Any = self
        self.submitter = Submitter(
            claims=anything,
            changes=self,
            provider=self,
            announcer=anything,
            times=times,
            accounts=ACCOUNTS,
            clock=lambda: 0.0,
        )

    async def run(self) -> None:
        await self.submitter.resend(PAYMENT_ID, self.payment.kind)

    async def change(self, change: Change) -> ChangeResult:
        if change.reads is Reads.CLAIM:
            self.steps.append("claim")
        decided = change.decide(self.payment, a_context(evidence=self.evidence))
        if self.claim_errors and change.reads is Reads.CLAIM:
            if self.is_committed and decided.payment is not None:
                self.payment = decided.payment
            raise self.claim_errors.pop()
        assert decided.payment is not None
        if change.reads is not Reads.CLAIM and decided.payment != self.payment:
            self.steps.append("record")
        self.payment = decided.payment
        return ChangeResult(decided, None)

    def announce_soon(self, _result: ChangeResult) -> None:
        pass

    async def postpone(self, _payment_id: UUID, _wait: timedelta) -> None:
        pass

    @asynccontextmanager
    async def prepare_send(self, kind: Kind) -> AsyncIterator[None]:
        assert kind is Kind.WITHDRAWAL
        self.steps.append("prepare")
        if self.prepare_error is not None:
            raise self.prepare_error
        yield

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        open_attempt.fence.begin_send()
        open_attempt.fence.pass_first_byte()
        is_own = payment.attempt_id == open_attempt.attempt_id
        self.steps.append("send" if is_own else "send for another attempt")
        if self.answer is not None:
            raise self.answer
        return frozenset()


def outcomes(payment: Payment) -> list[Outcome | None]:
    return [attempt.outcome for attempt in payment.attempts]


async def test_a_resend_is_prepared_claimed_sent_and_recorded_in_this_order() -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    await world.run()
    assert world.steps == ["prepare", "claim", "send", "record"]
    assert world.payment.stage is Stage.AWAITING_RESULT
    assert outcomes(world.payment) == [Outcome.UNKNOWN, Outcome.ACKNOWLEDGED]


@pytest.mark.parametrize(
    "payment",
    [
        a_due_payment(needs_review=True),
        a_due_payment(stage=Stage.SUCCEEDED),
        a_payment(kind=Kind.WITHDRAWAL, attempts=(a_send(Outcome.NOT_ACTED, at=NOW),)),
        a_due_payment(stage=Stage.SUBMITTING),
    ],
    ids=["for review", "succeeded meanwhile", "proved unsent meanwhile", "claimed meanwhile"],
)
async def test_a_resend_that_is_no_longer_permitted_when_it_is_claimed_sends_nothing(
    payment: Payment,
) -> None:
    world = World(payment, *NOT_FOUND)
    await world.run()
    assert (world.steps, world.payment) == (["prepare", "claim"], payment)


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_resend_whose_claim_is_not_known_to_be_committed_sends_nothing(
    is_committed: bool,
) -> None:
    """If it was committed, the worker gives it back: the payment is in doubt as before."""
    world = World(a_due_payment(), *NOT_FOUND)
    world.claim_errors, world.is_committed = [StoreUnavailable()], is_committed
    await world.run()
    assert "send" not in world.steps
    assert world.payment.stage is Stage.IN_DOUBT
    assert outcomes(world.payment) == [
        Outcome.UNKNOWN,
        *([Outcome.NOT_ACTED] if is_committed else []),
    ]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (OutcomeUnknown(), Outcome.UNKNOWN),
        (Unreachable(), Outcome.NOT_ACTED),
    ],
)
async def test_a_resend_without_a_definite_answer_leaves_the_payment_in_doubt(
    answer: Exception, outcome: Outcome
) -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    world.answer = answer
    await world.run()
    assert world.payment.stage is Stage.IN_DOUBT
    assert outcomes(world.payment) == [Outcome.UNKNOWN, outcome]


async def test_a_refusal_of_a_later_send_does_not_fail_a_payment_whose_first_is_unknown() -> None:
    """After an unknown outcome, no synchronous answer to a later send fails it (rules.md §13)."""
    world = World(a_due_payment(), *NOT_FOUND)
    world.answer = Refused(Failure(FailureReason.REJECTED_BY_PROVIDER, True, "400.002.02"))
    await world.run()
    assert (world.payment.stage, world.payment.failure) == (Stage.IN_DOUBT, None)


@pytest.mark.parametrize("error", [Throttled(wait_seconds=1), Unreachable(), QueueUnavailable()])
async def test_a_resend_that_cannot_be_prepared_claims_nothing(error: Exception) -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    world.prepare_error = error
    await world.run()
    assert (world.steps, world.payment) == (["prepare"], a_due_payment())


async def test_a_stopping_worker_resends_nothing() -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    world.submitter.drain()
    await world.run()
    assert world.steps == []


async def test_a_worker_that_stops_before_the_first_byte_gives_a_resend_back() -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    original = world.change

    async def change(change: Change) -> ChangeResult:
        result = await original(change)
        if change.reads is Reads.CLAIM:
            world.submitter.drain()
        return result

    world.change = change  # type: ignore[method-assign]
    await world.run()
    assert "send" not in world.steps
    assert world.payment.stage is Stage.IN_DOUBT
    assert outcomes(world.payment) == [Outcome.UNKNOWN, Outcome.NOT_ACTED]
