"""A payment, its stages, and the one table that says what leads from one stage to another.

Pure: no I/O, no clock. `Payment.after(fact)` is the only place that decides a stage; everything else (claims, answers,
callbacks, the sweeper, a cancellation) turns what it learned into a `Fact` and asks. Read next: `lifecycle/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from domain.failures import Failure
from domain.values import Kind, Purpose


class Stage(StrEnum):
    """Where a payment is. The sentences are the contract (design.md, "Stages")."""

    ACCEPTED = "accepted"  # We hold it; Daraja was not asked, or every attempt is proved without effect.
    SUBMITTING = "submitting"  # A worker committed to asking Daraja; it may or may not have.
    AWAITING_RESULT = "awaiting_result"  # Daraja acknowledged it; the result comes by callback.
    IN_DOUBT = "in_doubt"  # Daraja may have acted and we cannot yet tell.
    SUCCEEDED = "succeeded"  # Money moved.
    FAILED = "failed"  # Daraja, or we before asking, said no.

    @property
    def is_final(self) -> bool:
        return self in (Stage.SUCCEEDED, Stage.FAILED)

    @property
    def public_status(self) -> str:
        """What a caller sees as `status`."""
        match self:
            case Stage.ACCEPTED | Stage.SUBMITTING | Stage.AWAITING_RESULT | Stage.IN_DOUBT:
                return "pending"
            case Stage.SUCCEEDED:
                return "success"
            case Stage.FAILED:
                return "failed"
            case _ as unreachable:
                assert_never(unreachable)


class Outcome(StrEnum):
    """What came of one attempt. An attempt without one is under way, or its worker is gone: it may have acted."""

    NOT_ACTED = "not_acted"  # proved without effect: nothing was written, or Daraja refused before acting
    REFUSED = "refused"  # Daraja said no
    FAILED = "failed"  # Daraja's result said no
    ACKNOWLEDGED = "acknowledged"  # Daraja has it
    RESENDABLE = "resendable"  # too busy to say; the same id may be sent again
    DUPLICATE = "duplicate"  # Daraja had this id before
    UNKNOWN = "unknown"  # no definite answer

    @property
    def is_accounted_for(self) -> bool:
        """Whether this attempt is known to have moved no money."""
        return self in (Outcome.NOT_ACTED, Outcome.REFUSED, Outcome.FAILED)


class FactName(StrEnum):
    """What can be learned about a payment, in the words of its history."""

    CLAIMED = "claimed"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    NOT_ACTED = "not_acted"
    OUTCOME_UNKNOWN = "outcome_unknown"
    LEASE_EXPIRED = "lease_expired"
    TOO_OLD = "too_old"
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    SUCCESS_REPORTED = "success_reported"
    FAILURE_REPORTED = "failure_reported"


class Guard(StrEnum):
    """The condition of a transition, in the words of the diagram."""

    ALWAYS = "always"
    ALL_ACCOUNTED_FOR = "every send is accounted for"
    NOTHING_ACTED = "no attempt can have acted"


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a fact leads if its guard holds, and where otherwise (None: it stays)."""

    to: Stage
    guard: Guard = Guard.ALWAYS
    otherwise: Stage | None = None


_SUCCESS = Rule(Stage.SUCCEEDED)
_FAILURE = Rule(Stage.FAILED, Guard.ALL_ACCOUNTED_FOR)

# What is not listed changes nothing: it is recorded, and flagged where it contradicts.
TRANSITIONS: Mapping[Stage, Mapping[FactName, Rule]] = {
    Stage.ACCEPTED: {
        FactName.CLAIMED: Rule(Stage.SUBMITTING),
        FactName.TOO_OLD: Rule(Stage.FAILED),
        FactName.CANCELLED_BY_CALLER: Rule(Stage.FAILED),
        FactName.SUCCESS_REPORTED: _SUCCESS,
    },
    Stage.SUBMITTING: {
        FactName.ACKNOWLEDGED: Rule(Stage.AWAITING_RESULT),
        FactName.REFUSED: Rule(Stage.FAILED, Guard.ALL_ACCOUNTED_FOR, otherwise=Stage.IN_DOUBT),
        FactName.NOT_ACTED: Rule(Stage.ACCEPTED, Guard.NOTHING_ACTED, otherwise=Stage.IN_DOUBT),
        FactName.OUTCOME_UNKNOWN: Rule(Stage.IN_DOUBT),
        FactName.LEASE_EXPIRED: Rule(Stage.IN_DOUBT),
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
    },
    Stage.AWAITING_RESULT: {
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
    },
    Stage.IN_DOUBT: {
        FactName.ACKNOWLEDGED: Rule(Stage.AWAITING_RESULT),
        FactName.REFUSED: _FAILURE,
        FactName.NOT_ACTED: Rule(Stage.ACCEPTED, Guard.NOTHING_ACTED),
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
    },
    Stage.FAILED: {
        FactName.SUCCESS_REPORTED: _SUCCESS,  # a correction: success outranks failure (rule 7)
    },
    Stage.SUCCEEDED: {},
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim and what came of it. `provider_ids` holds the ids that Daraja gave it, by kind of id."""

    id: UUID
    number: int
    outcome: Outcome | None = None
    provider_ids: frozenset[tuple[str, str]] = frozenset()

    @property
    def is_accounted_for(self) -> bool:
        return self.outcome is not None and self.outcome.is_accounted_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something learned about a payment.

    `attempt_id` names the attempt that it is about, if one; `speaks_for_all` says that it is about every send of the
    payment (a result that names the payment's own OriginatorConversationID does).
    """

    name: FactName
    attempt_id: UUID | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    receipt: str | None = None
    recipient_name: str | None = None
    speaks_for_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as it stands in Postgres."""

    id: UUID
    kind: Kind
    stage: Stage
    caller_key: str
    owner: str | None
    amount_kes: int
    phone_number: str | None
    paybill: str | None
    till: str | None
    account_reference: str | None
    description: str | None
    remarks: str | None
    purpose: Purpose | None
    metadata: Mapping[str, str]
    idempotency_key: str
    created_at: datetime
    updated_at: datetime
    finalized_at: datetime | None = None
    receipt: str | None = None
    recipient_name: str | None = None
    failure: Failure | None = None
    needs_review: bool = False
    sequence: int = 1
    attempt_id: UUID | None = None
    lease_until: datetime | None = None
    next_step_at: datetime | None = None
    event_due: datetime | None = None
    attempts: tuple[Attempt, ...] = field(default=())

    def after(self, fact: Fact) -> Payment:
        """This payment once `fact` is known: its attempts, its stage, and what a final stage carries.

        Times (`updated_at`, `next_step_at`, …) are left to the caller, who knows the database's clock.
        """
        known = replace(self, attempts=_with_outcome(self.attempts, fact))
        stage = _stage_after(known, fact)
        if stage is None:
            if self.stage is Stage.SUCCEEDED and fact.name is FactName.SUCCESS_REPORTED and self.receipt is None:
                # Known to be paid without one; now it has come.
                return replace(known, receipt=fact.receipt, recipient_name=fact.recipient_name or self.recipient_name)
            return known
        return replace(
            known,
            stage=stage,
            failure=fact.failure if stage is Stage.FAILED else None,
            receipt=fact.receipt if stage is Stage.SUCCEEDED else self.receipt,
            recipient_name=fact.recipient_name or self.recipient_name,
            attempt_id=fact.attempt_id if fact.name is FactName.CLAIMED else self.attempt_id,
        )

    @property
    def provider_ids(self) -> frozenset[tuple[str, str]]:
        """Every id that Daraja gave any attempt, as (kind of id, value)."""
        return frozenset().union(*(attempt.provider_ids for attempt in self.attempts))

    def disagrees_with(self, ids: frozenset[tuple[str, str]]) -> bool:
        """Whether one of `ids` differs from all that are known of its kind. An absent id contradicts nothing."""
        known: dict[str, set[str]] = {}
        for id_kind, value in self.provider_ids:
            known.setdefault(id_kind, set()).add(value)
        return any(id_kind in known and value not in known[id_kind] for id_kind, value in ids)

    def attempt_named_by(self, ids: frozenset[tuple[str, str]]) -> UUID | None:
        """The attempt that a message with `ids` is about.

        The one that has such an id; else the only one not accounted for: there the message can speak of no other.
        """
        for attempt in self.attempts:
            if attempt.provider_ids & ids:
                return attempt.id
        open_attempts = [attempt.id for attempt in self.attempts if not attempt.is_accounted_for]
        return open_attempts[0] if len(open_attempts) == 1 else None


# A later word about an attempt replaces an earlier one only where it says more.
_WEIGHT: Mapping[Outcome | None, int] = {
    None: 0,
    Outcome.UNKNOWN: 1,
    Outcome.RESENDABLE: 2,
    Outcome.DUPLICATE: 2,
    Outcome.ACKNOWLEDGED: 2,
    Outcome.NOT_ACTED: 3,
    Outcome.REFUSED: 3,
    Outcome.FAILED: 4,
}


def _with_outcome(attempts: tuple[Attempt, ...], fact: Fact) -> tuple[Attempt, ...]:
    """`attempts` once `fact` has said what came of one of them, or of all."""
    outcome = fact.outcome
    if fact.name is FactName.CLAIMED and fact.attempt_id is not None:
        return (*attempts, Attempt(id=fact.attempt_id, number=len(attempts) + 1))
    if outcome is None:
        return attempts
    return tuple(
        replace(attempt, outcome=outcome)
        if (fact.speaks_for_all or attempt.id == fact.attempt_id) and _WEIGHT[outcome] > _WEIGHT[attempt.outcome]
        else attempt
        for attempt in attempts
    )


def _stage_after(payment: Payment, fact: Fact) -> Stage | None:
    """The stage that `fact` leads to by the table, or None where it changes nothing."""
    rule = TRANSITIONS[payment.stage].get(fact.name)
    if rule is None:
        return None
    return rule.to if _holds(rule.guard, payment.attempts) else rule.otherwise


def _holds(guard: Guard, attempts: tuple[Attempt, ...]) -> bool:
    match guard:
        case Guard.ALWAYS:
            return True
        case Guard.ALL_ACCOUNTED_FOR:
            return all(attempt.is_accounted_for for attempt in attempts)
        case Guard.NOTHING_ACTED:
            return all(attempt.outcome is Outcome.NOT_ACTED for attempt in attempts)
        case _ as unreachable:
            assert_never(unreachable)
