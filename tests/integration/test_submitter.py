"""Submit payments with a real PostgreSQL, which stores the effect of each Daraja answer."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from domain.attempts import Outcome
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    Refused,
    Resendable,
    Throttled,
    Unreachable,
)
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.submit import Submitter
from domain.stages import Stage
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import INSUFFICIENT_FUNDS, Store, success, until
from tests.integration.scripted import Bell, Held, Provider, acknowledge, an_id, fails
from workers.main import boot_clock


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def submitter(store: Store, provider: Provider, bell: Bell) -> Submitter:
    """The submitter of one worker."""
    return a_submitter(store, provider, bell)


def a_submitter(store: Store, provider: Provider, bell: Bell) -> Submitter:
    return Submitter(
        claims=store.claiming,
        changes=store.changing,
        provider=provider,
        announcer=Announcer(store.outbox, bell),
        times=TIMES,
        accounts=ACCOUNTS,
        clock=boot_clock,
    )


@pytest.mark.parametrize(
    ("error", "stage", "outcome"),
    [
        (None, Stage.AWAITING_RESULT, Outcome.ACKNOWLEDGED),
        (Refused(INSUFFICIENT_FUNDS), Stage.FAILED, Outcome.REFUSED),
        (Throttled(), Stage.ACCEPTED, Outcome.NOT_ACTED),
        (Resendable(), Stage.IN_DOUBT, Outcome.RESENDABLE),
        (DuplicateSubmission(), Stage.IN_DOUBT, Outcome.DUPLICATE),
        (OutcomeUnknown(), Stage.IN_DOUBT, Outcome.UNKNOWN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_an_answer_after_the_first_byte_sets_stage_and_outcome(
    store: Store,
    submitter: Submitter,
    provider: Provider,
    error: Exception | None,
    stage: Stage,
    outcome: Outcome,
) -> None:
    if error is not None:
        provider.play = fails(error)
    payment_id = await store.accepted(Kind.WITHDRAWAL)
    await submitter.submit(payment_id)
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.attempts[0].outcome) == (stage, outcome)
    assert (payment.next_step_at is None) is stage.is_final
    assert payment.provider_ids == (an_id(payment) if error is None else frozenset())


async def test_a_payment_that_failed_before_the_first_byte_is_sent_later(
    store: Store, submitter: Submitter, provider: Provider
) -> None:
    """Nothing was written, so only the second attempt counts as a send."""
    provider.play = fails(Unreachable(), written=False)
    payment_id = await store.accepted(Kind.BILL_PAYMENT)
    await submitter.submit(payment_id)
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.lease_until) == (Stage.ACCEPTED, None)
    assert payment.next_step_at is not None
    assert payment.next_step_at - payment.updated_at <= timedelta(seconds=5)
    provider.play = acknowledge
    await submitter.submit(payment_id)
    payment = await store.payment(payment_id)
    assert payment.stage is Stage.AWAITING_RESULT
    assert [attempt.outcome for attempt in payment.attempts] == [
        Outcome.NOT_ACTED,
        Outcome.ACKNOWLEDGED,
    ]


async def test_an_answer_after_the_success_of_its_payment_is_recorded(
    store: Store, submitter: Submitter, provider: Provider
) -> None:
    """The callback arrived first. The answer's ids are stored, and the success stays."""
    provider.play = held = Held()
    payment_id = await store.accepted(Kind.WITHDRAWAL)
    job = asyncio.create_task(submitter.submit(payment_id))
    await held.is_asked.wait()
    await store.changing.change(success(payment_id, Kind.WITHDRAWAL))
    held.may_answer.set()
    await job
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.needs_review) == (Stage.SUCCEEDED, False)
    assert payment.provider_ids == an_id(payment)


async def test_a_refusal_is_announced_with_its_stored_bytes(
    fresh: Store, provider: Provider, bell: Bell
) -> None:
    provider.play = fails(Refused(INSUFFICIENT_FUNDS))
    payment_id = await fresh.accepted()
    await a_submitter(fresh, provider, bell).submit(payment_id)
    await until(lambda: _is_published(fresh))
    stored = (await fresh.history(payment_id))[-1]["event_body"]
    assert [event.body for event in bell.rung] == [stored]


async def _is_published(store: Store) -> bool:
    return await store.count_unpublished() == 0


async def test_an_expired_payment_fails_and_is_not_sent(
    store: Store, submitter: Submitter, provider: Provider
) -> None:
    """The payment was never sent, so the failure is safe to retry."""
    payment_id = await store.accepted()
    await store.execute("UPDATE mkwanja.payments SET expires_at = now() WHERE id = $1", payment_id)
    await submitter.submit(payment_id)
    payment = await store.payment(payment_id)
    assert payment.failure is not None
    assert payment.failure.reason is FailureReason.NOT_SUBMITTED_IN_TIME
    assert payment.failure.safe_to_retry
    assert provider.submitted == []
