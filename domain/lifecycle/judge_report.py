"""Judging what Daraja says of a payment, by callback or in answer to a question of ours: believed
only where it agrees.

Daraja signs nothing. A message that came by the payment's own URL from an allowed address is
evidence, and so is the answer to a question of ours; amount and ids must agree with what we know,
and only an explicit word finalizes (rules.md §6, §7, §18). Whichever way a word
came, it is judged here. Above an amount that policy names, a callback's success is believed only
once Daraja has confirmed it (daraja.md §8.2).
"""

from __future__ import annotations

from dataclasses import replace
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
from domain.inquiry import Inquiry, earliest_inquiry_at, is_failure_confirmed
from domain.lifecycle.agreement import (
    has_other_amount,
    has_other_ids,
    has_own_id,
    is_complete_success,
)
from domain.payment import Fact, Payment
from domain.report import Report, ReportedOutcome
from domain.stages import FactName, Stage

# What is noted in the payment's history as well, under the same name.
EntryDisposition = Literal[
    Disposition.AMOUNT_DIFFERS,
    Disposition.AMOUNT_NOT_CERTAIN,
    Disposition.AWAITS_CONFIRMATION,
    Disposition.CONTRADICTION,
    Disposition.IDS_DIFFER,
    Disposition.RECEIPT_OF_ANOTHER_PAYMENT,
    Disposition.SUCCESS_WITHOUT_RECEIPT,
]
# Raises at import if one of them has no entry of its name.
_ENTRY_OF_DISPOSITION = {noted: HistoryEntry(noted.value) for noted in get_args(EntryDisposition)}

# What brings the next question forward.
REMINDERS = (
    Disposition.AWAITS_CONFIRMATION,
    Disposition.INQUIRY_BROUGHT_FORWARD,
    Disposition.NOT_ALL_ACCOUNTED_FOR,
    Disposition.SUCCESS_WITHOUT_RECEIPT,
    Disposition.WRONG_SOURCE,
)


def add_inquiry_answer(decided: Decided, context: Context, number: int, report: Report) -> Decided:
    """`decided`, with inquiry `number` answered by `report` if it was asked and has no answer
    yet: it counts once.
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
    """What `report` does to `payment`."""
    if payment is None:
        return store_message_only(None, Disposition.UNKNOWN_PAYMENT, is_message_flagged=True)
    if not source_allowed:
        # Perhaps Safaricom added an address: ask Daraja itself, now.
        return store_message_only(
            _bring_inquiry_forward(payment, context, report),
            Disposition.WRONG_SOURCE,
            is_message_flagged=True,
        )
    if report.outcome is ReportedOutcome.UNREADABLE:
        return store_message_only(payment, Disposition.UNREADABLE, is_message_flagged=True)
    if context.ids_of_others:
        return _flag_for_review(payment, report, Disposition.IDS_DIFFER)
    report = replace(report, ids=payment.relevant_ids(report.ids))
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
    """Anybody who knew the address could have said it, and much is at stake: Daraja is asked, at
    once.
    """
    is_held_back = (
        is_complete_success(report)
        and not context.is_receipt_of_other
        and payment.stage is not Stage.SUCCEEDED
    )
    if not is_held_back:
        return _judge_success(payment, context, report)  # which does not finalize it
    if payment.stage is Stage.ACCEPTED:
        return _judge_undecided(payment, context, report)
    # Subscribers were told otherwise: somebody should see it, confirmed or not.
    is_correction = payment.stage is Stage.FAILED
    after = _bring_inquiry_forward(payment, context, report)
    return Decided(
        payment=replace(after, needs_review=payment.needs_review or is_correction),
        # Noted once, however often it comes: the raw rows hold each.
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
        # That it was paid is certain, but not how much. A message that names the payment's own
        # amount still decides.
        return _flag_for_review(payment, report, Disposition.AMOUNT_NOT_CERTAIN, ids=report.ids)
    if (
        payment.stage is Stage.SUCCEEDED
        and report.receipt
        and payment.receipt not in (None, report.receipt)
    ):
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    receipt, is_undisputed = _choose_receipt(context, report)
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
        # Subscribers were told otherwise: a correction, and somebody should see it.
        after = replace(after, needs_review=True)
        return replace(
            _apply_fact(payment, after, fact, report, Disposition.CORRECTED),
            is_message_flagged=True,
        )
    if payment.stage is Stage.SUCCEEDED:
        is_new = after.receipt != payment.receipt
        return _apply_fact(
            payment,
            after,
            fact,
            report,
            Disposition.RECEIPT_ADDED if is_new else Disposition.DUPLICATE,
        )
    decided = _apply_fact(payment, after, fact, report, Disposition.FINALIZED)
    return replace(decided, is_message_flagged=not is_undisputed)


def _choose_receipt(context: Context, report: Report) -> tuple[str | None, bool]:
    """The receipt of a payment that Daraja says was paid, and whether the messages that waited for
    its word name no other.

    STK query names none: then it is theirs, if they agree on one that is free. That it was paid is
    certain either way.
    """
    named = context.evidence.unconfirmed_receipts
    if report.receipt is not None or not named:
        return report.receipt, named <= {report.receipt}
    if len(named) > 1 or context.receipts_of_others:
        return None, False
    [receipt] = named
    return receipt, True


def _judge_incomplete_success(payment: Payment, context: Context, report: Report) -> Decided:
    """A callback that says paid and does not say with which receipt, or how much: Daraja is
    asked, at once.
    """
    if payment.stage is Stage.SUCCEEDED:
        return Decided(payment=payment, disposition=Disposition.DUPLICATE, ids=report.ids)
    if payment.stage is Stage.ACCEPTED:
        return _judge_undecided(payment, context, report)
    decided = _flag_for_review(payment, report, Disposition.SUCCESS_WITHOUT_RECEIPT, ids=report.ids)
    assert decided.payment is not None  # noqa: S101 - it was given
    return replace(decided, payment=_bring_inquiry_forward(decided.payment, context, report))


def _judge_failure(payment: Payment, context: Context, report: Report) -> Decided:
    if payment.stage in (Stage.SUCCEEDED, Stage.ACCEPTED):
        # It is paid, or was never sent as far as we can prove: either way somebody is wrong.
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    claims_success = bool(context.evidence.unconfirmed_receipts)
    if report.inquiry_outcome is not None and payment.stage is not Stage.FAILED:
        claims_success = context.evidence.claims_success
    if claims_success:
        # A callback that was not believed by itself says that it was paid: what is said against it
        # ends nothing.
        return _flag_for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    is_answer = report.inquiry_outcome is not None
    if (
        is_answer
        and payment.stage is not Stage.FAILED
        and not is_failure_confirmed(payment, context.evidence, report.code)
    ):
        # Queries have contradicted callbacks (daraja.md §3): one more must agree.
        about = payment.attempt_named_by(report.ids)
        return Decided(
            payment=payment,
            attempt_id=about,
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
        return _apply_fact(payment, after, fact, report, Disposition.DUPLICATE)
    if after.stage is not Stage.FAILED:
        after = after if report.inquiry_outcome else _bring_inquiry_forward(after, context, report)
        return _apply_fact(payment, after, fact, report, Disposition.NOT_ALL_ACCOUNTED_FOR)
    return _apply_fact(payment, after, fact, report, Disposition.FINALIZED)


def _apply_fact(
    payment: Payment, after: Payment, fact: Fact, report: Report, disposition: Disposition
) -> Decided:
    events = event_effects(payment, after)
    is_noted = bool(events) or after.stage is not payment.stage
    return Decided(
        payment=after,
        entry=NewEntry.of_fact(fact.name, _entry_detail(report)) if is_noted else None,
        attempt_id=fact.attempt_id,
        ids=report.ids,
        effects=events,
        disposition=disposition,
    )


def _judge_undecided(payment: Payment, context: Context, report: Report) -> Decided:
    """Says nothing final, but enough to ask Daraja at once.

    Where it is itself an answer, the next question has its time.
    """
    if (
        payment.stage is Stage.ACCEPTED
        and report.outcome is not ReportedOutcome.TIMEOUT
        and report.inquiry_outcome is None
    ):
        # Daraja speaks of a payment that was never sent, as far as we can prove: it must not be
        # sent now.
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
    """Recorded and flagged; finalizes nothing.

    One history entry, however often it comes: the raw rows hold each.
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
        detail["note"] = "a value under an amount's name was no number"
    return {**detail, "by": "inquiry"} if report.inquiry_outcome is not None else detail


def store_message_only(
    payment: Payment | None, disposition: Disposition, *, is_message_flagged: bool
) -> Decided:
    return Decided(payment=payment, disposition=disposition, is_message_flagged=is_message_flagged)


def _bring_inquiry_forward(payment: Payment, context: Context, report: Report) -> Payment:
    """Asks soon, where it can be asked.

    A payment that failed is asked about only for the sake of a success.
    """
    if payment.stage is Stage.SUBMITTING and payment.lease_until is not None:
        # There is nothing to ask by yet. Due a moment before its lease ends: its answer sees that,
        # and asks at once.
        return replace(payment, next_step_at=payment.lease_until - timedelta(microseconds=1))
    is_open = payment.stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT)
    if is_open or (payment.stage is Stage.FAILED and report.outcome is ReportedOutcome.SUCCESS):
        soonest = earliest_inquiry_at(context.evidence, context.now)
        return replace(payment, next_step_at=min(soonest, payment.next_step_at or soonest))
    return payment
