"""What an operator decides, from M-PESA's own statement: a recorded transition with a reason, refused where evidence exists.

Daraja gives some payments no way to be asked about (a bill payment without an id; design.md, "In doubt, by kind"), and some
messages contradict each other. A person settles those, and the record says who, when and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from domain.errors import ResolutionRefused
from domain.events import event_type
from domain.failures import Failure, FailureReason
from domain.inquiry import Evidence, Verdict, success_is_denied
from domain.payment import Fact, FactName, Payment, Stage
from domain.ports import Change, Context, Decided
from domain.values import is_receipt

REVIEWED = "reviewed"
ASKED_FOR = "inquiry_asked_for"

_UNPAID = Failure(FailureReason.RESOLVED_BY_OPERATOR, safe_to_retry=True)

# Failures that rest on our own conclusion: a statement may show otherwise. Daraja's explicit no is evidence.
_CONCLUDED = (FailureReason.NO_RESULT_CONFIRMED, FailureReason.RESOLVED_BY_OPERATOR)


class Decision(StrEnum):
    """What the operator found."""

    PAID = "paid"  # the statement shows it
    UNPAID = "unpaid"  # the statement shows that no money moved, and can no longer move
    REVIEWED = "reviewed"  # looked at; nothing changes but the flag. One that was never sent may then be sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A decision with its reason. `receipt` is M-PESA's number, needed for `paid`."""

    decision: Decision
    reason: str
    operator: str
    receipt: str | None = None


def resolution(payment_id: UUID, resolved: Resolution) -> Change:
    """The change that records `resolved`. Raises ResolutionRefused, with the evidence that stands against it."""

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        fact = _fact(payment, context, resolved)
        after = payment.after(fact) if fact is not None else payment
        return Decided(
            payment=replace(after, needs_review=False),
            what=fact.name if fact is not None else REVIEWED,
            detail={"reason": resolved.reason, "operator": resolved.operator},
            event=event_type(payment, after),
        )

    return Change(payment_id=payment_id, decide=decide, receipt=resolved.receipt, wants_evidence=True)


def question(payment_id: UUID, *, reason: str, operator: str) -> Change:
    """The change that has Daraja asked about a payment once, now, final or not: its answer is evidence, and judged as such.

    Raises ResolutionRefused where there is nothing to ask by, or an answer is on its way.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        if payment.stage in (Stage.ACCEPTED, Stage.SUBMITTING):
            raise ResolutionRefused(
                "The payment is still to be sent, or just being sent: there is nothing to ask about."
            )
        if payment.question is None:
            raise ResolutionRefused("Daraja gave no id to ask by; only its own statement can tell.")
        return Decided(
            payment=replace(payment, next_step_at=context.now),
            what=ASKED_FOR,
            detail={"reason": reason, "operator": operator},
        )

    return Change(payment_id=payment_id, decide=decide)


def _fact(payment: Payment, context: Context, resolved: Resolution) -> Fact | None:
    """What the decision says about the payment; None where it changes only the flag."""
    match resolved.decision:
        case Decision.PAID:
            return _paid(payment, context, resolved)
        case Decision.UNPAID:
            return _unpaid(payment, context.evidence)
        case Decision.REVIEWED:
            if not payment.needs_review:
                raise ResolutionRefused("The payment is not flagged for review.")
            if payment.stage is Stage.ACCEPTED and context.evidence.claims_success:
                raise ResolutionRefused("A stored callback says that it was paid; reviewed, it would be sent.")
            return None


def _paid(payment: Payment, context: Context, resolved: Resolution) -> Fact:
    if resolved.receipt is None or not is_receipt(resolved.receipt):
        raise ResolutionRefused("Give M-PESA's receipt number from the statement (--receipt).")
    if context.receipt_is_anothers:
        raise ResolutionRefused("This receipt belongs to another payment.")
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has succeeded already; use the decision 'reviewed'.")
    is_disputed = bool(context.evidence.receipts_to_confirm)  # a callback says otherwise: only the statement can tell
    if payment.failure is not None and payment.failure.reason not in _CONCLUDED and not is_disputed:
        raise ResolutionRefused(
            "Daraja said that the payment failed; have Daraja asked again (`ask`), or use 'reviewed'."
        )
    _refuse_while_under_way(payment, context.evidence)
    return Fact(name=FactName.RESOLVED_PAID, receipt=resolved.receipt)


def _unpaid(payment: Payment, evidence: Evidence) -> Fact:
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has succeeded; a success is never taken back here.")
    if payment.stage is Stage.FAILED:
        raise ResolutionRefused("The payment has failed already; use the decision 'reviewed'.")
    if evidence.claims_success and not success_is_denied(payment, evidence):
        raise ResolutionRefused("A stored callback says that it was paid.")
    if any(inquiry.verdict is Verdict.PAID for inquiry in evidence.inquiries):
        raise ResolutionRefused("Daraja answered an inquiry that it was paid.")
    _refuse_while_under_way(payment, evidence)
    return Fact(name=FactName.RESOLVED_UNPAID, failure=_UNPAID)


def _refuse_while_under_way(payment: Payment, evidence: Evidence) -> None:
    if payment.stage is Stage.SUBMITTING:
        raise ResolutionRefused("The payment is being sent right now; try again when its lease is over.")
    is_held = payment.needs_review or evidence.payouts_are_stopped
    if payment.stage is Stage.ACCEPTED and not is_held:
        raise ResolutionRefused(
            "The payment was not sent and will be; let its caller cancel it, or stop payouts first."
        )
