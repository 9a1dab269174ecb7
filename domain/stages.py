"""The stages of a payment, and the one table of the transitions between them.

Pure. This module imports no other module of this repository. Only `Payment.apply(fact)` decides by
the table (`payment.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Stage(StrEnum):
    """Where a payment is on its way from acceptance to its end.

    The comment above each stage is its contract (rules.md §12; docs/architecture/stages.md).
    """

    # The payment is stored. No send was tried, or every attempt is proved to have had no effect.
    ACCEPTED = "accepted"
    # A worker has committed its claim. It may or may not have sent the payment to Daraja.
    SUBMITTING = "submitting"
    # Daraja acknowledged the payment. The result comes by callback.
    AWAITING_RESULT = "awaiting_result"
    # Daraja may have acted, and the service cannot know it yet.
    IN_DOUBT = "in_doubt"
    # Money moved.
    SUCCEEDED = "succeeded"
    # Daraja, the service or an operator ended the payment without success.
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (Stage.SUCCEEDED, Stage.FAILED)

    @property
    def public_status(self) -> str:
        """The `status` that callers see."""
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
    """The facts that the service can learn about a payment, by their names in its history."""

    CLAIMED = "claimed"
    # The database lost a committed claim (for example in a failover), but the claim's worker had
    # sent the payment, and recorded Daraja's answer later.
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
    """The condition of a transition, as the diagram prints it."""

    ALWAYS = "always"
    ALL_ACCOUNTED_FOR = "every send is accounted for"
    NOTHING_ACTED = "no attempt can have acted"
    RESEND_PERMITTED = "a resend is permitted"


@dataclass(frozen=True, slots=True)
class Transition:
    """The stage `to` follows if the guard is satisfied. Else the stage `otherwise` follows.

    If `otherwise` is None, the stage stays.
    """

    to: Stage
    guard: Guard = Guard.ALWAYS
    otherwise: Stage | None = None


_SUCCESS = Transition(Stage.SUCCEEDED)
_FAILURE = Transition(Stage.FAILED, Guard.ALL_ACCOUNTED_FOR)

# Only a person can learn these facts, from M-PESA's statement for our organisation
# (`python -m workers resolve`).
_RESOLVED = {FactName.RESOLVED_PAID: _SUCCESS, FactName.RESOLVED_UNPAID: Transition(Stage.FAILED)}

# A fact that is not listed for a stage does not change the stage. The service still records the
# fact, and flags the payment if the fact contradicts the stage.
TRANSITIONS: Mapping[Stage, Mapping[FactName, Transition]] = {
    Stage.ACCEPTED: {
        FactName.CLAIMED: Transition(Stage.SUBMITTING),
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
        # A correction, because success outranks failure (rules.md §7).
        FactName.SUCCESS_REPORTED: _SUCCESS,
        FactName.RESOLVED_PAID: _SUCCESS,
    },
    Stage.SUCCEEDED: {},
}


class Step(StrEnum):
    """The step that is due at `next_step_at`."""

    # A worker claims and sends the payment.
    SUBMIT = "submit"
    # The sweeper ends a lease that is over, because the worker recorded no outcome.
    END_LEASE = "end_lease"
    # A worker sends an STK query. It is charged to the budget of STK queries.
    QUERY = "query"
    # A worker sends a Transaction Status inquiry, which contains the initiator's credential. It is
    # charged to the budget of these inquiries.
    STATUS = "status"
    # No inquiry is possible. The sweeper checks whether the wait for a callback is over.
    WATCH = "watch"
