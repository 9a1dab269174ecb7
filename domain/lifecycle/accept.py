"""Accepts a payment: stores it before the caller gets a 202.

Also cancels a payment, as long as it is proved unsent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    event_effects,
)
from domain.errors import PaymentNotFound, RequestRefused, TooLateToCancel, Unavailable
from domain.failures import Failure, FailureReason
from domain.idempotency import FirstAnswer
from domain.kinds import RULES, Default
from domain.payment import Fact, Payment
from domain.policy import Charge, may_see
from domain.stages import FactName, Stage
from domain.values import DEFAULT_TEXT, Caller, PaymentRequest, reference_from_id

_CANCELLED = Failure(FailureReason.CANCELLED_BY_CALLER, safe_to_retry=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayment:
    """A payment to accept.

    * `answer` renders the caller's answer as soon as the database's time is known.
    * `expires_after`: the payment may be sent for this long after its acceptance.
    * `charges`: how much of each limit of the policy the payment uses up. A replay uses nothing.
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
    """The result of an acceptance: the caller's answer, and whether it is a replay.

    `epoch` is the epoch in which a new payment was stored; None for a replay. The epoch changes
    when the database is restored or replaced.
    """

    answer: FirstAnswer
    is_replay: bool
    expires_at: datetime
    epoch: str | None


class AcceptingStore(Protocol):
    """The store in which the ingress accepts payments."""

    async def accept(self, new: NewPayment) -> Acceptance:
        """Stores payment, key and first history entry in one commit, or returns the first answer.

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

    After this commit, every retry gets the same answer, byte for byte. The payment is sent within
    `expires_after` of the commit, or not at all.

    Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight, and
    StoreUnavailable. After StoreUnavailable, either both the payment and its key are stored, or
    neither.
    """
    payment_id = UUID(int=uuid_utils.uuid7().int)
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
    """Returns the first answer if this request was accepted before; else raises `refusal`.

    A retry gets its first answer, even if limits or the policy have changed since (rules.md §20).
    """
    first_answer = await store.first_answer(caller.key, idempotency_key)
    if first_answer is not None and first_answer.fingerprint == fingerprint:
        return first_answer
    raise refusal


async def cancel(store: ChangingStore, payment_id: UUID, *, caller: Caller) -> ChangeResult:
    """Cancels a payment that is proved unsent.

    Raises PaymentNotFound, TooLateToCancel, StoreUnavailable.
    """

    def decide(payment: Payment | None, _context: Context) -> Decided:
        if payment is None or not may_see(caller, payment):
            raise PaymentNotFound
        if payment.stage is Stage.FAILED and payment.failure == _CANCELLED:
            return Decided(payment=payment)
        after = payment.apply(Fact(name=FactName.CANCELLED_BY_CALLER, failure=_CANCELLED))
        if after.stage is not Stage.FAILED or payment.stage is Stage.FAILED or payment.needs_review:
            raise TooLateToCancel
        entry = NewEntry.of_fact(FactName.CANCELLED_BY_CALLER)
        return Decided(payment=after, entry=entry, effects=event_effects(payment, after))

    return await store.change(Change(payment_id=payment_id, decide=decide))


def _with_defaults(request: PaymentRequest, payment_id: UUID) -> PaymentRequest:
    defaults: dict[str, Any] = {
        name: DEFAULT_TEXT if default is Default.WORD else reference_from_id(payment_id)
        for name, default in RULES[request.kind].texts
        if default is not None and not getattr(request, name)
    }
    return replace(request, **defaults) if defaults else request
