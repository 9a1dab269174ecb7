"""The order of steps in a send and in a resend, the fence, and the record of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog

from domain.attempts import Outcome
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
from domain.kinds import Kind
from domain.lifecycle import record_answer
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import NOW, a_due_payment, a_payment, a_send
from tests.unit.sending import NOT_FOUND, World

UNKNOWN, NOT_ACTED = Outcome.UNKNOWN, Outcome.NOT_ACTED
REFUSED = Refused(Failure(FailureReason.CONFIGURATION, True))


def a_world_of_a_resend() -> World:
    """A withdrawal in doubt that may be sent again."""
    return World(a_due_payment(), *NOT_FOUND)


@pytest.fixture
async def world() -> World:
    """A payment that was not sent yet."""
    return World()


@pytest.fixture(params=[World, a_world_of_a_resend], ids=["first send", "resend"])
async def either(request: pytest.FixtureRequest) -> World:
    make_world: Callable[[], World] = request.param
    return make_world()


async def run(world: World) -> None:
    await (world.resend() if world.stage is Stage.IN_DOUBT else world.submit_payment())


async def test_the_submitter_prepares_claims_sends_and_records_in_this_order(
    either: World,
) -> None:
    earlier = either.outcomes
    await run(either)
    assert either.steps == ["prepare", "claim", "send", "record"]
    assert either.stage is Stage.AWAITING_RESULT
    assert either.outcomes == [*earlier, Outcome.ACKNOWLEDGED]


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.ACCEPTED])
async def test_a_job_for_a_payment_past_acceptance_does_nothing(stage: Stage) -> None:
    """The payment's row decides, because a job may run twice, late, or for a final payment."""
    world = World(a_payment(stage=stage))
    await world.submit_payment()
    assert (world.steps, world.postponed_by) == ([], [])


async def test_a_job_for_an_unknown_payment_does_nothing(world: World) -> None:
    await world.submitter.submit(uuid4())
    assert world.steps == []


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Throttled(wait_seconds=7), 7),
        (Unreachable(), 2),
        (OutcomeUnknown(), 2),
        (REFUSED, 2),
        (QueueUnavailable(), 2),
    ],
)
async def test_a_payment_whose_send_cannot_be_prepared_is_postponed_without_a_claim(
    either: World, error: Exception, wait: float
) -> None:
    before = either.payment
    either.prepare_error = error
    await run(either)
    assert (either.steps, either.payment) == (["prepare"], before)
    assert either.postponed_by == [timedelta(seconds=wait)]


@pytest.mark.parametrize(
    "payment",
    [
        a_due_payment(needs_review=True),
        a_due_payment(stage=Stage.SUCCEEDED),
        a_payment(kind=Kind.WITHDRAWAL, attempts=(a_send(NOT_ACTED, at=NOW),)),
        a_due_payment(stage=Stage.SUBMITTING),
    ],
    ids=["for review", "succeeded meanwhile", "proved unsent meanwhile", "claimed meanwhile"],
)
async def test_a_resend_that_is_no_longer_permitted_when_it_is_claimed_sends_nothing(
    payment: Payment,
) -> None:
    world = World(payment, *NOT_FOUND)
    await world.resend()
    assert (world.steps, world.payment) == (["prepare", "claim"], payment)


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_resend_whose_claim_is_not_known_to_be_committed_sends_nothing(
    is_committed: bool,
) -> None:
    """If the claim was committed, the worker moves the payment back to in doubt."""
    world = a_world_of_a_resend()
    world.change_errors, world.is_commit_kept = [StoreUnavailable], is_committed
    await world.resend()
    assert "send" not in world.steps
    assert world.stage is Stage.IN_DOUBT
    assert world.outcomes == [UNKNOWN, *([NOT_ACTED] if is_committed else [])]


@pytest.mark.parametrize(
    ("error", "is_written", "stage"),
    [
        (OutcomeUnknown(), True, Stage.IN_DOUBT),
        (Unreachable(), False, Stage.ACCEPTED),
        (REFUSED, True, Stage.FAILED),
        (ProviderError(), True, Stage.IN_DOUBT),
        # a bug of ours proves nothing: if a byte may have been written, an inquiry follows
        (RuntimeError("bug"), True, Stage.IN_DOUBT),
        (RuntimeError("bug"), False, Stage.ACCEPTED),
    ],
)
async def test_an_error_moves_the_payment_to_the_stage_that_it_proves(
    world: World, error: Exception, is_written: bool, stage: Stage
) -> None:
    world.answer, world.is_written = error, is_written
    await world.submit_payment()
    assert (world.steps[-1], world.stage) == ("record", stage)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (OutcomeUnknown(), UNKNOWN),
        (Unreachable(), NOT_ACTED),
        # after an unknown outcome, no answer to a later send fails the payment (rules.md §13)
        (REFUSED, Outcome.REFUSED),
    ],
)
async def test_a_resend_without_an_acknowledgement_leaves_the_payment_in_doubt(
    answer: Exception, outcome: Outcome
) -> None:
    world = a_world_of_a_resend()
    world.answer = answer
    await world.resend()
    assert (world.stage, world.payment.failure) == (Stage.IN_DOUBT, None)
    assert world.outcomes == [UNKNOWN, outcome]


async def test_a_cancelled_job_still_records_its_answer(world: World) -> None:
    world.may_answer.clear()
    job = asyncio.create_task(world.submit_payment())
    await asyncio.wait_for(world.sent.wait(), timeout=5)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert (job.cancelled(), world.stage) == (True, Stage.SUBMITTING)
    world.may_answer.set()
    await world.submitter.wait_for_sends()
    assert world.stage is Stage.AWAITING_RESULT


def advance_clock_at_claim(world: World, seconds: float) -> None:
    def advance() -> None:
        world.clock += seconds

    world.on_claim = advance


async def test_the_fence_ends_half_a_lease_after_the_claim_began(world: World) -> None:
    """The claim's own time counts, because the machine or PostgreSQL may be slow."""
    advance_clock_at_claim(world, 12)
    await world.submit_payment()
    assert world.fence is not None
    assert world.fence.seconds_left == 30 - 12


async def test_a_worker_that_was_frozen_past_its_deadline_gives_the_payment_back_unsent(
    world: World,
) -> None:
    advance_clock_at_claim(world, 3600)
    await world.submit_payment()
    assert (world.steps, world.stage) == (["prepare", "claim", "record"], Stage.ACCEPTED)


async def test_a_stopping_worker_claims_nothing(either: World) -> None:
    either.submitter.drain()
    await run(either)
    assert either.steps == []


async def test_a_worker_that_stops_after_the_claim_gives_the_payment_back_at_once(
    either: World,
) -> None:
    before, earlier = either.stage, either.outcomes
    either.on_claim = either.submitter.drain
    await run(either)
    assert (either.steps, either.stage) == (["prepare", "claim", "record"], before)
    assert either.outcomes == [*earlier, NOT_ACTED]
    if before is Stage.ACCEPTED:
        assert either.payment.next_step_at == NOW


@pytest.mark.parametrize(
    ("errors", "stage"),
    [
        ([StoreUnavailable] * 1000, Stage.AWAITING_RESULT),
        ([ZeroDivisionError] * 5, Stage.AWAITING_RESULT),
        # the worker gives up and frees the slot; after the lease, an inquiry shows the outcome
        ([ZeroDivisionError] * 1000, Stage.SUBMITTING),
    ],
    ids=["PostgreSQL is away for long", "a bug fails five times", "a bug fails each time"],
)
async def test_the_worker_retries_to_record_an_answer_and_gives_up_only_after_a_bug(
    world: World, errors: list[type[Exception]], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_answer, "_WAITS_SECONDS", (0,))
    world.change_errors = errors
    await world.submit_payment()
    assert world.stage is stage


async def test_an_unrecorded_answer_occupies_its_slot_after_its_job_is_cancelled(
    world: World,
) -> None:
    """If such an answer used no slot, any number of answers could wait."""
    world.change_errors = [StoreUnavailable] * 3
    job = asyncio.create_task(world.submit_payment())
    await asyncio.wait_for(world.store_failed.wait(), timeout=5)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert world.slots_in_use == 1
    await world.submitter.wait_for_sends()
    assert (world.slots_in_use, world.stage) == (0, Stage.AWAITING_RESULT)


async def test_a_worker_that_exits_logs_each_unrecorded_answer(world: World) -> None:
    world.change_errors = [StoreUnavailable] * 1000
    job = asyncio.create_task(world.submit_payment())
    await asyncio.wait_for(world.store_failed.wait(), timeout=5)
    with structlog.testing.capture_logs() as lines:
        world.submitter.log_unrecorded()
    job.cancel()
    [line] = lines
    expected = {
        "event": "answer_lost",
        "log_level": "error",
        "payment_id": str(world.payment.id),
        "outcome": "acknowledged",
        "checkout_request_id": "ws_CO_1",
    }
    assert {name: line[name] for name in expected} == expected
    assert "attempt_id" in line
