"""Recording what Daraja answered to a send: only this process knows it, so nothing less than its own end may lose it.

Postgres may be away when the answer comes, and it may have lost the claim that the answer belongs to.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import structlog

from domain.account import SendAccount
from domain.errors import ProviderError, StoreUnavailable
from domain.lifecycle.announce import Announcer
from domain.payment import Fact, Payment
from domain.ports import Attempting, Change, ChangingStore, Context, Decided, ProviderIds
from domain.stages import FactName, Stage
from domain.values import Kind

log = structlog.get_logger()

# While Postgres is away, the worker tries to record an answer for as long as it lives. The first waits are short, because
# Postgres mostly just failed over. The last one repeats. It is short as well, so that the answer is on record before a
# sweeper concludes anything from its absence.
_WAITS_SECONDS = (0.1, 0.2, 0.5, 1.0)

# Any other error is a fault of ours, which trying again rarely mends; the answer must not keep its slot for ever.
_TRIES_MAX = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt, as long as only this process knows it."""

    payment_id: UUID
    attempting: Attempting
    ids: ProviderIds
    error: ProviderError | None

    def in_words(self) -> dict[str, str]:
        """For the log, from which a person could enter it by hand."""
        return {
            "payment_id": str(self.payment_id),
            "attempt_id": str(self.attempting.attempt_id),
            "meaning": "acknowledged" if self.error is None else type(self.error).__name__,
            **dict(sorted(self.ids)),
        }


class AnswerRecorder:
    """Records answers. Each that waits holds one of the provider's slots, so there are never more than those."""

    def __init__(self, changes: ChangingStore, announcer: Announcer) -> None:
        self._changes = changes
        self._announcer = announcer
        self._unrecorded: dict[UUID, Answer] = {}  # by attempt

    async def record(self, answer: Answer, change: Change) -> None:
        """Stores `answer` by `change`: while Postgres is away, again and again."""
        attempt_id = answer.attempting.attempt_id
        self._unrecorded[attempt_id] = answer
        tries = 0
        while not await self._is_over(answer, change, tries):
            await asyncio.sleep(_WAITS_SECONDS[min(tries, len(_WAITS_SECONDS) - 1)])
            tries += 1
        del self._unrecorded[attempt_id]

    def log_unrecorded(self) -> None:
        """The last line about each answer that this process knows and could not record: it ends now."""
        for answer in self._unrecorded.values():
            log.error("answer_lost", **answer.in_words())

    async def _is_over(self, answer: Answer, change: Change, tries: int) -> bool:
        """One try; True as well where trying is given up."""
        try:
            result = await self._changes.change(change)
        except StoreUnavailable:
            if tries == 0:  # with the ids: if this process is killed meanwhile, the log is all that knows them
                log.warning("answer_not_recorded_yet", **answer.in_words())
            return False
        except Exception:
            is_given_up = tries >= _TRIES_MAX
            log.exception("answer_lost" if is_given_up else "answer_not_recorded_yet", **answer.in_words())
            return is_given_up
        self._announcer.announce_soon(result)
        if result.decided.payment is None:
            # The database lost the payment itself. Daraja's answer is in `daraja_exchanges`, a callback in `callbacks`.
            log.error("answer_without_payment", **answer.in_words())
        return True


def without_claim(
    payment: Payment, context: Context, fact: Fact, *, account: SendAccount | None, ask_after: timedelta
) -> Decided:
    """What follows from `fact`, the answer to an attempt that is not on record and was sent by `account`.

    If nothing can have acted, the claim was never committed, and nothing is to be done. Else the database lost a committed
    claim, and the answer is the evidence of a send: the attempt is entered after all, and the payment is in doubt.
    """
    assert fact.outcome is not None  # noqa: S101 - every answer has one
    if fact.outcome.is_accounted_for:
        return Decided(payment=payment)
    found = replace(fact, name=FactName.CLAIM_LOST, at=context.now, account=account)
    after = payment.after(found)
    # Only a withdrawal has an id whose second use Daraja refuses. A failure was told to its caller as the end.
    is_second_send = payment.kind is not Kind.WITHDRAWAL and payment.sends > 0
    is_for_a_person = is_second_send or payment.stage is Stage.FAILED or bool(context.ids_of_others)
    if after.stage is not payment.stage or payment.stage is Stage.FAILED:
        after = replace(after, next_step_at=context.now + ask_after)
    after = replace(after, needs_review=payment.needs_review or is_for_a_person)
    return Decided(payment=after, what=found.name, attempt_id=fact.attempt_id)
