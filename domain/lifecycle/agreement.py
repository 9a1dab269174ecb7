"""Compares a report with what we know of its payment: ids, amount and receipt."""

from __future__ import annotations

from domain.changes import Context
from domain.payment import Payment
from domain.report import Report, ReportedOutcome


def has_other_ids(payment: Payment, report: Report) -> bool:
    """Whether the report names an id that cannot belong to the payment."""
    own = payment.own_provider_id
    if own is not None and any(
        id_kind == own[0] and value != own[1] for id_kind, value in report.ids
    ):
        return True
    return payment.disagrees_with(report.ids)


def has_other_amount(payment: Payment, report: Report) -> bool:
    """Whether the report names another amount than the payment's.

    If the only amount in the answer to an inquiry is unreadable, this is also true. Otherwise the
    answer would count as an answer without an amount, and could finalize the payment. A callback
    without an amount never finalizes a payment.
    """
    if report.inquiry_outcome is not None and report.has_ignored_amount and not report.has_amount:
        return True
    return report.has_amount and report.amount != (
        payment.amount_settled_kes or payment.request.amount_kes
    )


def has_own_id(payment: Payment, report: Report) -> bool:
    """Whether the report is about all sends of the payment, because it names the payment's own id.

    An id belongs to one account. If two accounts have sent the payment, the id proves nothing
    about the sends of the other account.
    """
    return payment.own_provider_id in report.ids and len(payment.sending_accounts) <= 1


def is_complete_success(report: Report) -> bool:
    """Whether the report is a success with receipt and amount. A callback must have both."""
    return (
        report.outcome is ReportedOutcome.SUCCESS
        and report.receipt is not None
        and report.has_amount
    )


def choose_receipt(context: Context, report: Report) -> tuple[str | None, bool]:
    """Returns the receipt of a successful payment, and whether it is undisputed.

    It is undisputed if no unconfirmed callback names another receipt. STK query returns no receipt.
    If all unconfirmed callbacks name the same receipt, and no other payment has it, we use that
    receipt. The payment succeeded in all cases.
    """
    unconfirmed = context.evidence.unconfirmed_receipts
    if report.receipt is not None or not unconfirmed:
        return report.receipt, unconfirmed <= {report.receipt}
    if len(unconfirmed) > 1 or context.receipts_of_others:
        return None, False
    [receipt] = unconfirmed
    return receipt, True
