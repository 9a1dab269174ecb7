"""The stages of a payment, and the one table that says what leads from one to another.

Pure, and imports nothing of ours. `Payment.apply(fact)` is the only reader that decides by the
table (`payment.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Stage(StrEnum):
    """Where a payment is.

    The sentence behind each is its contract (rules.md §12; docs/architecture/stages.md).
    """

    # We hold it; Daraja was not asked, or every attempt is proved without effect.
    ACCEPTED = "accepted"
    # A worker committed to asking Daraja; it may or may not have.
    SUBMITTING = "submitting"
    # Daraja acknowledged it; the result comes by callback.
    AWAITING_RESULT = "awaiting_result"
    # Daraja may have acted and we cannot yet tell.
    IN_DOUBT = "in_doubt"
    # Money moved.
    SUCCEEDED = "succeeded"
    # Daraja, or we before asking, said no.
    FAILED = "failed"

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


class FactName(StrEnum):
    """What can be learned about a payment, in the words of its history."""

    CLAIMED = "claimed"
    CLAIM_LOST = "claim_lost"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    NOT_ACTED = "not_acted"
    OUTCOME_UNKNOWN = "outcome_unknown"
    LEASE_EXPIRED = "lease_expired"
    TOO_OLD = "too_old"
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    NO_RESULT_CONFIRMED = "no_result_confirmed"
    RESOLVED_PAID = "resolved_paid"
    RESOLVED_UNPAID = "resolved_unpaid"
    SUCCESS_REPORTED = "success_reported"
    FAILURE_REPORTED = "failure_reported"


class Guard(StrEnum):
    """The condition of a transition, in the words of the diagram."""

    ALWAYS = "always"
    ALL_ACCOUNTED_FOR = "every send is accounted for"
    NOTHING_ACTED = "no attempt can have acted"
    RESEND_PERMITTED = "a resend is permitted"


@dataclass(frozen=True, slots=True)
class Transition:
    """Where a fact leads if its guard holds, and where otherwise (None: it stays)."""

    to: Stage
    guard: Guard = Guard.ALWAYS
    otherwise: Stage | None = None


_SUCCESS = Transition(Stage.SUCCEEDED)
_FAILURE = Transition(Stage.FAILED, Guard.ALL_ACCOUNTED_FOR)

# What only a person can find out, from the organisation's own statement (`python -m workers
# resolve`).
_RESOLVED = {FactName.RESOLVED_PAID: _SUCCESS, FactName.RESOLVED_UNPAID: Transition(Stage.FAILED)}

# What is not listed changes nothing: it is recorded, and flagged where it contradicts.
TRANSITIONS: Mapping[Stage, Mapping[FactName, Transition]] = {
    Stage.ACCEPTED: {
        FactName.CLAIMED: Transition(Stage.SUBMITTING),
        # The database lost the claim, and Daraja answered the send.
        FactName.CLAIM_LOST: Transition(Stage.IN_DOUBT),
        FactName.TOO_OLD: Transition(Stage.FAILED),
        FactName.CANCELLED_BY_CALLER: Transition(Stage.FAILED),
        FactName.SUCCESS_REPORTED: _SUCCESS,
        **_RESOLVED,
    },
    Stage.SUBMITTING: {
        FactName.ACKNOWLEDGED: Transition(Stage.AWAITING_RESULT),
        FactName.REFUSED: Transition(
            Stage.FAILED, Guard.ALL_ACCOUNTED_FOR, otherwise=Stage.IN_DOUBT
        ),
        FactName.NOT_ACTED: Transition(
            Stage.ACCEPTED, Guard.NOTHING_ACTED, otherwise=Stage.IN_DOUBT
        ),
        FactName.OUTCOME_UNKNOWN: Transition(Stage.IN_DOUBT),
        FactName.LEASE_EXPIRED: Transition(Stage.IN_DOUBT),
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
    },
    Stage.AWAITING_RESULT: {
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
        FactName.NO_RESULT_CONFIRMED: Transition(Stage.FAILED),
        **_RESOLVED,
    },
    Stage.IN_DOUBT: {
        FactName.CLAIMED: Transition(Stage.SUBMITTING, Guard.RESEND_PERMITTED),
        FactName.ACKNOWLEDGED: Transition(Stage.AWAITING_RESULT),
        FactName.REFUSED: _FAILURE,
        FactName.NOT_ACTED: Transition(Stage.ACCEPTED, Guard.NOTHING_ACTED),
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.FAILURE_REPORTED: _FAILURE,
        FactName.NO_RESULT_CONFIRMED: Transition(Stage.FAILED),
        **_RESOLVED,
    },
    Stage.FAILED: {
        FactName.SUCCESS_REPORTED: _SUCCESS,  # a correction: success outranks failure (rule 7)
        FactName.RESOLVED_PAID: _SUCCESS,
    },
    Stage.SUCCEEDED: {},
}


class Step(StrEnum):
    """What is due at `next_step_at`: who looks for it, and what it may cost."""

    SUBMIT = "submit"  # a claim and a send
    END_LEASE = "end_lease"  # Postgres only: the worker said nothing in time
    QUERY = "query"  # STK query: one of its budget
    STATUS = "status"  # Transaction Status: one of its budget, and the credential
    WATCH = "watch"  # Postgres only: nothing can be asked, a callback may come
