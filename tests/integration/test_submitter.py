"""Submit payments on a real PostgreSQL: after each answer and fault, the right stage is stored."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.attempts import Outcome, ProviderIds
from domain.errors import (
    DeadlinePassed,
    DuplicateSubmission,
    OutcomeUnknown,
    ProviderError,
    QueueUnavailable,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.failures import FailureReason
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle import record_answer
from domain.lifecycle.announce import Announcer
from domain.lifecycle.submit import Submitter
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import INSUFFICIENT_FUNDS, Store, new_id, success, until
from tests.integration.scripted import Away, Bell, Held, Provider, acknowledge, an_id, fails
from workers.main import boot_clock


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def bell() -> Bell:
    return Bell()


def a_submitter(store: Store, provider: Provider, bell: Bell, **parts: Any) -> Submitter:
    """Return the submitter of one worker."""
    usual: dict[str, Any] = {"changes": store.changing, "clock": boot_clock}
    return Submitter(
        claims=store.claiming,
        provider=provider,
        announcer=Announcer(store.sweeping, bell),
        times=TIMES,
        accounts=ACCOUNTS,
        **(usual | parts),
    )


@pytest.fixture
def submitter(store: Store, provider: Provider, bell: Bell) -> Submitter:
    return a_submitter(store, provider, bell)


class TestAnswers:
    """Each answer leads to its stage, and its outcome is stored with the attempt."""

    @pytest.mark.parametrize(
        ("error", "stage", "outcome"),
        [
            (None, Stage.AWAITING_RESULT, Outcome.ACKNOWLEDGED),
            (Refused(INSUFFICIENT_FUNDS), Stage.FAILED, Outcome.REFUSED),
            (Throttled(), Stage.ACCEPTED, Outcome.NOT_ACTED),
            (TokenRefused(), Stage.ACCEPTED, Outcome.NOT_ACTED),
            (Resendable(), Stage.IN_DOUBT, Outcome.RESENDABLE),
            (DuplicateSubmission(), Stage.IN_DOUBT, Outcome.DUPLICATE),
            (OutcomeUnknown(), Stage.IN_DOUBT, Outcome.UNKNOWN),
            (ZeroDivisionError(), Stage.IN_DOUBT, Outcome.UNKNOWN),
            (QueueUnavailable(), Stage.IN_DOUBT, Outcome.UNKNOWN),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
    )
    async def test_an_answer_after_the_first_byte_sets_stage_and_outcome(
        self,
        store: Store,
        submitter: Submitter,
        provider: Provider,
        error: Exception | None,
        stage: Stage,
        outcome: Outcome,
    ) -> None:
        """If Daraja may have acted, the payment is in doubt, also after a bug of ours."""
        if error is not None:
            provider.play = fails(error)
        payment_id = await store.accepted(Kind.WITHDRAWAL)
        await submitter.submit(payment_id)
        payment = await store.payment(payment_id)
        assert (payment.stage, [attempt.outcome for attempt in payment.attempts]) == (
            stage,
            [outcome],
        )
        assert (payment.next_step_at is None) is stage.is_final
        assert payment.provider_ids == (an_id(payment) if error is None else frozenset())

    @pytest.mark.parametrize(
        "error", [Unreachable(), DeadlinePassed(), ZeroDivisionError()], ids=repr
    )
    async def test_a_payment_that_failed_before_the_first_byte_is_sent_later(
        self, store: Store, submitter: Submitter, provider: Provider, error: Exception
    ) -> None:
        """Nothing was written, so only the second attempt counts as a send."""
        provider.play = fails(error, written=False)
        payment_id = await store.accepted(Kind.BILL_PAYMENT)
        await submitter.submit(payment_id)
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.lease_until) == (Stage.ACCEPTED, None)
        assert [attempt.outcome for attempt in payment.attempts] == [Outcome.NOT_ACTED]
        assert payment.next_step_at is not None
        assert payment.next_step_at - payment.updated_at <= timedelta(seconds=5)
        provider.play = acknowledge
        await submitter.submit(payment_id)
        payment = await store.payment(payment_id)
        assert payment.stage is Stage.AWAITING_RESULT
        assert [attempt.number for attempt in payment.attempts] == [1, 2]

    async def test_an_answer_after_the_end_of_the_lease_is_recorded(
        self, store: Store, submitter: Submitter, provider: Provider
    ) -> None:
        """A callback was faster. The answer's ids are stored, and the success stays."""
        held = Held(written=True)
        provider.play = held
        payment_id = await store.accepted(Kind.WITHDRAWAL)
        job = asyncio.create_task(submitter.submit(payment_id))
        await held.is_asked.wait()
        await store.changing.change(success(payment_id, Kind.WITHDRAWAL))
        held.may_answer.set()
        await job
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.needs_review) == (Stage.SUCCEEDED, False)
        assert payment.provider_ids == an_id(payment)

    async def test_a_refusal_is_announced(
        self, store: Store, submitter: Submitter, provider: Provider, bell: Bell
    ) -> None:
        """The announcement has the stored bytes."""
        provider.play = fails(Refused(INSUFFICIENT_FUNDS))
        payment_id = await store.accepted()
        await submitter.submit(payment_id)
        await until(lambda: _is_announced(store, payment_id))
        assert [announcement.body for announcement in bell.rung] == [
            (await store.history(payment_id))[-1]["event_body"]
        ]


async def _is_announced(store: Store, payment_id: UUID) -> bool:
    return (await store.payment(payment_id)).event_due is None


class TestTheRowIsTheJob:
    """A job that runs twice or late changes nothing."""

    async def test_many_jobs_for_one_payment_in_two_workers_send_once(
        self, store: Store, other: Store, provider: Provider, bell: Bell
    ) -> None:
        """Only one of them can claim it."""
        workers = [a_submitter(process, provider, bell) for process in (store, other)]
        payment_id = await store.accepted()
        await asyncio.gather(*(worker.submit(payment_id) for worker in workers * 5))
        assert provider.submitted == [payment_id]

    async def test_a_job_for_a_payment_that_is_not_waiting_sends_nothing(
        self, store: Store, submitter: Submitter, provider: Provider
    ) -> None:
        """The payment is claimed, final or unknown."""
        for payment_id in ((await store.claimed())[0], await store.finalized(), new_id()):
            await submitter.submit(payment_id)
        assert provider.submitted == []

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_an_expired_payment_fails_and_is_not_sent(
        self, store: Store, submitter: Submitter, provider: Provider, kind: Kind
    ) -> None:
        """It was never sent, so the failure is safe to retry."""
        payment_id = await store.accepted(kind)
        await store.execute(
            "UPDATE mkwanja.payments SET expires_at = now() WHERE id = $1", payment_id
        )
        await submitter.submit(payment_id)
        payment = await store.payment(payment_id)
        assert payment.stage is Stage.FAILED
        assert payment.failure is not None
        assert (payment.failure.reason, payment.failure.safe_to_retry) == (
            FailureReason.NOT_SUBMITTED_IN_TIME,
            True,
        )
        assert provider.submitted == []

    @pytest.mark.parametrize(
        "error",
        [Throttled(wait_seconds=600), Unreachable(), QueueUnavailable(), OutcomeUnknown()],
        ids=repr,
    )
    async def test_a_payment_that_cannot_be_prepared_is_not_claimed(
        self, store: Store, submitter: Submitter, provider: Provider, error: ProviderError
    ) -> None:
        """It gets no attempt, and a later due time."""
        provider.not_ready = error
        payment_id = await store.accepted()
        before = await store.payment(payment_id)
        await submitter.submit(payment_id)
        after = await store.payment(payment_id)
        assert (after.stage, after.attempts) == (Stage.ACCEPTED, ())
        assert after.next_step_at is not None
        assert before.next_step_at is not None
        assert after.next_step_at > before.next_step_at


class TestInterrupted:
    """After the claim, no cancellation or drain loses the answer."""

    @pytest.mark.parametrize("written", [True, False], ids=["on the wire", "not yet sent"])
    async def test_a_cancelled_job_records_the_answer(
        self, store: Store, submitter: Submitter, provider: Provider, written: bool
    ) -> None:
        """arq may cancel a job at any moment. The send continues, and the worker waits for it."""
        provider.play = held = Held(written=written)
        payment_id = await store.accepted()
        job = asyncio.create_task(submitter.submit(payment_id))
        await held.is_asked.wait()
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        held.may_answer.set()
        await submitter.wait_for_sends()
        assert (await store.payment(payment_id)).stage is Stage.AWAITING_RESULT

    async def test_a_drain_returns_unsent_payments_and_finishes_the_sent_ones(
        self, store: Store, provider: Provider, bell: Bell
    ) -> None:
        """No payment ends in doubt, and no new one is claimed."""
        unsent, sent = Held(written=False), Held(written=True)
        plays = {True: sent, False: unsent}
        payments = {
            payment_id: number % 2 == 0
            for number in range(10)
            for payment_id in [await store.accepted()]
        }

        async def play(payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
            return await plays[payments[payment.id]](payment, open_attempt)

        provider.play = play
        submitter = a_submitter(store, provider, bell)
        jobs = [asyncio.create_task(submitter.submit(payment_id)) for payment_id in payments]
        await until(lambda: _all_submitted(provider, 10))
        submitter.drain()
        late = await store.accepted()
        await submitter.submit(late)
        unsent.may_answer.set()
        sent.may_answer.set()
        await submitter.wait_for_sends()
        await asyncio.gather(*jobs)
        for payment_id, was_sent in payments.items():
            payment = await store.payment(payment_id)
            assert payment.stage is (Stage.AWAITING_RESULT if was_sent else Stage.ACCEPTED)
            if not was_sent:
                assert payment.attempts[0].outcome is Outcome.NOT_ACTED
                assert payment.next_step_at == payment.updated_at, (
                    "another worker may take it at once"
                )
        assert late not in provider.submitted
        assert (await store.payment(late)).stage is Stage.ACCEPTED

    async def test_a_worker_frozen_past_its_deadline_sends_nothing(
        self, store: Store, provider: Provider, bell: Bell
    ) -> None:
        """The deadline is half a lease, by a clock that runs while the process is stopped."""
        now = [1000.0]
        held = Held(written=False)
        provider.play = held
        submitter = a_submitter(store, provider, bell, clock=lambda: now[0])
        payment_id = await store.accepted()
        job = asyncio.create_task(submitter.submit(payment_id))
        await held.is_asked.wait()
        now[0] += TIMES.lease.total_seconds() / 2
        held.may_answer.set()
        await job
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.attempts[0].outcome) == (Stage.ACCEPTED, Outcome.NOT_ACTED)


class TestPostgresAway:
    """The worker retries until PostgreSQL stores the answer."""

    async def test_a_worker_retries_until_the_answer_is_stored(
        self, store: Store, provider: Provider, bell: Bell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It retries as long as it runs. The payment is not sent a second time."""
        monkeypatch.setattr(record_answer, "_WAITS_SECONDS", (0,))
        submitter = a_submitter(store, provider, bell, changes=Away(store, times=500))
        payment_id = await store.accepted()
        await submitter.submit(payment_id)
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.provider_ids) == (Stage.AWAITING_RESULT, an_id(payment))
        assert provider.submitted == [payment_id]


async def _all_submitted(provider: Provider, count: int) -> bool:
    return len(provider.submitted) == count
