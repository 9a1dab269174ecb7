"""What an operator decides, from M-PESA's own statement: a recorded transition with a reason,
refused where evidence exists.

Daraja gives some payments no way to be asked about (a bill payment without an id;
rules.md §15), and some messages contradict each other. A person settles those, and the record
says who, when and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from enum import StrEnum
from uuid import UUID

from domain.attempts import Outcome
from domain.changes import Change, Context, Decided, HistoryEntry, NewEntry, Reads, event_effects
from domain.errors import ResolutionRefused
from domain.failures import Failure, FailureReason
from domain.inquiry import Evidence, InquiryOutcome, outcome_awaited_until, success_is_denied
from domain.payment import Fact, Payment
from domain.stages import FactName, Stage
from domain.times import DEFAULT_TIMES, Times
from domain.values import is_receipt

_UNPAID = Failure(FailureReason.RESOLVED_BY_OPERATOR, safe_to_retry=True)

# Failures that rest on our own conclusion: a statement may show otherwise. Daraja's explicit no is
# evidence.
_CONCLUDED = (FailureReason.NO_RESULT_CONFIRMED, FailureReason.RESOLVED_BY_OPERATOR)


# Failures that we decided before anything was sent, and what a person is told of them.
_NEVER_SENT = {
    FailureReason.CANCELLED_BY_CALLER: "its caller cancelled it before it was sent",
    FailureReason.NOT_SUBMITTED_IN_TIME: "it could not be sent in time",
}


class Decision(StrEnum):
    """What the operator found."""

    PAID = "paid"  # the statement shows it
    UNPAID = "unpaid"  # the statement shows that no money moved, and can no longer move
    # looked at; nothing changes but the flag. One that was never sent may then be sent
    REVIEWED = "reviewed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A decision with its reason. `receipt` is M-PESA's number, needed for `paid`.

    `amount_kes` is what the statement shows as paid; None: the payment's own amount.
    """

    decision: Decision
    reason: str
    operator: str
    receipt: str | None = None
    amount_kes: int | None = None


def resolution_change(
    payment_id: UUID, resolved: Resolution, times: Times = DEFAULT_TIMES
) -> Change:
    """The change that records `resolved`.

    Raises ResolutionRefused, with the evidence that stands against it.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        fact = _fact(payment, context, resolved, times)
        after = payment.apply(fact) if fact is not None else payment
        detail = {
            "reason": resolved.reason,
            "operator": resolved.operator,
            **_amount_detail(resolved),
        }
        reviewed = NewEntry(HistoryEntry.REVIEWED, detail)
        return Decided(
            payment=replace(after, needs_review=False),
            entry=reviewed if fact is None else NewEntry.of_fact(fact.name, detail),
            effects=event_effects(payment, after),
        )

    return Change(
        payment_id=payment_id, decide=decide, receipt=resolved.receipt, reads=Reads.EVIDENCE
    )


def inquiry_request_change(payment_id: UUID, *, reason: str, operator: str) -> Change:
    """The change that has Daraja asked about a payment once, now, final or not: its answer is
    evidence, and judged as such.

    Raises ResolutionRefused where there is nothing to ask by, or an answer is on its way.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        if payment.stage in (Stage.ACCEPTED, Stage.SUBMITTING):
            raise ResolutionRefused(
                "The payment is still to be sent, or just being sent: there is nothing to ask about."
            )
        if payment.inquiry_step is None:
            raise ResolutionRefused("Daraja gave no id to ask by; only its own statement can tell.")
        return Decided(
            payment=replace(payment, next_step_at=context.now),
            entry=NewEntry(
                HistoryEntry.INQUIRY_ASKED_FOR, {"reason": reason, "operator": operator}
            ),
        )

    return Change(payment_id=payment_id, decide=decide)


def _amount_detail(resolved: Resolution) -> dict[str, str]:
    return {} if resolved.amount_kes is None else {"amount": str(resolved.amount_kes)}


def _fact(payment: Payment, context: Context, resolved: Resolution, times: Times) -> Fact | None:
    """What the decision says about the payment; None where it changes only the flag."""
    if resolved.amount_kes is not None and resolved.decision is not Decision.PAID:
        raise ResolutionRefused("Only the decision 'paid' takes an amount (--amount).")
    match resolved.decision:
        case Decision.PAID:
            return _paid(payment, context, resolved)
        case Decision.UNPAID:
            return _unpaid(payment, context, times)
        case Decision.REVIEWED:
            if not payment.needs_review:
                raise ResolutionRefused("The payment is not flagged for review.")
            if payment.stage is Stage.ACCEPTED and context.evidence.claims_success:
                raise ResolutionRefused(
                    "A stored callback says that it was paid; reviewed, it would be sent."
                )
            return None


def _paid(payment: Payment, context: Context, resolved: Resolution) -> Fact:
    if resolved.receipt is None or not is_receipt(resolved.receipt):
        raise ResolutionRefused("Give M-PESA's receipt number from the statement (--receipt).")
    if context.is_receipt_of_other:
        raise ResolutionRefused("This receipt belongs to another payment.")
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has succeeded already; use the decision 'reviewed'.")
    _refuse_against_failure(payment, context.evidence)
    _refuse_while_under_way(payment, context.evidence)
    return Fact(
        name=FactName.RESOLVED_PAID,
        receipt=resolved.receipt,
        amount_kes=_amount_paid(payment, context, resolved),
    )


def _refuse_against_failure(payment: Payment, evidence: Evidence) -> None:
    """Refuses `paid` for a payment that failed, unless a message disputes that: then only the
    statement can tell.
    """
    if payment.failure is None or payment.failure.reason in _CONCLUDED:
        return
    is_disputed = bool(evidence.unconfirmed_receipts) or evidence.names_another_amount
    why = _NEVER_SENT.get(payment.failure.reason)
    if why is None and not is_disputed:
        raise ResolutionRefused(
            "Daraja said that the payment failed; have Daraja asked again (`ask`), or use 'reviewed'."
        )
    was_answered_paid = any(
        inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries
    )
    if why is not None and not (is_disputed or evidence.claims_success or was_answered_paid):
        raise ResolutionRefused(
            f"The payment was never sent to Daraja: {why}. So it cannot have been paid by us, and no message says that it "
            "was. Find out which payment this receipt belongs to."
        )


def _amount_paid(payment: Payment, context: Context, resolved: Resolution) -> int:
    """The amount of the statement.

    A person must name it if a message names another amount than the payment's.
    """
    if resolved.amount_kes is None:
        if context.evidence.names_another_amount:
            raise ResolutionRefused(
                f"A stored message names another amount than KES {payment.request.amount_kes}; give the amount of the "
                "statement (--amount)."
            )
        return payment.request.amount_kes
    most = payment.rules.amount_limits_kes[1]
    if not 1 <= resolved.amount_kes <= most:
        raise ResolutionRefused(
            f"Give the statement's amount in whole shillings, from 1 to {most} (--amount)."
        )
    return resolved.amount_kes


def _unpaid(payment: Payment, context: Context, times: Times) -> Fact:
    evidence = context.evidence
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has succeeded; a success is never taken back here.")
    if payment.stage is Stage.FAILED:
        raise ResolutionRefused("The payment has failed already; use the decision 'reviewed'.")
    if evidence.claims_success and not success_is_denied(payment, evidence):
        raise ResolutionRefused("A stored callback says that it was paid.")
    if any(inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries):
        raise ResolutionRefused("Daraja answered an inquiry that it was paid.")
    _refuse_while_under_way(payment, evidence)
    may_come_until = outcome_awaited_until(payment, evidence, times)
    is_acknowledged = any(attempt.outcome is Outcome.ACKNOWLEDGED for attempt in payment.attempts)
    if is_acknowledged and context.now < may_come_until:
        raise ResolutionRefused(
            "Daraja acknowledged the payment and its result may still come; try again after "
            f"{may_come_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC."
        )
    return Fact(name=FactName.RESOLVED_UNPAID, failure=_UNPAID)


def _refuse_while_under_way(payment: Payment, evidence: Evidence) -> None:
    if payment.stage is Stage.SUBMITTING:
        raise ResolutionRefused(
            "The payment is being sent right now; try again when its lease is over."
        )
    is_held = payment.needs_review or evidence.payouts_are_stopped
    if payment.stage is Stage.ACCEPTED and not is_held:
        raise ResolutionRefused(
            "The payment was not sent and will be; let its caller cancel it, or stop payouts first."
        )
