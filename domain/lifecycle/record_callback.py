"""Recording a callback: stored whatever it is, and believed only where it agrees with the payment.

Daraja signs nothing. A message that came by the payment's own URL from an allowed address is evidence; its amount and its
ids must agree with what we know, and only an explicit word finalizes (design.md, rules 6 and 7, "Callbacks").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from domain.callback_address import fits_kind
from domain.events import event_type
from domain.failures import Failure
from domain.payment import Fact, FactName, Outcome, Payment, Stage
from domain.ports import Change, Context, Decided, ProviderIds, StoredCallback
from domain.values import Kind

ORIGINATOR_CONVERSATION_ID = "originator_conversation_id"


class Word(StrEnum):
    """What a message says, whatever its shape was."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNDECIDED = "undecided"  # a code that does not finalize: unknown, or one that only asks us to look
    TIMEOUT = "timeout"  # Daraja's queue was slow; a result may follow
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A message from Daraja in our words. Amounts in shillings, exact; absent parts are None."""

    word: Word
    code: str | None = None
    failure: Failure | None = None
    ids: ProviderIds = frozenset()
    has_amount: bool = False
    amount: Decimal | None = None  # None with has_amount: there was one that could not be read
    receipt: str | None = None
    recipient_name: str | None = None


class Disposition(StrEnum):
    """What a callback led to: kept with its raw body."""

    FINALIZED = "finalized"
    CORRECTED = "corrected"
    RECEIPT_ADDED = "receipt_added"
    DUPLICATE = "duplicate"
    INQUIRY_BROUGHT_FORWARD = "inquiry_brought_forward"
    UNREADABLE = "unreadable"
    OTHER_OPERATION = "other_operation"
    UNKNOWN_PAYMENT = "unknown_payment"
    WRONG_SOURCE = "wrong_source"
    AMOUNT_DIFFERS = "amount_differs"
    IDS_DIFFER = "ids_differ"
    RECEIPT_OF_ANOTHER_PAYMENT = "receipt_of_another_payment"
    CONTRADICTION = "contradiction"
    NOT_ALL_ACCOUNTED_FOR = "not_all_accounted_for"
    NOT_PROCESSED = "not_processed"


def callback_change(payment_id: UUID, callback: StoredCallback, report: Report) -> Change:
    """The one commit of a callback: its raw row, what it taught, and the final stage if it has one to give."""

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is not None and not fits_kind(callback.operation, payment.kind):
            return _stored(payment, Disposition.OTHER_OPERATION, is_flagged=True)
        return decide_callback(payment, context, report, source_allowed=callback.source_allowed)

    return Change(payment_id=payment_id, decide=decide, ids=report.ids, receipt=report.receipt, callback=callback)


def raw_change(payment_id: UUID, callback: StoredCallback) -> Change:
    """The callback's raw row and nothing else, for when the rest could not be written: what came is never lost."""

    def decide(payment: Payment | None, _context: Context) -> Decided:
        return _stored(payment, Disposition.NOT_PROCESSED, is_flagged=True)

    return Change(payment_id=payment_id, decide=decide, callback=callback)


def decide_callback(payment: Payment | None, context: Context, report: Report, *, source_allowed: bool) -> Decided:
    """What `report` does to `payment`."""
    if payment is None:
        return _stored(None, Disposition.UNKNOWN_PAYMENT, is_flagged=True)
    if not source_allowed:
        # Perhaps Safaricom added an address: ask Daraja itself, now.
        return _stored(_asked_sooner(payment, context.now), Disposition.WRONG_SOURCE, is_flagged=True)
    if report.word is Word.UNREADABLE:
        return _stored(payment, Disposition.UNREADABLE, is_flagged=True)
    if context.ids_of_others or _disagrees(payment, report):
        return _for_review(payment, report, Disposition.IDS_DIFFER)
    if report.has_amount and report.amount != payment.amount_kes:
        return _for_review(payment, report, Disposition.AMOUNT_DIFFERS, ids=report.ids)
    match report.word:
        case Word.TIMEOUT | Word.UNDECIDED:
            return _look_soon(payment, context, report)
        case Word.SUCCESS:
            return _success(payment, context, report)
        case Word.FAILURE:
            return _failure(payment, context, report)


def _success(payment: Payment, context: Context, report: Report) -> Decided:
    if report.receipt is None or not report.has_amount:
        return _look_soon(payment, context, report)
    if context.receipt_is_anothers:
        return _for_review(payment, report, Disposition.RECEIPT_OF_ANOTHER_PAYMENT)
    if payment.stage is Stage.SUCCEEDED and payment.receipt not in (None, report.receipt):
        return _for_review(payment, report, Disposition.CONTRADICTION)
    fact = Fact(
        name=FactName.SUCCESS_REPORTED,
        attempt_id=payment.attempt_named_by(report.ids),
        outcome=Outcome.ACKNOWLEDGED,
        receipt=report.receipt,
        recipient_name=report.recipient_name,
    )
    after = payment.after(fact)
    if payment.stage is Stage.FAILED:
        # Subscribers were told otherwise: a correction, and somebody should see it.
        return replace(_learned(payment, after, fact, report, Disposition.CORRECTED), is_flagged=True)
    if payment.stage is Stage.SUCCEEDED:
        is_new = after.receipt != payment.receipt
        return _learned(payment, after, fact, report, Disposition.RECEIPT_ADDED if is_new else Disposition.DUPLICATE)
    return _learned(payment, after, fact, report, Disposition.FINALIZED)


def _failure(payment: Payment, context: Context, report: Report) -> Decided:
    if payment.stage in (Stage.SUCCEEDED, Stage.ACCEPTED):
        # It is paid, or was never sent as far as we can prove: either way somebody is wrong.
        return _for_review(payment, report, Disposition.CONTRADICTION)
    fact = Fact(
        name=FactName.FAILURE_REPORTED,
        attempt_id=payment.attempt_named_by(report.ids),
        outcome=Outcome.FAILED,
        failure=report.failure,
        speaks_for_all=_names_our_own_id(payment, report),
    )
    after = payment.after(fact)
    if payment.stage is Stage.FAILED:
        return _learned(payment, after, fact, report, Disposition.DUPLICATE)
    if after.stage is not Stage.FAILED:
        after = _asked_sooner(after, context.now)
        return _learned(payment, after, fact, report, Disposition.NOT_ALL_ACCOUNTED_FOR)
    return _learned(payment, after, fact, report, Disposition.FINALIZED)


def _learned(payment: Payment, after: Payment, fact: Fact, report: Report, disposition: Disposition) -> Decided:
    event = event_type(payment, after)
    is_noted = event is not None or after.stage is not payment.stage
    return Decided(
        payment=after,
        what=fact.name if is_noted else None,
        detail={"provider_code": report.code} if report.code else {},
        attempt_id=fact.attempt_id,
        ids=report.ids,
        event=event,
        disposition=disposition,
    )


def _look_soon(payment: Payment, context: Context, report: Report) -> Decided:
    """Says nothing final, but enough to ask Daraja at once."""
    if payment.stage is Stage.ACCEPTED and report.word is not Word.TIMEOUT:
        # Daraja speaks of a payment that was never sent, as far as we can prove: it must not be sent now.
        return _for_review(payment, report, Disposition.CONTRADICTION, ids=report.ids)
    return Decided(
        payment=_asked_sooner(payment, context.now),
        attempt_id=payment.attempt_named_by(report.ids),
        ids=report.ids,
        disposition=Disposition.INQUIRY_BROUGHT_FORWARD,
        is_flagged=report.word is Word.SUCCESS,
    )


def _for_review(payment: Payment, report: Report, disposition: Disposition, ids: ProviderIds = frozenset()) -> Decided:
    """Recorded and flagged; finalizes nothing. One history entry, however often it comes: the raw rows hold each."""
    return Decided(
        attempt_id=payment.attempt_named_by(ids) if ids else None,
        ids=ids,
        payment=replace(payment, needs_review=True),
        what=None if payment.needs_review else disposition,
        detail={"provider_code": report.code} if report.code else {},
        disposition=disposition,
        is_flagged=True,
    )


def _stored(payment: Payment | None, disposition: Disposition, *, is_flagged: bool) -> Decided:
    return Decided(payment=payment, disposition=disposition, is_flagged=is_flagged)


def _asked_sooner(payment: Payment, now: datetime) -> Payment:
    if payment.stage in (Stage.AWAITING_RESULT, Stage.IN_DOUBT):
        return replace(payment, next_step_at=now)
    return payment


def _disagrees(payment: Payment, report: Report) -> bool:
    if payment.kind is Kind.WITHDRAWAL and any(
        id_kind == ORIGINATOR_CONVERSATION_ID and value != str(payment.id) for id_kind, value in report.ids
    ):
        return True
    return payment.disagrees_with(report.ids)


def _names_our_own_id(payment: Payment, report: Report) -> bool:
    return payment.kind is Kind.WITHDRAWAL and (ORIGINATOR_CONVERSATION_ID, str(payment.id)) in report.ids
