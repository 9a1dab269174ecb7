"""Submits a payment to Daraja: claims it, sends it once, records the answer.

Everything that may wait or fail comes before the claim. If Daraja may have acted on a send, only
`resend` is permitted to send the payment again. It makes a new claim, which checks rules.md §15.
A send can end with an answer, an error or a crash. The table in `stages.py` covers each of these.
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

# Claims the payment for an attempt id. Returns the payment, or None if it must not be sent now.
_Claim = Callable[[UUID], Awaitable[Payment | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """A payment and its next step, read before a claim.

    The values may be stale. The claim decides whether the payment may be sent.

    * `is_expired`: the payment is too old to be sent, by the database's clock.
    * `is_due`: its next step is due now, or will be due within `HANDOVER_RETRY_AFTER`. When the
      sweeper hands over a step, it moves the step's due time into the future by this time, and the
      step must still count as due.
    * `is_held`: a claim would fail now. Either a brake stops the claim (rules.md §17), or a person
      must look at the payment first.
    """

    payment_id: UUID
    kind: Kind
    stage: Stage
    is_expired: bool
    step: Step | None = None
    is_due: bool = True
    is_held: bool = False


class ClaimingStore(Protocol):
    """What the worker reads and writes before it sends a payment."""

    async def find_next_step(self, payment_id: UUID) -> NextStep | None:
        """Returns the payment's next step, or None if the payment is not stored.

        Raises StoreUnavailable.
        """
        ...

    async def claim(
        self, payment_id: UUID, attempt_id: UUID, *, lease: timedelta, account: Account | None
    ) -> Payment | None:
        """Moves the payment to the stage `submitting`, stores the attempt, and commits.

        Returns the payment, or None if it must not be sent now. `account` is the account that sends
        it, and is stored with the attempt.

        If a brake holds the operation (for example all withdrawals), claims of its payments fail.
        After each cool-down one claim succeeds all the same. Its payment has `is_probe`: the send
        shows whether Daraja accepts the operation again.
        """
        ...

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """Sets the next due time of a payment that must wait for its turn."""
        ...


class Provider(Protocol):
    """The part of Daraja that submissions use."""

    def prepare_send(self, kind: Kind) -> AbstractAsyncContextManager[None]:
        """Obtains the access token, a slot, and a turn under Daraja's rate limit.

        The worker may have to wait for each of these, and may fail to get it.

        Raises `Throttled`, which holds the wait that Daraja's limit requires; `Unreachable` if it
        gets no token; and `QueueUnavailable` if Redis is away.
        """
        ...

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """Sends the payment. Returns the ids of the acknowledgement. Raises `ProviderError`."""
        ...


class Submitter:
    """Sends payments to Daraja. Each worker process has one.

    `accounts`: for each kind, the account that this worker sends from. Each attempt stores the
    account of its kind.
    """

    def __init__(
        self,
        *,
        claims: ClaimingStore,
        changes: ChangingStore,
        provider: Provider,
        announcer: Announcer,
        times: Times,
        accounts: Mapping[Kind, Account],
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

    async def submit(self, payment_id: UUID) -> NextStep | None:
        """Submits the payment if its stage is `accepted`, and returns None.

        In any other stage the payment does not change, and its next step is returned. A payment
        that is too old fails. A payment that is held stays as it is.
        """
        next_step = await self._claims.find_next_step(payment_id)
        if self._is_draining:
            return None
        if next_step is None or next_step.stage is not Stage.ACCEPTED:
            return next_step
        if next_step.is_expired:
            self._announcer.announce_soon(await self._changes.change(expiry_change(payment_id)))
            return None
        if next_step.is_held:
            # Checked before `prepare_send`, because a held payment would use up a turn of the rate
            # limit, and another payment would wait. A sweeper looks at it again within seconds.
            return None

        async def claim(attempt_id: UUID) -> Payment | None:
            account = self._accounts.get(next_step.kind)
            return await self._claims.claim(
                payment_id, attempt_id, lease=self._times.lease, account=account
            )

        await self._send(payment_id, next_step.kind, claim)
        return None

    async def resend(self, payment_id: UUID, kind: Kind) -> None:
        """Sends a payment in doubt again, under the same id, if a new claim permits the resend."""
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
                # From the claim onwards, cancelling the job does not cancel the send. Otherwise a
                # payment could stay claimed and unsent. The send occupies its slot until its answer
                # is recorded. So the number of answers that wait for PostgreSQL never exceeds the
                # number of slots.
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
        """Stops the claims, and the sends whose first byte is not written yet."""
        self._is_draining = True

    async def wait_for_sends(self) -> None:
        """Waits until the answer to every claimed payment is recorded, or its claim is undone."""
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
        attempt_id = uuid_utils.uuid7()
        # The fence's time is half a lease. It starts before the worker asks PostgreSQL for the
        # claim. When it is over, the worker writes no first byte. So every first byte leaves while
        # the lease in the database is valid.
        fence = Fence(
            clock=self._clock,
            deadline_seconds=self._times.send_deadline.total_seconds(),
            is_draining=lambda: self._is_draining,
        )
        open_attempt = OpenAttempt(attempt_id=attempt_id, fence=fence)
        try:
            payment = await claim(attempt_id)
        except ClaimUnknown:
            # The claim may have been committed, but this worker has sent nothing under it. So it
            # records that this attempt did not act, as soon as PostgreSQL is back. If the claim was
            # committed, this record undoes it. If not, the record changes nothing.
            await self._record(Answer(payment_id, open_attempt, frozenset(), Unreachable()))
            return
        if payment is not None:
            await self._record(await self._send_claimed(payment, open_attempt))

    async def _send_claimed(self, payment: Payment, open_attempt: OpenAttempt) -> Answer:
        ids: ProviderIds = frozenset()
        error: ProviderError | None = None
        try:
            ids = await self._provider.submit(payment, open_attempt)
        except ProviderError as provider_error:
            error = provider_error
        except Exception:
            # Our own bug proves nothing about the money. If the first byte was written, the payment
            # is in doubt and is inquired about.
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

    The change holds the payment's lock while it checks whether the payment may be sent again.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or _is_claimed_by(payment, attempt_id):
            # Already claimed: this change runs again because the result of its COMMIT was lost.
            return Decided(payment=payment)
        if not may_be_resent(payment, context.evidence, context.now, times, accounts):
            # No resend. If it was proved meanwhile that the payment was never sent, the payment is
            # in `accepted` again, and `submit` sends it with an ordinary claim.
            return Decided(payment=payment)
        fact = Fact(
            name=FactName.CLAIMED, attempt_id=attempt_id, is_resend_permitted=True, at=context.now,
            account=accounts.get(payment.kind),
        )  # fmt: skip
        after = payment.apply(fact)
        lease_until = context.now + times.lease
        after = replace(after, lease_until=lease_until, next_step_at=lease_until)
        probed_operation = context.evidence.probe_of(payment.rules.operation)
        decided = Decided(payment=after, entry=NewEntry.of_fact(fact.name), attempt_id=attempt_id)
        return decided.with_effect(
            ProbeOperation(probed_operation) if probed_operation is not None else None
        )

    return Change(payment_id=payment_id, decide=decide, reads=Reads.CLAIM)


def _is_claimed_by(payment: Payment, attempt_id: UUID) -> bool:
    return payment.stage is Stage.SUBMITTING and payment.attempt_id == attempt_id


def expiry_change(payment_id: UUID) -> Change:
    """The change that fails a payment that is too old to be sent.

    It moves only a payment in `accepted` to `failed`. No attempt of such a payment shows that
    Daraja acted. But a stored message, or the answer to an inquiry, may show it all the same. If it
    does, and the payment is flagged for review, nothing changes, and a person decides. If a person
    has cleared the flag, the failure is not safe to retry. Also nothing changes if a restore has
    flagged the payment: a job from before the restore may wake it.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or context.now < payment.expires_at:
            return Decided(payment=payment)
        may_be_sent = context.evidence.shows_that_daraja_has_it
        if payment.is_postponed_for_a_person or (payment.needs_review and may_be_sent):
            return Decided(payment=payment)  # Daraja may have acted, so a person decides
        failure = replace(_TOO_OLD, safe_to_retry=not may_be_sent)
        after = payment.apply(Fact(name=FactName.TOO_OLD, failure=failure))
        entry = NewEntry.of_fact(FactName.TOO_OLD) if after.stage is not payment.stage else None
        return Decided(payment=after, entry=entry, effects=event_effects(payment, after))

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)
