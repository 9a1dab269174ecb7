"""What the decisions of one batch do besides changing their payments, sorted by where it is
written.
"""

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
from domain.inquiry import Inquiry
from domain.operations import Operation, OperationAnswer
from domain.payment import Payment


@dataclass(slots=True)
class BatchEffects:
    """The effects of a batch by kind, each in the order of the decisions."""

    inquiries: list[tuple[Payment, Inquiry]] = field(
        default_factory=list
    )  # of a payment, still to be asked
    answers: list[tuple[UUID, Inquiry]] = field(default_factory=list)  # of a payment's id
    breaker_reasons: list[tuple[Payment, str]] = field(
        default_factory=list
    )  # by payment whose result opens the breaker
    credential_accepted_at: list[datetime] = field(default_factory=list)
    operation_answers: list[OperationAnswer] = field(default_factory=list)
    probed: list[Operation] = field(default_factory=list)


def sort_effects(decisions: Sequence[Decided]) -> BatchEffects:
    """All effects of `decisions`.

    An event has been written into its decision's history entry already.
    """
    found = BatchEffects()
    for decided in decisions:
        payment = decided.payment
        if payment is None:
            continue  # `Decided` has seen to it that it has no effects
        for effect in decided.effects:
            match effect:
                case AnnounceEvent():
                    pass
                case JudgeOperation(heard):
                    found.operation_answers.append(heard)
                case StoreInquiry(inquiry):
                    found.inquiries.append((payment, inquiry))
                case StoreAnswer(inquiry):
                    found.answers.append((payment.id, inquiry))
                case OpenBreaker(reason):
                    found.breaker_reasons.append((payment, reason))
                case CloseBreaker(accepted_at):
                    found.credential_accepted_at.append(accepted_at)
                case ProbeOperation(operation):
                    found.probed.append(operation)
                case _ as unreachable:
                    assert_never(unreachable)
    return found
