"""The order of a submission: the steps before the claim, the fence, and the recorded answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog

from domain.attempts import IdKind, ProviderIds
from domain.changes import Change, ChangeResult
from domain.errors import (
    OutcomeUnknown,
    ProviderError,
    QueueUnavailable,
    Refused,
    StoreUnavailable,
    Throttled,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle import record_answer
from domain.lifecycle.submit import Due, Submitter
from domain.payment import Fact, Payment
from domain.stages import FactName, Stage
from domain.times import DEFAULT_TIMES
from tests.builders import NOW, a_context, a_payment

TIMES = replace(DEFAULT_TIMES, retry_after=timedelta(seconds=2))
IDS: ProviderIds = frozenset({(IdKind.CHECKOUT_REQUEST, "ws_CO_1")})


class World:
    """PostgreSQL with one payment, and Daraja: everything that a submitter calls."""

    def __init__(self, payment: Payment | None) -> None:
        self.payment = payment
        self.steps: list[str] = []
        self.postponed_by: list[timedelta] = []
        self.bugs_left = 0
        self.store_failed = asyncio.Event()
        self.slots_in_use = 0
        self.clock = 1000.0
        self.prepare_error: Exception | None = None
        self.answer: ProviderIds | Exception = IDS
        self.is_written = True
        self.is_claim_lost = False
        self.on_claim: Callable[[], None] = lambda: None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.sent = asyncio.Event()
        self.outages_left = 0
        self.fence: Fence | None = None
        anything: Any = self
        self.submitter = Submitter(
            claims=anything,
            changes=self,
            provider=anything,
            announcer=anything,
            times=TIMES,
            accounts={},
            clock=lambda: self.clock,
        )

    async def run(self) -> None:
        await self.submitter.submit(a_payment().id)

    async def find_due(self, payment_id: UUID) -> Due | None:
        if self.payment is None:
            return None
        is_expired = self.payment.expires_at <= NOW
        return Due(
            payment_id=payment_id,
            kind=self.payment.kind,
            stage=self.payment.stage,
            is_expired=is_expired,
        )

    async def claim(self, _payment_id: UUID, attempt_id: UUID, **_how: object) -> Payment | None:
        self.steps.append("claim")
        self.on_claim()
        assert self.payment is not None
        if self.is_claim_lost:
            return None
        self.payment = self.payment.apply(Fact(name=FactName.CLAIMED, attempt_id=attempt_id))
        return self.payment

    async def postpone(self, _payment_id: UUID, wait: timedelta) -> None:
        self.postponed_by.append(wait)

    async def change(self, change: Change) -> ChangeResult:
        if self.outages_left:
            self.outages_left -= 1
            self.store_failed.set()
            raise StoreUnavailable
        if self.bugs_left:
            self.bugs_left -= 1
            raise ZeroDivisionError
        decided = change.decide(self.payment, a_context())
        self.payment = decided.payment
        self.steps.append("record")
        return ChangeResult(decided, None)

    def announce_soon(self, _result: ChangeResult) -> None:
        pass

    @asynccontextmanager
    async def prepare_send(self, _kind: Kind) -> AsyncIterator[None]:
        self.steps.append("prepare")
        if self.prepare_error is not None:
            raise self.prepare_error
        self.slots_in_use += 1
        try:
            yield
        finally:
            self.slots_in_use -= 1

    async def submit(self, _payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        self.fence = open_attempt.fence
        open_attempt.fence.begin_send()
        if self.is_written:
            open_attempt.fence.pass_first_byte()
            self.steps.append("send")
            self.sent.set()
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def stage(self) -> Stage:
        assert self.payment is not None
        return self.payment.stage


@pytest.fixture
async def world() -> World:
    return World(a_payment())


async def test_the_submitter_prepares_claims_sends_and_records_in_this_order(world: World) -> None:
    await world.run()
    assert world.steps == ["prepare", "claim", "send", "record"]
    assert world.stage is Stage.AWAITING_RESULT


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.ACCEPTED])
async def test_a_job_for_a_payment_past_acceptance_does_nothing(stage: Stage) -> None:
    """The row decides: a job may run twice, late, or for a payment that is already final."""
    world = World(a_payment(stage=stage))
    await world.run()
    assert (world.steps, world.postponed_by) == ([], [])


async def test_a_job_for_an_unknown_payment_does_nothing() -> None:
    world = World(None)
    await world.run()
    assert world.steps == []


async def test_an_expired_payment_fails_without_a_claim(world: World) -> None:
    assert world.payment is not None
    world.payment = replace(world.payment, expires_at=NOW)
    await world.run()
    assert (world.steps, world.stage) == (["record"], Stage.FAILED)


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Throttled(wait_seconds=7), 7),
        (Unreachable(), 2),
        (OutcomeUnknown(), 2),
        (Refused(Failure(FailureReason.CONFIGURATION, True)), 2),
        (QueueUnavailable(), 2),
    ],
)
async def test_a_payment_whose_send_cannot_be_prepared_is_postponed_unclaimed(
    world: World, error: Exception, wait: float
) -> None:
    world.prepare_error = error
    await world.run()
    assert world.steps == ["prepare"]
    assert (world.stage, world.postponed_by) == (Stage.ACCEPTED, [timedelta(seconds=wait)])


async def test_a_worker_whose_claim_fails_sends_nothing(world: World) -> None:
    world.is_claim_lost = True
    await world.run()
    assert world.steps == ["prepare", "claim"]


@pytest.mark.parametrize(
    ("error", "is_written", "stage"),
    [
        (OutcomeUnknown(), True, Stage.IN_DOUBT),
        (Unreachable(), False, Stage.ACCEPTED),
        (Refused(Failure(FailureReason.CONFIGURATION, True)), True, Stage.FAILED),
        (ProviderError(), True, Stage.IN_DOUBT),
        # a bug of ours decides nothing: if a byte may have been written, an inquiry follows
        (RuntimeError("bug"), True, Stage.IN_DOUBT),
        (RuntimeError("bug"), False, Stage.ACCEPTED),
    ],
)
async def test_an_error_moves_the_payment_to_the_stage_that_it_proves(
    world: World, error: Exception, is_written: bool, stage: Stage
) -> None:
    world.answer, world.is_written = error, is_written
    await world.run()
    assert (world.steps[-1], world.stage) == ("record", stage)


async def test_a_cancelled_job_still_records_its_answer(world: World) -> None:
    world.may_answer.clear()
    job = asyncio.create_task(world.run())
    await asyncio.wait_for(world.sent.wait(), timeout=5)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert (job.cancelled(), world.stage) == (True, Stage.SUBMITTING)
    world.may_answer.set()
    await world.submitter.wait_for_sends()
    assert world.stage is Stage.AWAITING_RESULT


async def test_the_fence_ends_half_a_lease_after_the_claim_began(world: World) -> None:
    """A slow claim, because of a frozen machine or a slow PostgreSQL, uses up its own time."""

    def advance_clock() -> None:
        world.clock += 12

    world.on_claim = advance_clock
    await world.run()
    assert world.fence is not None
    assert world.fence.seconds_left == 30 - 12


async def test_a_worker_thawed_past_its_deadline_sends_nothing_and_gives_the_payment_back(
    world: World,
) -> None:
    def freeze() -> None:
        world.clock += 3600

    world.on_claim = freeze
    await world.run()
    assert (world.steps, world.stage) == (["prepare", "claim", "record"], Stage.ACCEPTED)


async def test_a_stopping_worker_claims_nothing(world: World) -> None:
    world.submitter.drain()
    await world.run()
    assert world.steps == []


async def test_a_worker_that_stops_after_the_claim_gives_the_payment_back_at_once(
    world: World,
) -> None:
    world.on_claim = world.submitter.drain
    await world.run()
    assert (world.steps, world.stage) == (["prepare", "claim", "record"], Stage.ACCEPTED)
    assert world.payment is not None
    assert world.payment.next_step_at == NOW


@pytest.fixture
def no_retry_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_answer, "_WAITS_SECONDS", (0,))


@pytest.mark.usefixtures("no_retry_wait")
async def test_the_worker_retries_to_record_an_answer_while_postgresql_is_away(
    world: World,
) -> None:
    world.outages_left = 1000
    await world.run()
    assert world.stage is Stage.AWAITING_RESULT


@pytest.mark.usefixtures("no_retry_wait")
@pytest.mark.parametrize(
    ("faults", "stage"), [(5, Stage.AWAITING_RESULT), (1000, Stage.SUBMITTING)]
)
async def test_the_worker_gives_up_an_answer_that_a_bug_prevents_it_from_recording(
    world: World, faults: int, stage: Stage
) -> None:
    """Otherwise it would occupy its slot for ever.

    After the lease, the inquiry or the callback shows the outcome.
    """
    world.bugs_left = faults
    await world.run()
    assert world.stage is stage


async def test_an_unrecorded_answer_occupies_its_slot_after_its_job_is_cancelled(
    world: World,
) -> None:
    """The slots therefore limit the answers that wait, whatever arq does with their jobs."""
    world.outages_left = 3
    job = asyncio.create_task(world.run())
    await asyncio.wait_for(world.store_failed.wait(), timeout=5)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert world.slots_in_use == 1
    await world.submitter.wait_for_sends()
    assert (world.slots_in_use, world.stage) == (0, Stage.AWAITING_RESULT)


async def test_a_worker_that_exits_logs_each_unrecorded_answer(world: World) -> None:
    world.outages_left = 1000
    job = asyncio.create_task(world.run())
    await asyncio.wait_for(world.store_failed.wait(), timeout=5)
    with structlog.testing.capture_logs() as lines:
        world.submitter.log_unrecorded()
    job.cancel()
    [line] = lines
    assert world.payment is not None
    expected = {
        "event": "answer_lost",
        "log_level": "error",
        "payment_id": str(world.payment.id),
        "outcome": "acknowledged",
        "checkout_request_id": "ws_CO_1",
    }
    assert {name: line[name] for name in expected} == expected
    assert "attempt_id" in line
