"""Settles a payment by an operator's decision from M-PESA's own statement.

Some payments cannot be inquired about, for example a bill payment without an id (rules.md §15).
About other payments, Daraja's messages contradict each other. An operator settles both. The history
records the operator, the time and the reason. A decision is refused if stored evidence contradicts
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from enum import StrEnum
from uuid import UUID

from domain.changes import Change, Context, Decided, HistoryEntry, NewEntry, Reads, event_effects
from domain.errors import FieldError, InvalidRequest, ResolutionRefused
from domain.evidence import Evidence, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.inquiry import (
    outcome_awaited_until,
    success_is_denied,
    unrecorded_send_awaited_until,
)
from domain.payment import Fact, Payment
from domain.stages import FactName, Stage
from domain.times import DEFAULT_TIMES, Times
from domain.values import is_receipt

_UNPAID = Failure(FailureReason.RESOLVED_BY_OPERATOR, safe_to_retry=True)

# Failures without evidence from Daraja: the statement may show that the payment was paid.
_WITHOUT_EVIDENCE = (FailureReason.NO_RESULT_CONFIRMED, FailureReason.RESOLVED_BY_OPERATOR)

# Failures of payments that were never sent, and their explanation for the operator.
_NEVER_SENT = {
    FailureReason.CANCELLED_BY_CALLER: "its caller, or an operator for its caller, cancelled it",
    FailureReason.NOT_SUBMITTED_IN_TIME: "it could not be sent in time",
}


class OperatorDecision(StrEnum):
    """The operator's decision about a payment."""

    PAID = "paid"  # the statement shows the payment
    UNPAID = "unpaid"  # the statement shows that no money moved, and none can move any more
    # Clears the flag. The flag kept a payment in `accepted` from being sent, so a worker now sends
    # such a payment.
    REVIEWED = "reviewed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A decision with its reason.

    `receipt` is M-PESA's receipt number, needed for `paid`. `amount_kes` is the amount on the
    statement; None means the payment's own amount.
    """

    decision: OperatorDecision
    reason: str
    operator: str
    receipt: str | None = None
    amount_kes: int | None = None


def resolution_change(
    payment_id: UUID, resolution: Resolution, times: Times = DEFAULT_TIMES
) -> Change:
    """The change that records `resolution`.

    Raises InvalidRequest if the decision does not have a given field. Its decision raises
    ResolutionRefused if evidence contradicts it. The error names this evidence.
    """
    _require_fields_of_decision(resolution)

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        fact = _resolved_fact(payment, context, resolution, times)
        after = payment.apply(fact) if fact is not None else payment
        detail = {
            "reason": resolution.reason,
            "operator": resolution.operator,
            **_amount_detail(resolution),
        }
        reviewed = NewEntry(HistoryEntry.REVIEWED, detail)
        settled = replace(after, needs_review=False)
        if settled.stage is Stage.ACCEPTED:
            settled = replace(settled, next_step_at=context.now)  # a restore has postponed it
        return Decided(
            payment=settled,
            entry=reviewed if fact is None else NewEntry.of_fact(fact.name, detail),
            effects=event_effects(payment, after),
        )

    return Change(
        payment_id=payment_id, decide=decide, receipt=resolution.receipt, reads=Reads.EVIDENCE
    )


def inquiry_request_change(payment_id: UUID, *, reason: str, operator: str) -> Change:
    """The change that makes an inquiry about a payment due now, even if the payment is final.

    The answer is evidence like any other. Raises ResolutionRefused if there is no id to inquire by,
    or if the payment is not sent yet.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None:
            raise ResolutionRefused("There is no such payment.")
        if payment.stage in (Stage.ACCEPTED, Stage.SUBMITTING):
            raise ResolutionRefused(
                "The payment is not sent yet, or is being sent now. Ask about it later."
            )
        if payment.inquiry_step is None:
            raise ResolutionRefused(
                "Daraja gave no id to inquire by. Look for the payment on M-PESA's statement."
            )
        return Decided(
            payment=replace(payment, next_step_at=context.now),
            entry=NewEntry(
                HistoryEntry.INQUIRY_ASKED_FOR, {"reason": reason, "operator": operator}
            ),
        )

    return Change(payment_id=payment_id, decide=decide)


def _require_fields_of_decision(resolution: Resolution) -> None:
    """Refuses a receipt or an amount with another decision than `paid`, which would not record it.

    An operator who gives a receipt may have seen the payment on the statement.
    """
    if resolution.decision is OperatorDecision.PAID:
        return
    given = {"receipt": resolution.receipt, "amount": resolution.amount_kes}
    faults = [
        FieldError(name, "is allowed only with the decision 'paid'; leave it out, or decide 'paid'")
        for name, value in given.items()
        if value is not None
    ]
    if faults:
        raise InvalidRequest(faults)


def _amount_detail(resolution: Resolution) -> dict[str, str]:
    return {} if resolution.amount_kes is None else {"amount": str(resolution.amount_kes)}


def _resolved_fact(
    payment: Payment, context: Context, resolution: Resolution, times: Times
) -> Fact | None:
    """Returns the fact that the decision states, or None if it only clears the flag."""
    match resolution.decision:
        case OperatorDecision.PAID:
            return _paid_fact(payment, context, resolution)
        case OperatorDecision.UNPAID:
            return _unpaid_fact(payment, context, times)
        case OperatorDecision.REVIEWED:
            if not payment.needs_review:
                raise ResolutionRefused("The payment is not flagged for review.")
            if payment.stage is Stage.ACCEPTED and context.evidence.claims_success:
                raise ResolutionRefused(
                    "A stored callback says that the payment was paid. After 'reviewed' a worker"
                    " would send the payment."
                )
            if payment.stage is Stage.ACCEPTED and context.now >= payment.expires_at:
                raise ResolutionRefused(
                    "The payment is too old to be sent. Decide 'paid' or 'unpaid' by the statement."
                )
            _refuse_soon_after_restore(payment, context, times)
            return None


def _paid_fact(payment: Payment, context: Context, resolution: Resolution) -> Fact:
    if resolution.receipt is None or not is_receipt(resolution.receipt):
        raise ResolutionRefused("Give M-PESA's receipt number from the statement (--receipt).")
    if context.is_receipt_of_other:
        raise ResolutionRefused("This receipt belongs to another payment.")
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has already succeeded. Use the decision 'reviewed'.")
    _refuse_against_failure(payment, context.evidence)
    _refuse_while_under_way(payment, context.evidence)
    return Fact(
        name=FactName.RESOLVED_PAID,
        receipt=resolution.receipt,
        amount_kes=_settled_amount(payment, context, resolution),
    )


def _refuse_against_failure(payment: Payment, evidence: Evidence) -> None:
    """Refuses the decision `paid` if Daraja or our own records show that the payment failed.

    If a stored message disputes the failure, the decision is permitted, because only M-PESA's
    statement can show what happened.
    """
    if payment.failure is None or payment.failure.reason in _WITHOUT_EVIDENCE:
        return
    is_disputed = bool(evidence.unconfirmed_receipts) or evidence.names_another_amount
    never_sent_reason = _NEVER_SENT.get(payment.failure.reason)
    if never_sent_reason is None and not is_disputed:
        raise ResolutionRefused(
            "Daraja said that the payment failed. Inquire again (`ask`), or use 'reviewed'."
        )
    was_answered_paid = any(
        inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries
    )
    if never_sent_reason is not None and not (
        is_disputed or evidence.claims_success or was_answered_paid
    ):
        raise ResolutionRefused(
            f"The payment was never sent to Daraja: {never_sent_reason}. We cannot have paid it,"
            " and no message says that it was paid. Find out which payment this receipt belongs to."
        )


def _settled_amount(payment: Payment, context: Context, resolution: Resolution) -> int:
    """Returns the amount on the statement.

    The operator must give it if a stored message names another amount than the payment's.
    """
    if resolution.amount_kes is None:
        if context.evidence.names_another_amount:
            raise ResolutionRefused(
                f"A stored message names another amount than KES {payment.request.amount_kes}. Give"
                " the amount on the statement (--amount)."
            )
        return payment.request.amount_kes
    amount_max = payment.rules.amount_limits_kes[1]
    if not 1 <= resolution.amount_kes <= amount_max:
        raise ResolutionRefused(
            f"Give the statement's amount in whole shillings, from 1 to {amount_max} (--amount)."
        )
    return resolution.amount_kes


def _unpaid_fact(payment: Payment, context: Context, times: Times) -> Fact:
    evidence = context.evidence
    if payment.stage is Stage.SUCCEEDED:
        raise ResolutionRefused("The payment has succeeded. This command cannot undo a success.")
    if payment.stage is Stage.FAILED:
        raise ResolutionRefused("The payment has already failed. Use the decision 'reviewed'.")
    if evidence.claims_success and not success_is_denied(payment, evidence):
        raise ResolutionRefused("A stored callback says that the payment was paid.")
    if any(inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries):
        raise ResolutionRefused("Daraja answered an inquiry: the payment was paid.")
    _refuse_while_under_way(payment, evidence)
    _refuse_soon_after_restore(payment, context, times)
    awaited_until = outcome_awaited_until(payment, evidence, times)
    may_act = any(not attempt.is_accounted_for for attempt in payment.attempts)
    if may_act and context.now < awaited_until:
        raise ResolutionRefused(
            "Daraja has the payment, or may have it, and its result may still arrive. Try again"
            f" after {awaited_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC."
        )
    return Fact(name=FactName.RESOLVED_UNPAID, failure=_UNPAID)


def _refuse_soon_after_restore(payment: Payment, context: Context, times: Times) -> None:
    """Refuses a decision that an unsent payment is unpaid, if a restore flagged it a moment ago.

    The payment may have been sent just before the restore, and its result may still come.
    """
    awaited_until = unrecorded_send_awaited_until(payment, times)
    if awaited_until is not None and context.now < awaited_until:
        raise ResolutionRefused(
            "The database was restored a moment ago, and the result of a send that it lacks may "
            f"still arrive. Try again after {awaited_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC."
        )


def _refuse_while_under_way(payment: Payment, evidence: Evidence) -> None:
    if payment.stage is Stage.SUBMITTING:
        raise ResolutionRefused(
            "The payment is being sent right now. Try again when its lease is over."
        )
    is_held = payment.needs_review or evidence.payouts_are_stopped
    if payment.stage is Stage.ACCEPTED and not is_held:
        raise ResolutionRefused(
            "The payment is not sent yet, but a worker will send it. Ask its caller to cancel it,"
            " or stop payouts first."
        )
