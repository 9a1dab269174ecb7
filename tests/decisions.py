"""Reads one part of a decision, for tests that compare one part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from domain.changes import (
    AnnounceEvent,
    CloseBreaker,
    Decided,
    HistoryEntry,
    JudgeOperation,
    OpenBreaker,
    ProbeOperation,
    StoreAnswer,
    StoreInquiry,
)
from domain.events import EventType
from domain.evidence import Inquiry
from domain.operations import Operation, OperationAnswer
from domain.payment import Payment


def entry_of(decided: Decided) -> HistoryEntry | None:
    """The name of the decision's history entry, if it has one."""
    return decided.entry.name if decided.entry is not None else None


def detail_of(decided: Decided) -> Mapping[str, str]:
    return decided.entry.detail if decided.entry is not None else {}


def event_of(decided: Decided) -> EventType | None:
    effect = decided.effect(AnnounceEvent)
    return effect.type if effect is not None else None


def inquiry_of(decided: Decided) -> Inquiry | None:
    effect = decided.effect(StoreInquiry)
    return effect.inquiry if effect is not None else None


def answer_of(decided: Decided) -> Inquiry | None:
    effect = decided.effect(StoreAnswer)
    return effect.inquiry if effect is not None else None


def breaker_reason_of(decided: Decided) -> str | None:
    """The reason for opening the breaker, if the decision opens it."""
    effect = decided.effect(OpenBreaker)
    return effect.reason if effect is not None else None


def credential_accepted_at(decided: Decided) -> datetime | None:
    effect = decided.effect(CloseBreaker)
    return effect.accepted_at if effect is not None else None


def operation_answer_of(decided: Decided) -> OperationAnswer | None:
    effect = decided.effect(JudgeOperation)
    return effect.answer if effect is not None else None


def probed_operation_of(decided: Decided) -> Operation | None:
    effect = decided.effect(ProbeOperation)
    return effect.operation if effect is not None else None


def payment_of(decision: Decided) -> Payment:
    assert decision.payment is not None
    return decision.payment
