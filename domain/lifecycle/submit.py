"""Submitting a payment to Daraja: claim, ask once, record what came of it.

Everything that may wait or fail comes before the claim. After it nothing is retried that may have
acted, and whatever happens next (an answer, an error, a crash) ends in the stage table of
`stages.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import structlog
import uuid_utils.compat as uuid_utils

from domain.account import Account
from domain.attempts import ProviderIds
from domain.changes import (
    Change,
    ChangingStore,
    Context,
    Decided,
    NewEntry,
    ProbeOperation,
    Reads,
    event_effects,
)
from domain.errors import (
    ClaimUnknown,
    OutcomeUnknown,
    ProviderError,
    QueueUnavailable,
    StoreUnavailable,
    Throttled,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.fence import Fence, OpenAttempt
from domain.inquiry import may_be_resent
from domain.kinds import Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.record_answer import Answer, AnswerRecorder, answer_change
from domain.payment import Fact, Payment
from domain.stages import FactName, Stage, Step
from domain.times import Times

log = structlog.get_logger()

_TOO_OLD = Failure(FailureReason.NOT_SUBMITTED_IN_TIME, safe_to_retry=True)

_Claim = Callable[
    [UUID], Awaitable[Payment | None]
]  # by attempt id: the payment, if it may be sent now


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A payment and its next step.

    `is_expired`: by the database's clock it may not be sent any more. `is_due`: within seconds.
    `is_held`: no claim could succeed now, because a brake is engaged, its operation is held, or a
    person is to look at it first. It is only a look; the claim's own WHERE decides.
    """

    payment_id: UUID
    kind: Kind
    stage: Stage
    is_expired: bool
    step: Step | None = None
    is_due: bool = True
    is_held: bool = False


class ClaimingStore(Protocol):
    """What the worker reads and writes before it asks Daraja."""

    async def find_due(self, payment_id: UUID) -> Due | None:
        """What must be known before a claim is tried, or None. Raises StoreUnavailable."""
        ...

    async def claim(
        self, payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account | None
    ) -> Payment | None:
        """The payment with `submitting` committed under this attempt, or None if it may not be sent
        now.

        `account` is kept with the attempt: the one by which it is sent.

        While its operation is held, one claim after each cool-down succeeds: `is_probe`.
        """
        ...

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """Gives a payment that waits for its turn its next due time."""
        ...


class Provider(Protocol):
    """M-PESA through Daraja, as a submission needs it."""

    def prepare_send(self, kind: Kind) -> AbstractAsyncContextManager[None]:
        """Everything that may wait or fail before the claim: limit, token, credential, a free slot.

        Raises `Throttled` with the wait that Daraja's limit asks for, `Unreachable` when no token
        can be had, `QueueUnavailable` when Redis is away.
        """
        ...

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """Asks Daraja to make the payment; the ids of its acknowledgement.

        Raises `ProviderError`.
        """
        ...


class Submitter:
    """Gives accepted payments to Daraja. One for each worker process."""

    def __init__(
        self,
        *,
        claims: ClaimingStore,
        changes: ChangingStore,
        provider: Provider,
        announcer: Announcer,
        times: Times,
        accounts: Mapping[
            Kind, Account
        ],  # by which this worker sends, by kind; kept with each attempt
        clock: Callable[[], float],
    ) -> None:
        self._claims = claims
        self._changes = changes
        self._provider = provider
        self._announcer = announcer
        self._times = times
        self._accounts = accounts
        self._clock = clock
        self._is_draining = False
        self._sends: set[asyncio.Task[None]] = set()
        self._recorder = AnswerRecorder(changes, announcer)

    async def submit(self, payment_id: UUID) -> Due | None:
        """Submits the payment if it is still to be submitted; else changes nothing, and returns
        what it found.
        """
        found = await self._claims.find_due(payment_id)
        if self._is_draining:
            return None
        if found is None or found.stage is not Stage.ACCEPTED:
            return found
        if found.is_expired:
            self._announcer.announce_soon(await self._changes.change(expiry_change(payment_id)))
            return None
        if found.is_held:
            # before it costs one of the requests that others could make; it is looked at again in
            # seconds
            return None

        async def claim(attempt_id: UUID) -> Payment | None:
            account = self._accounts.get(found.kind)
            return await self._claims.claim(
                payment_id, attempt_id, lease=self._times.lease, account=account
            )

        await self._send(payment_id, found.kind, claim)
        return None

    async def resend(self, payment_id: UUID, kind: Kind) -> None:
        """Sends a payment in doubt again, under its one id, if that is still permitted when it
        is claimed.
        """
        if self._is_draining:
            return

        async def claim(attempt_id: UUID) -> Payment | None:
            try:
                change = resend_claim_change(payment_id, attempt_id, self._times, self._accounts)
                result = await self._changes.change(change)
            except StoreUnavailable as error:
                raise ClaimUnknown from error
            payment = result.decided.payment
            if payment is None or not _is_claimed_by(payment, attempt_id):
                return None
            return replace(payment, is_probe=result.decided.effect(ProbeOperation) is not None)

        await self._send(payment_id, kind, claim)

    async def _send(self, payment_id: UUID, kind: Kind, claim: _Claim) -> None:
        try:
            async with AsyncExitStack() as slot:
                await slot.enter_async_context(self._provider.prepare_send(kind))
                # From the claim on the send is shielded: a cancelled job must not leave a payment
                # claimed and unsent. The send keeps its slot until its answer is on record, also
                # after its job was let go: so answers that wait for Postgres are never more than
                # the slots.
                send = asyncio.create_task(self._send_in_slot(payment_id, claim, slot.pop_all()))
                self._sends.add(send)
                send.add_done_callback(self._sends.discard)
                await asyncio.shield(send)
        except Throttled as error:
            await self._claims.postpone(payment_id, timedelta(seconds=error.wait_seconds))
        except (ProviderError, QueueUnavailable) as error:
            log.warning(
                "not_ready_to_submit", payment_id=str(payment_id), error=type(error).__name__
            )
            await self._claims.postpone(payment_id, self._times.retry_after)

    def drain(self) -> None:
        """From now on nothing is claimed and no first byte is written."""
        self._is_draining = True

    async def wait_for_sends(self) -> None:
        """Waits until every claimed payment has its answer stored, or was given back."""
        while self._sends:
            await asyncio.wait(self._sends)

    def log_unrecorded(self) -> None:
        """See `AnswerRecorder.log_unrecorded`."""
        self._recorder.log_unrecorded()

    async def _send_in_slot(self, payment_id: UUID, claim: _Claim, slot: AsyncExitStack) -> None:
        async with slot:
            if not self._is_draining:
                await self._claim_and_send(payment_id, claim)

    async def _claim_and_send(self, payment_id: UUID, claim: _Claim) -> None:
        attempt_id = UUID(int=uuid_utils.uuid7().int)
        # The deadline is taken before the claim is sent: half a lease later the first byte may no
        # longer leave, while the lease, by the database's clock, still holds.
        fence = Fence(
            clock=self._clock,
            deadline_seconds=self._times.send_deadline.total_seconds(),
            is_draining=lambda: self._is_draining,
        )
        open_attempt = OpenAttempt(attempt_id=attempt_id, fence=fence)
        try:
            payment = await claim(attempt_id)
        except ClaimUnknown:
            # If it was committed after all, the payment is ours and unsent: given back as soon as
            # Postgres listens.
            await self._record(Answer(payment_id, open_attempt, frozenset(), Unreachable()))
            return
        if payment is not None:
            await self._record(await self._send_claimed(payment, open_attempt))

    async def _send_claimed(self, payment: Payment, open_attempt: OpenAttempt) -> Answer:
        ids: ProviderIds = frozenset()
        error: ProviderError | None = None
        try:
            ids = await self._provider.submit(payment, open_attempt)
        except ProviderError as problem:
            error = problem
        except Exception:
            # A bug of ours must not decide about money: what may have been written is asked about.
            log.exception("submission_failed_unexpectedly", payment_id=str(payment.id))
            error = OutcomeUnknown() if open_attempt.fence.is_written else Unreachable()
        return Answer(payment.id, open_attempt, ids, error)

    async def _record(self, answer: Answer) -> None:
        change = answer_change(
            answer.payment_id,
            answer.open_attempt,
            answer.ids,
            answer.error,
            self._times,
            self._accounts,
        )
        await self._recorder.record(answer, change)


def resend_claim_change(
    payment_id: UUID, attempt_id: UUID, times: Times, accounts: Mapping[Kind, Account]
) -> Change:
    """The change that claims a payment in doubt for another send.

    What permits it is judged under the payment's lock.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or _is_claimed_by(payment, attempt_id):
            return Decided(payment=payment)  # a COMMIT whose outcome was lost, done again
        if not may_be_resent(payment, context.evidence, context.now, times, accounts):
            return Decided(
                payment=payment
            )  # also one that was proved unsent meanwhile: that has a claim of its own
        fact = Fact(
            name=FactName.CLAIMED, attempt_id=attempt_id, is_resend_permitted=True, at=context.now,
            account=accounts.get(payment.kind),
        )  # fmt: skip
        after = payment.apply(fact)
        until = context.now + times.lease
        after = replace(after, lease_until=until, next_step_at=until)
        probe = context.evidence.probe_of(payment.rules.operation)
        decided = Decided(payment=after, entry=NewEntry.of_fact(fact.name), attempt_id=attempt_id)
        return decided.with_effect(ProbeOperation(probe) if probe is not None else None)

    return Change(payment_id=payment_id, decide=decide, reads=Reads.CLAIM)


def _is_claimed_by(payment: Payment, attempt_id: UUID) -> bool:
    return payment.stage is Stage.SUBMITTING and payment.attempt_id == attempt_id


def expiry_change(payment_id: UUID) -> Change:
    """The change that fails a payment which waited too long to be sent; none of its attempts can
    have acted.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or context.now < payment.expires_at:
            return Decided(payment=payment)
        if payment.needs_review and context.evidence.shows_that_daraja_has_it:
            return Decided(
                payment=payment
            )  # something says that it may have acted after all: a person decides
        after = payment.apply(Fact(name=FactName.TOO_OLD, failure=_TOO_OLD))
        entry = NewEntry.of_fact(FactName.TOO_OLD) if after.stage is not payment.stage else None
        return Decided(payment=after, entry=entry, effects=event_effects(payment, after))

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)
