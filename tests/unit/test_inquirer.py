"""The inquirer prepares, stores, sends and records an inquiry, or resends the payment instead."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.errors import OutcomeUnknown, QueueUnavailable, StoreUnavailable, Throttled, Unreachable
from domain.kinds import Kind
from tests.builders import NOW, a_due_payment
from tests.unit.sending import AN_EXCHANGE, NOT_FOUND, World


@pytest.mark.parametrize("kind", Kind)
async def test_an_inquiry_is_prepared_stored_sent_and_recorded_in_this_order(kind: Kind) -> None:
    """Steps that may wait come first. The inquiry's number is stored before the send."""
    world = World(a_due_payment(kind))
    await world.inquire()
    assert world.steps == ["prepare", "store inquiry 1", "send inquiry 1", "record answer 1"]
    assert world.exchanges == (AN_EXCHANGE,)


async def test_a_job_for_a_payment_that_is_not_due_sends_no_inquiry() -> None:
    world = World(a_due_payment())
    await world.inquire(is_due=False)
    assert world.steps == []
    # The payment was due at the first read, but is not due under the lock.
    world = World(a_due_payment(next_step_at=NOW + timedelta(minutes=1)))
    await world.inquire()
    assert world.steps == ["prepare"]


async def test_an_inquiry_over_our_own_limit_is_postponed() -> None:
    world = World(a_due_payment())
    world.prepare_error = Throttled(wait_seconds=7)
    await world.inquire()
    assert world.steps == ["prepare", "record"]
    assert world.payment == a_due_payment(next_step_at=NOW + timedelta(seconds=7))


@pytest.mark.parametrize("error", [Unreachable(), OutcomeUnknown(), QueueUnavailable()])
async def test_an_inquiry_that_cannot_be_prepared_changes_nothing(error: Exception) -> None:
    """The sweeper moved the due time by only 5 s when it queued the job, so it retries soon."""
    world = World(a_due_payment())
    world.prepare_error = error
    await world.inquire()
    assert (world.steps, world.payment) == (["prepare"], a_due_payment())


@pytest.mark.parametrize("is_due", [True, False])
async def test_a_withdrawal_that_may_be_resent_is_resent_without_an_inquiry(is_due: bool) -> None:
    world = World(a_due_payment(), *NOT_FOUND)
    await world.inquire(is_due=is_due)
    assert world.steps == ["prepare", "claim", "send", "record"]


@pytest.mark.parametrize("error", [StoreUnavailable, RuntimeError])
async def test_a_failed_probe_does_not_stop_the_sweeper(error: type[Exception]) -> None:
    world = World(a_due_payment())
    world.change_errors = [error]
    await world.probe()
    assert world.steps == ["prepare"]
