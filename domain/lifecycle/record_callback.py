"""Stores a callback and, in the same commit, what it proves about its payment.

The raw row is stored whatever the callback says. `judge_report` decides what it proves.
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
from domain.inquiry import InquiryOutcome
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
    """The one commit of a callback: its raw row, what it taught, and the final stage if it has one
    to give.

    A success over more than `confirm_above_kes` is only noted, until Daraja has confirmed it (None:
    never).
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
            # Daraja was too slow to answer our question: the next one is due in its own time.
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
            # Whoever answered our question had read our credential when we asked it. Being too busy
            # is no answer.
            asked_at = [
                inquiry.asked_at
                for inquiry in context.evidence.inquiries
                if inquiry.number == number
            ]
            return decided.with_effect(CloseBreaker(max(asked_at)) if asked_at else None)
        return decided

    # A plain success needs no evidence, and most are. A failure must not end what another process
    # has wait for Daraja's word.
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
    """The callback's raw row and nothing else, for when the rest could not be written: what came
    is never lost.
    """

    def decide(payment: Payment | None, _context: Context) -> Decided:
        return store_message_only(payment, Disposition.NOT_PROCESSED, is_message_flagged=True)

    return Change(payment_id=payment_id, decide=decide, callback=callback)
