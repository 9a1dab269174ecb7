"""Decides what a report from Daraja proves about its payment.

A report is the content of a callback, or of the answer to an inquiry. Both are judged here by the
same rules (rules.md §6, §7, §18):

* Daraja signs nothing. Evidence is a message that came to the payment's own URL from an allowed
  address, or the answer to our own inquiry.
* Amount and ids must agree with what we know.
* Only an explicit success or failure finalizes a payment.
* Above the amount that the policy names, a callback's success does not finalize the payment until
  Daraja confirms it in answer to an inquiry (daraja.md §8.2).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, get_args

from domain.attempts import Outcome, ProviderIds
from domain.changes import (
    Context,
    Decided,
    Disposition,
    HistoryEntry,
    NewEntry,
    OpenBreaker,
    StoreAnswer,
    event_effects,
)
from domain.evidence import Inquiry
from domain.inquiry import earliest_inquiry_at, is_failure_confirmed
from domain.lifecycle.agreement import (
    choose_receipt,
    has_other_amount,
    has_other_ids,
    has_own_id,
    is_complete_success,
)
from domain.payment import Fact, Payment
from domain.records import replace
from domain.report import Report, ReportedOutcome
from domain.stages import FactName, Stage

# These dispositions also add an entry of the same name to the payment's history.
EntryDisposition = Literal[
    Disposition.AMOUNT_DIFFERS,
    Disposition.AMOUNT_NOT_CERTAIN,
    Disposition.AWAITS_CONFIRMATION,
    Disposition.CONTRADICTION,
    Disposition.IDS_DIFFER,
    Disposition.RECEIPT_OF_ANOTHER_PAYMENT,
    Disposition.SUCCESS_WITHOUT_RECEIPT,
]
# The import fails if one of them has no history entry of the same name.
_ENTRY_OF_DISPOSITION = {
    disposition: HistoryEntry(disposition.value) for disposition in get_args(EntryDisposition)
}

# Messages with these dispositions bring the next inquiry forward.
REMINDERS = (
    Disposition.AWAITS_CONFIRMATION,
    Disposition.INQUIRY_BROUGHT_FORWARD,
    Disposition.NOT_ALL_ACCOUNTED_FOR,
    Disposition.SUCCESS_WITHOUT_RECEIPT,
    Disposition.WRONG_SOURCE,
)


def add_inquiry_answer(decided: Decided, context: Context, number: int, report: Report) -> Decided:
    """Adds the effect that stores `report` as the answer to inquiry `number`.

    Adds nothing if that inquiry does not exist or already has an answer: an inquiry counts once.
    """
    if report.inquiry_outcome is None or not context.evidence.awaits_answer(number):
        return decided
    answered = Inquiry(
        number=number, asked_at=context.now, outcome=report.inquiry_outcome, code=report.code
    )
    return decided.with_effect(StoreAnswer(answered))


def judge_report(
    payment: Payment | None,
    context: Context,
    report: Report,
    *,
    source_allowed: bool = True,
    confirm_above_kes: int | None = None,
) -> Decided:
    """Decides what `report` proves about `payment`."""
    if payment is None:
        return store_message_only(None, Disposition.UNKNOWN_PAYMENT, is_message_flagged=True)
    if not source_allowed:
        # It is possible that Safaricom has added an address. An inquiry gives us the result safely.
        return store_message_only(
            _bring_inquiry_forward(payment, context, report),
            Disposition.WRONG_SOURCE,
            is_message_flagged=True,
        )
    if report.outcome is ReportedOutcome.UNREADABLE:
        return store_message_only(payment, Disposition.UNREADABLE, is_message_flagged=True)
    if context.ids_of_others:
        return _flag_for_review(payment, report, Disposition.IDS_DIFFER)
    report = replace(report, ids=payment.ids_to_compare(report.ids))
    if has_other_ids(payment, report):
        return _flag_for_review(payment, report, Disposition.IDS_DIFFER)
    if has_other_amount(payment, report):
        return _flag_for_review(payment, report, Disposition.AMOUNT_DIFFERS, ids=report.ids)
    is_unconfirmed = (
        confirm_above_kes is not None
        and payment.request.amount_kes > confirm_above_kes
        and report.inquiry_outcome is None
    )
    success = _judge_unconfirmed_success if is_unconfirmed else _judge_success
    judge = {ReportedOutcome.SUCCESS: success, ReportedOutcome.FAILURE: _judge_failure}.get(
        report.outcome, _judge_undecided
    )
    decided = judge(payment, context, report)
    if report.refuses_credential:
        return decided.with_effect(OpenBreaker(f"result {report.code} for payment {payment.id}"))
    return decided


def _judge_unconfirmed_success(payment: Payment, context: Context, report: Report) -> Decided:
    """Judges a callback that claims success, if the amount is above `confirm_above_kes`.

    The amount is large, and every sender that knows the callback URL can send such a message.
    Daraja must therefore confirm the success, and the next inquiry is brought forward.
    """
    is_confirmation_needed = (
        is_complete_success(report)
        and not context.is_receipt_of_other
        and payment.stage is not Stage.SUCCEEDED
    )
    if not is_confirmation_needed:
        # The success is incomplete, or its receipt is another payment's, or the payment succeeded
        # before. `_judge_success` never finalizes a payment because of such a message.
        return _judge_success(payment, context, report)
    if payment.stage is Stage.ACCEPTED:
        return _judge_undecided(payment, context, report)
    # Subscribers received a failure. A person must see the contradiction, even if Daraja confirms
    # the success.
    is_correction = payment.stage is Stage.FAILED
    after = _bring_inquiry_forward(payment, context, report)
    return Decided(
        payment=replace(after, needs_review=payment.needs_review or is_correction),
        # A repeated message adds no second history entry, because each message has its raw row.
        entry=None
        if context.evidence.unconfirmed_receipts
        else _make_entry(Disposition.AWAITS_CONFIRMATION, report),
        attempt_id=payment.attempt_named_by(report.ids),
        ids=report.ids,
        disposition=Disposition.AWAITS_CONFIRMATION,
        is_message_flagged=is_correction,
    )


def _judge_success(payment: Payment, context: Context, report: Report) -> Decided:
    if report.inquiry_outcome is None and not is_complete_success(report):
        return _judge_incomplete_success(payment, context, report)
    if context.is_receipt_of_other:
        return _flag_for_review(
            payment, report, Disposition.RECEIPT_OF_ANOTHER_PAYMENT, ids=report.ids
        )
    if (
        payment.stage is not Stage.SUCCEEDED
        and not report.has_amount
        and context.evidence.names_another_amount
    ):
        # The payment succeeded, but the amount is disputed. A later message that names the
        # payment's own amount still finalizes the payment.
        return _flag_for_review(payment, report, Disposition.AMOUNT_NOT_CERTAIN, ids=report.ids)
    if (
        payment.stage is Stage.SUCCEEDED
        and report.receipt
        and payment.receipt not in (None, report.receipt)
    ):
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    receipt, is_undisputed = choose_receipt(context, report)
    fact = Fact(
        name=FactName.SUCCESS_REPORTED,
        attempt_id=payment.attempt_named_by(report.ids),
        outcome=Outcome.ACKNOWLEDGED,
        receipt=receipt,
        recipient_name=report.recipient_name,
    )
    after = payment.apply(fact)
    if not is_undisputed and payment.stage is not Stage.SUCCEEDED:
        after = replace(after, needs_review=True)
    if payment.stage is Stage.FAILED:
        # Subscribers received a failure. This success corrects it, and a person must see the
        # correction.
        after = replace(after, needs_review=True)
        return replace(
            _record_fact(payment, after, fact, report, Disposition.CORRECTED),
            is_message_flagged=True,
        )
    if payment.stage is Stage.SUCCEEDED:
        is_new = after.receipt != payment.receipt
        return _record_fact(
            payment,
            after,
            fact,
            report,
            Disposition.RECEIPT_ADDED if is_new else Disposition.DUPLICATE,
        )
    decided = _record_fact(payment, after, fact, report, Disposition.FINALIZED)
    return replace(decided, is_message_flagged=not is_undisputed)


def _judge_incomplete_success(payment: Payment, context: Context, report: Report) -> Decided:
    """Judges a callback's success without receipt or amount: brings the next inquiry forward."""
    if payment.stage is Stage.SUCCEEDED:
        return Decided(payment=payment, disposition=Disposition.DUPLICATE, ids=report.ids)
    if payment.stage is Stage.ACCEPTED:
        return _judge_undecided(payment, context, report)
    decided = _flag_for_review(payment, report, Disposition.SUCCESS_WITHOUT_RECEIPT, ids=report.ids)
    assert decided.payment is not None  # noqa: S101 - we passed a payment
    return replace(decided, payment=_bring_inquiry_forward(decided.payment, context, report))


def _judge_failure(payment: Payment, context: Context, report: Report) -> Decided:
    if payment.stage in (Stage.SUCCEEDED, Stage.ACCEPTED):
        # The payment succeeded, or by our records it was not sent. Both contradict a failure.
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    claims_success = bool(context.evidence.unconfirmed_receipts)
    if report.inquiry_outcome is not None and payment.stage is not Stage.FAILED:
        claims_success = context.evidence.claims_success
    if claims_success:
        # A stored callback says that the payment succeeded, but did not finalize it. A failure must
        # not finalize the payment against that message.
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    is_answer = report.inquiry_outcome is not None
    if (
        is_answer
        and payment.stage is not Stage.FAILED
        and not is_failure_confirmed(payment, context.evidence, report.code)
    ):
        # STK query has contradicted callbacks (daraja.md §3), so another answer must agree first.
        return Decided(
            payment=payment,
            attempt_id=payment.attempt_named_by(report.ids),
            ids=report.ids,
            disposition=Disposition.NOT_AGREED_YET,
        )
    fact = Fact(
        name=FactName.FAILURE_REPORTED,
        attempt_id=payment.attempt_named_by(report.ids),
        outcome=Outcome.FAILED,
        failure=report.failure,
        is_about_all_sends=has_own_id(payment, report),
    )
    after = payment.apply(fact)
    if payment.stage is Stage.FAILED:
        return _record_fact(payment, after, fact, report, Disposition.DUPLICATE)
    if after.stage is not Stage.FAILED:
        after = after if report.inquiry_outcome else _bring_inquiry_forward(after, context, report)
        return _record_fact(payment, after, fact, report, Disposition.NOT_ALL_ACCOUNTED_FOR)
    return _record_fact(payment, after, fact, report, Disposition.FINALIZED)


def _record_fact(
    payment: Payment, after: Payment, fact: Fact, report: Report, disposition: Disposition
) -> Decided:
    """Decides to store `after`, the payment with `fact` applied, and to announce its event."""
    events = event_effects(payment, after)
    has_entry = bool(events) or after.stage is not payment.stage
    return Decided(
        payment=after,
        entry=NewEntry.of_fact(fact.name, _entry_detail(report)) if has_entry else None,
        attempt_id=fact.attempt_id,
        ids=report.ids,
        effects=events,
        disposition=disposition,
    )


def _judge_undecided(payment: Payment, context: Context, report: Report) -> Decided:
    """Judges a message that is not final.

    A callback brings the next inquiry forward. An answer to an inquiry changes no due time.
    """
    if (
        payment.stage is Stage.ACCEPTED
        and report.outcome is not ReportedOutcome.TIMEOUT
        and report.inquiry_outcome is None
    ):
        # By our records the payment was not sent, but Daraja reports about it. The payment must not
        # be sent now.
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    is_answer = report.inquiry_outcome is not None
    return Decided(
        payment=payment if is_answer else _bring_inquiry_forward(payment, context, report),
        attempt_id=payment.attempt_named_by(report.ids),
        ids=report.ids,
        disposition=Disposition.INQUIRY_ANSWERED
        if is_answer
        else Disposition.INQUIRY_BROUGHT_FORWARD,
    )


def _flag_for_review(
    payment: Payment, report: Report, disposition: EntryDisposition, ids: ProviderIds = frozenset()
) -> Decided:
    """Flags payment and message for review; finalizes nothing.

    A repeated message adds no second history entry, because each message has its raw row.
    """
    return Decided(
        attempt_id=payment.attempt_named_by(ids) if ids else None,
        ids=ids,
        payment=replace(payment, needs_review=True),
        entry=None if payment.needs_review else _make_entry(disposition, report),
        disposition=disposition,
        is_message_flagged=True,
    )


def _make_entry(disposition: EntryDisposition, report: Report) -> NewEntry:
    return NewEntry(_ENTRY_OF_DISPOSITION[disposition], _entry_detail(report))


def _entry_detail(report: Report) -> dict[str, str]:
    detail = {"provider_code": report.code} if report.code else {}
    if report.has_ignored_amount:
        detail["note"] = "the message contains an amount that is not a number"
    return {**detail, "by": "inquiry"} if report.inquiry_outcome is not None else detail


def store_message_only(
    payment: Payment | None, disposition: Disposition, *, is_message_flagged: bool
) -> Decided:
    """Decides to store a message that proves nothing about its payment."""
    return Decided(payment=payment, disposition=disposition, is_message_flagged=is_message_flagged)


def _bring_inquiry_forward(payment: Payment, context: Context, report: Report) -> Payment:
    """Makes the next inquiry due soon, if an inquiry is possible.

    A failed payment is inquired about again only if the report says that it succeeded.
    """
    if payment.stage is Stage.SUBMITTING and payment.lease_until is not None:
        # The send is under way, so no inquiry can be due yet. A due time just before the end of the
        # lease is a mark. The change that records the answer to the send finds the mark, and makes
        # the inquiry due at once (`record_answer`).
        return replace(payment, next_step_at=payment.lease_until - timedelta(microseconds=1))
    is_open = payment.stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT)
    if is_open or (payment.stage is Stage.FAILED and report.outcome is ReportedOutcome.SUCCESS):
        earliest = earliest_inquiry_at(context.evidence, context.now)
        return replace(payment, next_step_at=min(earliest, payment.next_step_at or earliest))
    return payment
