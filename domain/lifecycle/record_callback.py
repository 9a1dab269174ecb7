"""Stores a callback and, in the same commit, what it proves about its payment.

The raw row is always stored. `judge_report` decides what the callback proves.
"""

from __future__ import annotations

from uuid import UUID

from domain.callback_address import fits_kind, inquiry_number, is_timeout
from domain.changes import (
    Change,
    CloseBreaker,
    Context,
    Decided,
    Disposition,
    Reads,
    StoredCallback,
)
from domain.evidence import InquiryOutcome
from domain.lifecycle.agreement import is_complete_success
from domain.lifecycle.former_accounts import drop_credential_effects
from domain.lifecycle.judge_report import add_inquiry_answer, judge_report, store_message_only
from domain.payment import Payment
from domain.report import Report


def callback_change(
    payment_id: UUID,
    callback: StoredCallback,
    report: Report,
    *,
    confirm_above_kes: int | None = None,
) -> Change:
    """The change that stores a callback and what it proves, in one commit.

    A success above `confirm_above_kes` does not finalize the payment until Daraja confirms it. None
    means that no confirmation is needed.
    """
    number = inquiry_number(callback.operation)

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is not None and not fits_kind(callback.operation, payment.kind):
            return store_message_only(payment, Disposition.OTHER_OPERATION, is_message_flagged=True)
        if (
            payment is not None
            and number is not None
            and is_timeout(callback.operation)
            and callback.source_allowed
        ):
            # Daraja timed out on our inquiry. The next inquiry stays on its schedule.
            return store_message_only(
                payment, Disposition.INQUIRY_ANSWERED, is_message_flagged=False
            )
        decided = judge_report(
            payment,
            context,
            report,
            source_allowed=callback.source_allowed,
            confirm_above_kes=confirm_above_kes,
        )
        if number is None or not callback.source_allowed:
            return decided
        decided = add_inquiry_answer(decided, context, number, report)
        if context.evidence.is_inquiry_of_former_account(number):
            return drop_credential_effects(decided)
        if (
            report.inquiry_outcome not in (None, InquiryOutcome.NO_ANSWER)
            and not report.refuses_credential
        ):
            # If Daraja answered the inquiry, it had accepted our credential at the time of the
            # inquiry. A "busy" answer proves nothing.
            asked_at = [
                inquiry.asked_at
                for inquiry in context.evidence.inquiries
                if inquiry.number == number
            ]
            return decided.with_effect(CloseBreaker(max(asked_at)) if asked_at else None)
        return decided

    # Most callbacks are a plain success, which needs no evidence. A failure needs the evidence,
    # because another process, with another policy, may have stored a success that waits for
    # Daraja's confirmation.
    is_plain_success = (
        number is None
        and confirm_above_kes is None
        and callback.source_allowed
        and is_complete_success(report)
    )
    return Change(
        payment_id=payment_id,
        decide=decide,
        ids=report.ids,
        receipt=report.receipt,
        callback=callback,
        reads=Reads.PAYMENT if is_plain_success else Reads.EVIDENCE,
    )


def raw_callback_change(payment_id: UUID, callback: StoredCallback) -> Change:
    """The change that stores only the raw row of a callback.

    The receiver makes this change if `callback_change` fails, so that the callback is not lost.
    """

    def decide(payment: Payment | None, _context: Context) -> Decided:
        return store_message_only(payment, Disposition.NOT_PROCESSED, is_message_flagged=True)

    return Change(payment_id=payment_id, decide=decide, callback=callback)
