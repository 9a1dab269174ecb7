"""Recording what Daraja answered to a send: only this process knows it, so nothing less than its
own end may lose it.

What an answer means for the payment is decided here. Postgres may be away when the answer comes,
and it may have lost the claim that the answer belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from domain.stages import FactName, Stage
from domain.times import Times
from domain.views import PROVIDER_SAID

log = structlog.get_logger()

# While Postgres is away, the worker tries to record an answer for as long as it lives. The first
# waits are short, because Postgres mostly just failed over. The last one repeats. It is short as
# well, so that the answer is on record before a sweeper concludes anything from its absence.
_WAITS_SECONDS = (0.1, 0.2, 0.5, 1.0)

# Any other error is a fault of ours, which trying again rarely mends; the answer must not keep its
# slot for ever.
_TRIES_MAX = 12

# How much of the text of a refusal the history keeps.
_REFUSAL_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt, as long as only this process knows it."""

    payment_id: UUID
    open_attempt: OpenAttempt
    ids: ProviderIds
    error: ProviderError | None

    def log_fields(self) -> dict[str, str]:
        """For the log, from which a person could enter it by hand."""
        return {
            "payment_id": str(self.payment_id),
            "attempt_id": str(self.open_attempt.attempt_id),
            "meaning": "acknowledged" if self.error is None else type(self.error).__name__,
            **dict(sorted(self.ids)),
        }


class AnswerRecorder:
    """Records answers.

    Each that waits holds one of the provider's slots, so there are never more than those.
    """

    def __init__(self, changes: ChangingStore, announcer: Announcer) -> None:
        self._changes = changes
        self._announcer = announcer
        self._unrecorded: dict[UUID, Answer] = {}  # by attempt

    async def record(self, answer: Answer, change: Change) -> None:
        """Stores `answer` by `change`: while Postgres is away, again and again."""
        attempt_id = answer.open_attempt.attempt_id
        self._unrecorded[attempt_id] = answer
        tries = 0
        while not await self._try_to_record(answer, change, tries):
            await asyncio.sleep(_WAITS_SECONDS[min(tries, len(_WAITS_SECONDS) - 1)])
            tries += 1
        del self._unrecorded[attempt_id]

    def log_unrecorded(self) -> None:
        """The last line about each answer that this process knows and could not record: it ends
        now.
        """
        for answer in self._unrecorded.values():
            log.error("answer_lost", **answer.log_fields())

    async def _try_to_record(self, answer: Answer, change: Change, tries: int) -> bool:
        """One try; True as well where trying is given up."""
        try:
            result = await self._changes.change(change)
        except StoreUnavailable:
            if (
                tries == 0
            ):  # with the ids: if this process is killed meanwhile, the log is all that knows them
                log.warning("answer_not_recorded_yet", **answer.log_fields())
            return False
        except Exception:
            is_given_up = tries >= _TRIES_MAX
            log.exception(
                "answer_lost" if is_given_up else "answer_not_recorded_yet", **answer.log_fields()
            )
            return is_given_up
        self._announcer.announce_soon(result)
        if result.decided.payment is None:
            # The database lost the payment itself. Daraja's answer is in `daraja_exchanges`, a
            # callback in `callbacks`.
            log.error("answer_without_payment", **answer.log_fields())
        return True


def decide_without_claim(
    payment: Payment,
    context: Context,
    fact: Fact,
    *,
    account: Account | None,
    ask_after: timedelta,
) -> Decided:
    """What follows from `fact`, the answer to an attempt that is not on record and was sent by
    `account`.

    If nothing can have acted, the claim was never committed, and nothing is to be done. Else the
    database lost a committed claim, and the answer is the evidence of a send: the attempt is
    entered after all, and the payment is in doubt.
    """
    assert fact.outcome is not None  # noqa: S101 - every answer has one
    if fact.outcome.is_accounted_for:
        return Decided(payment=payment)
    found = replace(fact, name=FactName.CLAIM_LOST, at=context.now, account=account)
    after = payment.apply(found)
    # Without an id whose second use Daraja refuses, both may have paid. A failure was told to its
    # caller as the end.
    is_second_send = not payment.rules.can_be_sent_again and payment.send_count > 0
    is_for_a_person = is_second_send or payment.stage is Stage.FAILED or bool(context.ids_of_others)
    if after.stage is not payment.stage or payment.stage is Stage.FAILED:
        after = replace(after, next_step_at=context.now + ask_after)
    after = replace(after, needs_review=payment.needs_review or is_for_a_person)
    return Decided(payment=after, entry=NewEntry.of_fact(found.name), attempt_id=fact.attempt_id)


def fact_of_answer(attempt_id: UUID, error: ProviderError | None) -> Fact:
    """What an acknowledgement (`error` None) or an error means for the payment (rules.md §13)."""
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
        case _:  # OutcomeUnknown, and everything not named here
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
    """The change that records what came of one attempt. Whatever else happened to the payment
    meanwhile, the table decides.

    `accounts`: by which this worker sends, by kind.
    """
    fact = fact_of_answer(open_attempt.attempt_id, error)

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            return Decided(payment=None)  # the exchanges are kept
        if all(attempt.id != open_attempt.attempt_id for attempt in payment.attempts):
            account = accounts.get(payment.kind)
            decided = decide_without_claim(
                payment, context, fact, account=account, ask_after=times.inquiry_first_after
            )
            if decided.entry is None:
                return decided
            return replace(
                decided,
                entry=replace(decided.entry, detail=_entry_detail(error, open_attempt)),
                ids=ids,
            )
        # A callback says that it was paid, and waits for Daraja's own word: a refusal ends nothing
        # then, and is asked about.
        is_disputed = fact.name is FactName.REFUSED and bool(context.evidence.unconfirmed_receipts)
        learned = fact_of_answer(open_attempt.attempt_id, OutcomeUnknown()) if is_disputed else fact
        after = payment.apply(learned)
        if payment.stage is Stage.SUBMITTING and payment.attempt_id != open_attempt.attempt_id:
            after = replace(
                payment, attempts=after.attempts
            )  # a newer attempt is under way: its own answer decides
        is_proved_unsent = fact.name is FactName.NOT_ACTED and after.stage is Stage.ACCEPTED
        if is_proved_unsent and not context.evidence.shows_that_daraja_has_it:
            after = replace(
                after, needs_review=False
            )  # it was flagged for silence; now it is proved unsent
        if is_proved_unsent and context.evidence.claims_success:
            after = replace(
                after, needs_review=True
            )  # a message says that it was paid: it must not be sent now
        contradicts = payment.stage is Stage.SUCCEEDED and fact.name is FactName.REFUSED
        if contradicts or is_disputed or context.ids_of_others:
            after = replace(after, needs_review=True)
        if after.stage is not payment.stage and not after.stage.is_final:
            is_to_be_asked = after.stage is not Stage.ACCEPTED and _is_brought_forward(payment)
            wait = (
                timedelta(0)
                if is_to_be_asked
                else _wait_before_next_step(after.stage, error, times)
            )
            after = replace(after, next_step_at=context.now + wait)
        is_noted = (
            after.stage is not payment.stage or after.needs_review is not payment.needs_review
        )
        heard = _operation_answer(
            payment, open_attempt.attempt_id, error, times.operation_cool_down
        )
        effects = event_effects(payment, after)
        return Decided(
            payment=after,
            entry=NewEntry.of_fact(learned.name, _entry_detail(error, open_attempt))
            if is_noted
            else None,
            attempt_id=open_attempt.attempt_id,
            ids=ids,
            effects=effects if heard is None else (*effects, JudgeOperation(heard)),
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
    """Whether a message that came before the answer wants Daraja to be asked: a claim is due
    when its lease is over.
    """
    due, lease = payment.next_step_at, payment.lease_until
    return due is not None and lease is not None and due < lease


def _wait_before_next_step(stage: Stage, error: ProviderError | None, times: Times) -> timedelta:
    if stage is not Stage.ACCEPTED:
        return times.inquiry_first_after
    if isinstance(error, Draining):
        return timedelta(0)  # another worker may take it at once
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
        # For people: it may be in an envelope whose code we do not know. The exchange is masked
        # already.
        last = open_attempt.exchanges[-1]
        detail["http_status"] = str(last.http_status)
        detail[PROVIDER_SAID] = (last.answer or "")[:_REFUSAL_CHARACTERS_MAX]
    return detail


def _operation_answer(
    payment: Payment, attempt_id: UUID, error: ProviderError | None, cool_down: timedelta
) -> OperationAnswer | None:
    """What the answer to an attempt of `payment` says about its operation, if it says anything."""
    health = health_from_answer(error)
    answered = next((attempt for attempt in payment.attempts if attempt.id == attempt_id), None)
    if health is None or answered is None or answered.claimed_at is None:
        return None
    if health is OperationHealth.SETTINGS_REFUSED and answered.outcome is Outcome.REFUSED:
        return None  # counted already: a COMMIT whose outcome was lost is done again
    return OperationAnswer(
        operation=payment.rules.operation,
        health=health,
        since=answered.claimed_at,
        cool_down=cool_down,
        code=error.code if error is not None else None,
    )
