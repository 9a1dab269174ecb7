"""Records Daraja's answer to a send, and decides what it proves about the payment.

Until the commit, only this process knows the answer. While PostgreSQL is unreachable, the process
therefore tries until the commit succeeds or the process ends. If PostgreSQL has lost the attempt's
claim, `decide_without_claim` decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from domain.account import Account
from domain.attempts import Outcome, ProviderIds
from domain.changes import (
    Change,
    ChangingStore,
    Context,
    Decided,
    JudgeOperation,
    NewEntry,
    Reads,
    event_effects,
)
from domain.errors import (
    Draining,
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    StoreUnavailable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.fence import OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.announce import Announcer
from domain.operations import OperationAnswer, OperationHealth, health_from_answer
from domain.payment import Fact, Payment
from domain.records import replace
from domain.stages import FactName, Stage
from domain.times import Times
from domain.views import PROVIDER_SAID

log = structlog.get_logger()

# While PostgreSQL is unreachable, the worker tries to record an answer until its process ends. The
# first waits are short, because most outages are a failover. The last wait repeats. It is short
# too, so that the worker records the answer before a sweeper ends the lease without the answer.
_WAITS_SECONDS = (0.1, 0.2, 0.5, 1.0)

# If recording fails although PostgreSQL is reachable, the error is our own bug, and a retry rarely
# helps. After this many retries the worker gives up, because an answer that waits occupies
# one of the worker's slots for sends.
_TRIES_MAX = 12

# The history stores this much of the text of a refusal.
_REFUSAL_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """Daraja's answer to a send, not yet recorded. If `error` is None, it is an acknowledgement."""

    payment_id: UUID
    open_attempt: OpenAttempt
    ids: ProviderIds
    error: ProviderError | None

    def log_fields(self) -> dict[str, str]:
        """Everything that a person needs to enter the answer by hand."""
        return {
            "payment_id": str(self.payment_id),
            "attempt_id": str(self.open_attempt.attempt_id),
            "outcome": "acknowledged" if self.error is None else type(self.error).__name__,
            **dict(sorted(self.ids)),
        }


class AnswerRecorder:
    """Records answers. An answer that waits occupies one of the worker's slots for sends."""

    def __init__(self, changes: ChangingStore, announcer: Announcer) -> None:
        self._changes = changes
        self._announcer = announcer
        self._unrecorded: dict[UUID, Answer] = {}  # by the attempt's id

    async def record(self, answer: Answer, change: Change) -> None:
        """Stores `answer` by `change`, and retries while PostgreSQL is unreachable."""
        attempt_id = answer.open_attempt.attempt_id
        self._unrecorded[attempt_id] = answer
        tries = 0
        while not await self._try_to_record(answer, change, tries):
            await asyncio.sleep(_WAITS_SECONDS[min(tries, len(_WAITS_SECONDS) - 1)])
            tries += 1
        del self._unrecorded[attempt_id]

    def log_unrecorded(self) -> None:
        """Logs each answer that this process could not record before its end."""
        for answer in self._unrecorded.values():
            log.error("answer_lost", **answer.log_fields())

    async def _try_to_record(self, answer: Answer, change: Change, tries: int) -> bool:
        """Tries once. Returns True if the answer is recorded, or if there is no further try."""
        try:
            result = await self._changes.change(change)
        except StoreUnavailable:
            if tries == 0:
                # If this process is killed now, only the log has the provider's ids.
                log.warning("answer_not_recorded_yet", **answer.log_fields())
            return False
        except Exception:
            is_last_try = tries >= _TRIES_MAX
            log.exception(
                "answer_lost" if is_last_try else "answer_not_recorded_yet", **answer.log_fields()
            )
            return is_last_try
        self._announcer.announce_soon(result)
        if result.decided.payment is None:
            # The database lost the payment itself. Daraja's answer is stored in `daraja_exchanges`,
            # and a callback in `callbacks`.
            log.error("answer_without_payment", **answer.log_fields())
        return True


def decide_without_claim(
    payment: Payment,
    context: Context,
    fact: Fact,
    *,
    account: Account | None,
    inquire_after: timedelta,
) -> Decided:
    """Decides about `fact`, the answer to a send whose attempt is not in the database.

    `account` is the account of the send. If Daraja cannot have acted, nothing changes. Otherwise
    the answer proves that there was a send, so the database lost a committed claim. The decision
    stores the attempt, and moves a payment in `accepted` to `in_doubt`.
    """
    assert fact.outcome is not None  # noqa: S101 - every answer has one
    if fact.outcome.is_accounted_for:
        return Decided(payment=payment)
    claim_lost = replace(fact, name=FactName.CLAIM_LOST, at=context.now, account=account)
    after = payment.apply(claim_lost)
    # If the kind has no resend key, this send and an earlier send may both have paid. A failed
    # payment needs a person too, because its caller received a final failure.
    is_second_send = not payment.rules.can_be_sent_again and payment.send_count > 0
    is_for_a_person = is_second_send or payment.stage is Stage.FAILED or bool(context.ids_of_others)
    if after.stage is not payment.stage or payment.stage is Stage.FAILED:
        after = replace(after, next_step_at=context.now + inquire_after)
    after = replace(after, needs_review=payment.needs_review or is_for_a_person)
    return Decided(
        payment=after, entry=NewEntry.of_fact(claim_lost.name), attempt_id=fact.attempt_id
    )


def fact_of_answer(attempt_id: UUID, error: ProviderError | None) -> Fact:
    """Returns the fact that follows from the answer to a send (rules.md §13).

    If `error` is None, the answer is an acknowledgement.
    """
    match error:
        case None:
            return Fact(
                name=FactName.ACKNOWLEDGED, attempt_id=attempt_id, outcome=Outcome.ACKNOWLEDGED
            )
        case Refused():
            return Fact(
                name=FactName.REFUSED,
                attempt_id=attempt_id,
                outcome=Outcome.REFUSED,
                failure=error.failure,
            )
        case Unreachable() | Throttled() | TokenRefused() | ProductRefused():
            return Fact(name=FactName.NOT_ACTED, attempt_id=attempt_id, outcome=Outcome.NOT_ACTED)
        case Resendable():
            return Fact(
                name=FactName.OUTCOME_UNKNOWN, attempt_id=attempt_id, outcome=Outcome.RESENDABLE
            )
        case DuplicateSubmission():
            return Fact(
                name=FactName.OUTCOME_UNKNOWN, attempt_id=attempt_id, outcome=Outcome.DUPLICATE
            )
        case _:  # OutcomeUnknown, and every error that is not named above
            return Fact(
                name=FactName.OUTCOME_UNKNOWN, attempt_id=attempt_id, outcome=Outcome.UNKNOWN
            )


def answer_change(
    payment_id: UUID,
    open_attempt: OpenAttempt,
    ids: ProviderIds,
    error: ProviderError | None,
    times: Times,
    accounts: Mapping[Kind, Account],
) -> Change:
    """The change that records the answer to one attempt.

    The payment may have changed since the send. The stage table decides what the answer still
    changes. `accounts`: the accounts by which this worker sends, by kind.
    """
    fact = fact_of_answer(open_attempt.attempt_id, error)

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            return Decided(payment=None)  # the change still stores the exchanges
        if all(attempt.id != open_attempt.attempt_id for attempt in payment.attempts):
            account = accounts.get(payment.kind)
            decided = decide_without_claim(
                payment, context, fact, account=account, inquire_after=times.inquiry_first_after
            )
            if decided.entry is None:
                return decided
            return replace(
                decided,
                entry=replace(decided.entry, detail=_entry_detail(error, open_attempt)),
                ids=ids,
            )
        # If a stored callback claims a success, and no answer to an inquiry has confirmed it yet,
        # a refusal does not fail the payment. The payment is then in doubt, and a worker inquires.
        is_disputed = fact.name is FactName.REFUSED and bool(context.evidence.unconfirmed_receipts)
        applied = fact_of_answer(open_attempt.attempt_id, OutcomeUnknown()) if is_disputed else fact
        after = payment.apply(applied)
        if payment.stage is Stage.SUBMITTING and payment.attempt_id != open_attempt.attempt_id:
            # A newer attempt is under way. Its own answer will decide about the payment.
            after = replace(payment, attempts=after.attempts)
        is_proved_unsent = fact.name is FactName.NOT_ACTED and after.stage is Stage.ACCEPTED
        may_be_sent = context.evidence.shows_that_daraja_has_it or payment.is_postponed_for_a_person
        if is_proved_unsent and not may_be_sent:
            # The payment was flagged because no answer came. Now it is proved unsent.
            after = replace(after, needs_review=False)
        if is_proved_unsent and context.evidence.claims_success:
            # A message says that the payment succeeded, so the payment must not be sent now.
            after = replace(after, needs_review=True)
        is_contradiction = payment.stage is Stage.SUCCEEDED and fact.name is FactName.REFUSED
        if is_contradiction or is_disputed or context.ids_of_others:
            after = replace(after, needs_review=True)
        if after.stage is not payment.stage and not after.stage.is_final:
            is_inquired_at_once = after.stage is not Stage.ACCEPTED and _is_brought_forward(payment)
            wait = (
                timedelta(0)
                if is_inquired_at_once
                else _wait_before_next_step(after.stage, error, times)
            )
            after = replace(after, next_step_at=context.now + wait)
        has_entry = (
            after.stage is not payment.stage or after.needs_review is not payment.needs_review
        )
        on_operation = _operation_answer(
            payment, open_attempt.attempt_id, error, times.operation_cool_down
        )
        effects = event_effects(payment, after)
        return Decided(
            payment=after,
            entry=NewEntry.of_fact(applied.name, _entry_detail(error, open_attempt))
            if has_entry
            else None,
            attempt_id=open_attempt.attempt_id,
            ids=ids,
            effects=effects if on_operation is None else (*effects, JudgeOperation(on_operation)),
        )

    return Change(
        payment_id=payment_id,
        decide=decide,
        ids=ids,
        exchanges=tuple(open_attempt.exchanges),
        reads=Reads.EVIDENCE
        if fact.name in (FactName.NOT_ACTED, FactName.REFUSED)
        else Reads.PAYMENT,
    )


def _is_brought_forward(payment: Payment) -> bool:
    """Whether a message came before the answer, so that the next inquiry must not wait.

    The due time of a claimed payment is the end of its lease. Such a message makes it slightly
    earlier. This small difference is only a flag.
    """
    due, lease = payment.next_step_at, payment.lease_until
    return due is not None and lease is not None and due < lease


def _wait_before_next_step(stage: Stage, error: ProviderError | None, times: Times) -> timedelta:
    if stage is not Stage.ACCEPTED:
        return times.inquiry_first_after
    if isinstance(error, Draining):
        return timedelta(0)  # another worker may send it at once
    if isinstance(error, Throttled):
        return max(times.retry_after, timedelta(seconds=error.wait_seconds))
    return times.retry_after


def _entry_detail(error: ProviderError | None, open_attempt: OpenAttempt) -> dict[str, str]:
    if error is None:
        return {}
    detail = {"error": type(error).__name__}
    if error.code:
        detail["provider_code"] = error.code
    if isinstance(error, Refused) and open_attempt.exchanges:
        # If we do not know the code in Daraja's answer, a person needs the answer's text. The text
        # is already masked.
        exchange = open_attempt.exchanges[-1]
        detail["http_status"] = str(exchange.http_status)
        detail[PROVIDER_SAID] = (exchange.answer or "")[:_REFUSAL_CHARACTERS_MAX]
    return detail


def _operation_answer(
    payment: Payment, attempt_id: UUID, error: ProviderError | None, cool_down: timedelta
) -> OperationAnswer | None:
    """Returns what the answer to a send says about its operation; None if it says nothing."""
    health = health_from_answer(error)
    answered_attempt = next(
        (attempt for attempt in payment.attempts if attempt.id == attempt_id), None
    )
    if health is None or answered_attempt is None or answered_attempt.claimed_at is None:
        return None
    if health is OperationHealth.SETTINGS_REFUSED and answered_attempt.outcome is Outcome.REFUSED:
        # Already counted: this change runs again because the result of its COMMIT was lost.
        return None
    return OperationAnswer(
        operation=payment.rules.operation,
        health=health,
        since=answered_attempt.claimed_at,
        cool_down=cool_down,
        code=error.code if error is not None else None,
    )
