"""Collects the effects of a batch of decisions, sorted by the place where each is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never
from uuid import UUID

from domain.changes import (
    AnnounceEvent,
    CloseBreaker,
    Decided,
    JudgeOperation,
    OpenBreaker,
    ProbeOperation,
    StoreAnswer,
    StoreInquiry,
)
from domain.evidence import Inquiry
from domain.operations import Operation, OperationAnswer, OperationHealth
from domain.payment import Payment


@dataclass(slots=True)
class BatchEffects:
    """The effects of a batch by kind, each in the order of the decisions."""

    # Inquiries that are still to be sent, with their payment.
    inquiries: list[tuple[Payment, Inquiry]] = field(default_factory=list)
    # Answered inquiries, with the id of their payment.
    answers: list[tuple[UUID, Inquiry]] = field(default_factory=list)
    # The reasons to open the breaker, with the payment whose result is the reason.
    breaker_reasons: list[tuple[Payment, str]] = field(default_factory=list)
    credential_accepted_at: list[datetime] = field(default_factory=list)
    operation_answers: list[OperationAnswer] = field(default_factory=list)
    probed_operations: list[Operation] = field(default_factory=list)

    @property
    def changed_operations(self) -> list[Operation]:
        """All operations that the batch may change, if it may probe or hold one.

        Empty for most batches: at most, they release operations.
        """
        answers = self.operation_answers
        is_refused = any(item.health is not OperationHealth.WORKS for item in answers)
        if not (is_refused or self.probed_operations):
            return []
        return [*self.probed_operations, *(item.operation for item in answers)]

    @property
    def changes_breaker(self) -> bool:
        return bool(self.breaker_reasons or self.credential_accepted_at)


def sort_effects(decisions: Sequence[Decided]) -> BatchEffects:
    """All effects of `decisions`, except events: the history entry already has those."""
    sorted_effects = BatchEffects()
    for decided in decisions:
        payment = decided.payment
        if payment is None:
            continue  # `Decided` ensures that a missing payment has no effects
        for effect in decided.effects:
            match effect:
                case AnnounceEvent():
                    pass
                case JudgeOperation(answer):
                    sorted_effects.operation_answers.append(answer)
                case StoreInquiry(inquiry):
                    sorted_effects.inquiries.append((payment, inquiry))
                case StoreAnswer(inquiry):
                    sorted_effects.answers.append((payment.id, inquiry))
                case OpenBreaker(reason):
                    sorted_effects.breaker_reasons.append((payment, reason))
                case CloseBreaker(accepted_at):
                    sorted_effects.credential_accepted_at.append(accepted_at)
                case ProbeOperation(operation):
                    sorted_effects.probed_operations.append(operation)
                case _ as unreachable:
                    assert_never(unreachable)
    return sorted_effects
