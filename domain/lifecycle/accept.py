"""Accepting a payment: from a valid request to a durable promise.

Also taking it back, while that can be proved.
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
    """A payment about to be accepted. `answer` renders what its caller is told, once the database's
    time is known.

    It may be sent for `expires_after` from then on. `charges` is what it takes of limits; a replay
    takes nothing.
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
    """What came of an acceptance: the answer to give, and whether it was given before.

    `epoch` names the life of the database that holds a new payment; None for a replay.
    """

    answer: FirstAnswer
    is_replay: bool
    expires_at: datetime
    epoch: str | None


class AcceptingStore(Protocol):
    """What the ingress writes."""

    async def accept(self, new: NewPayment) -> Acceptance:
        """Payment, key and first history entry in one commit, or the answer that the key already
        has.

        Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight,
        StoreUnavailable.
        """
        ...

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        """The answer that a held key has. Raises StoreUnavailable."""
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
    """Records the payment and its key in one commit; the answer is then owed to every retry, byte
    for byte.

    It is sent within `expires_after` of that commit, or not at all.

    Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight,
    StoreUnavailable (nothing half done).
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
    """The first answer, if this very request was accepted earlier; else raises `refusal`.

    A retry is answered as its first time was, whatever has changed in limits or policy since
    (rules.md §20).
    """
    held = await store.first_answer(caller.key, idempotency_key)
    if held is not None and held.fingerprint == fingerprint:
        return held
    raise refusal


async def cancel(store: ChangingStore, payment_id: UUID, *, caller: Caller) -> ChangeResult:
    """Ends a payment that can be proved unsent.

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
    left_out: dict[str, Any] = {
        name: DEFAULT_TEXT if default is Default.WORD else reference_from_id(payment_id)
        for name, default in RULES[request.kind].texts
        if default is not None and not getattr(request, name)
    }
    return replace(request, **left_out) if left_out else request
