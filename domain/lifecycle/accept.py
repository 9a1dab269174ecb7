"""Accepts a payment: stores the payment before the caller gets a 202.

Also cancels a payment, if Daraja certainly has not acted on the payment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import uuid_utils.compat as uuid_utils

from domain.changes import (
    Change,
    ChangeResult,
    ChangingStore,
    Context,
    Decided,
    NewEntry,
    Reads,
    event_effects,
)
from domain.errors import PaymentNotFound, RequestRefused, TooLateToCancel, Unavailable
from domain.failures import Failure, FailureReason
from domain.idempotency import FirstAnswer
from domain.kinds import RULES, Default
from domain.payment import Fact, Payment
from domain.policy import Charge, may_see
from domain.records import replace
from domain.stages import FactName, Stage
from domain.values import DEFAULT_TEXT, Caller, PaymentRequest, reference_from_id

_CANCELLED = Failure(FailureReason.CANCELLED_BY_CALLER, safe_to_retry=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayment:
    """A payment to accept.

    * `answer`: a function that makes the body of the 202 from the accepted payment. The store calls
      the function, because the body contains times that only the database knows.
    * `expires_after`: the payment may be sent for this long after its acceptance.
    * `charges`: how much of each limit of the policy the payment uses up. A replay uses up nothing.
    """

    id: UUID
    request: PaymentRequest
    caller: Caller
    idempotency_key: str
    fingerprint: bytes
    answer: Callable[[Payment], bytes]
    expires_after: timedelta
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The result of `AcceptingStore.accept`.

    * `answer`: the first answer to the idempotency key. The caller gets this answer.
    * `is_replay`: this request is a retry, so the first answer was made for an earlier request with
      the same key.
    * `expires_at`: the key's expiry.
    * `epoch`: the database's epoch at the time of the commit; None for a replay. The epoch changes
      when the database is restored or replaced, or its server restarts.
    """

    answer: FirstAnswer
    is_replay: bool
    expires_at: datetime
    epoch: str | None


class AcceptingStore(Protocol):
    """The store in which the ingress accepts payments."""

    async def accept(self, new: NewPayment) -> Acceptance:
        """Stores payment, key and first history entry in one commit, or finds the first answer.

        Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight,
        StoreUnavailable.
        """
        ...

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        """Returns the first answer that is stored for this key, or None.

        Raises StoreUnavailable.
        """
        ...


async def accept(
    store: AcceptingStore,
    request: PaymentRequest,
    *,
    caller: Caller,
    idempotency_key: str,
    fingerprint: bytes,
    answer: Callable[[Payment], bytes],
    expires_after: timedelta,
    charges: tuple[Charge, ...] = (),
) -> Acceptance:
    """Stores the payment and its key in one commit.

    After this commit, every retry gets the same answer, byte for byte. A worker sends the payment
    within `expires_after`, or not at all.

    Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight, and
    StoreUnavailable. After StoreUnavailable, either both the payment and its key are stored, or
    neither is stored.
    """
    payment_id = uuid_utils.uuid7()
    return await store.accept(
        NewPayment(
            id=payment_id,
            request=_with_defaults(request, payment_id),
            caller=caller,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            answer=answer,
            expires_after=expires_after,
            charges=charges,
        )
    )


async def replay_or_raise(
    store: AcceptingStore,
    refusal: RequestRefused | Unavailable,
    *,
    caller: Caller,
    idempotency_key: str,
    fingerprint: bytes,
) -> FirstAnswer:
    """Returns the first answer if this request was accepted before. Otherwise raises `refusal`.

    A retry gets the first answer even if the service would refuse the same request today, for
    example because the policy has changed (rules.md §20).
    """
    first_answer = await store.first_answer(caller.key, idempotency_key)
    if first_answer is not None and first_answer.fingerprint == fingerprint:
        return first_answer
    raise refusal


async def cancel(store: ChangingStore, payment_id: UUID, *, caller: Caller) -> ChangeResult:
    """Fails the payment as cancelled, if Daraja certainly has not acted on the payment.

    A stored message or answer may show that Daraja has a payment that looks unsent, for example
    after a restore. Then the payment is not cancelled, because its caller would pay again. If the
    payment is cancelled already, nothing changes. Raises PaymentNotFound, TooLateToCancel,
    StoreUnavailable.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or not may_see(caller, payment):
            raise PaymentNotFound
        return _decide_cancellation(payment, context, {})

    return await store.change(Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE))


def operator_cancellation_change(payment_id: UUID, *, reason: str, operator: str) -> Change:
    """The change by which an operator cancels a payment for its caller, as `cancel` does.

    Its decision raises PaymentNotFound, TooLateToCancel.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise PaymentNotFound
        return _decide_cancellation(payment, context, {"reason": reason, "operator": operator})

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)


def _decide_cancellation(payment: Payment, context: Context, detail: Mapping[str, str]) -> Decided:
    if payment.stage is Stage.FAILED and payment.failure == _CANCELLED:
        return Decided(payment=payment)
    if payment.stage.is_final:
        raise TooLateToCancel(_describe_end(payment))
    after = payment.apply(Fact(name=FactName.CANCELLED_BY_CALLER, failure=_CANCELLED))
    may_be_sent = payment.needs_review or context.evidence.shows_that_daraja_has_it
    if after.stage is not Stage.FAILED or may_be_sent:
        raise TooLateToCancel
    entry = NewEntry.of_fact(FactName.CANCELLED_BY_CALLER, detail)
    return Decided(payment=after, entry=entry, effects=event_effects(payment, after))


def _describe_end(payment: Payment) -> str:
    """Why a final payment cannot be cancelled: it has ended, and how."""
    failure = payment.failure
    outcome = "it succeeded" if failure is None else f"it failed ({failure.reason})"
    return f"The payment has ended: {outcome}. It cannot be cancelled any more."


def _with_defaults(request: PaymentRequest, payment_id: UUID) -> PaymentRequest:
    defaults: dict[str, Any] = {
        name: DEFAULT_TEXT if default is Default.WORD else reference_from_id(payment_id)
        for name, default in RULES[request.kind].texts
        if default is not None and not getattr(request, name)
    }
    return replace(request, **defaults) if defaults else request
