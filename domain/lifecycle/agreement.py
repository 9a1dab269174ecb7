"""Whether a report agrees with its payment in ids and amount, and whether it says enough."""

from __future__ import annotations

from domain.payment import Payment
from domain.report import Report, ReportedOutcome


def has_other_ids(payment: Payment, report: Report) -> bool:
    own = payment.own_id
    if own is not None and any(
        id_kind == own[0] and value != own[1] for id_kind, value in report.ids
    ):
        return True
    return payment.disagrees_with(report.ids)


def has_other_amount(payment: Payment, report: Report) -> bool:
    """Also an answer of Daraja's whose only amount cannot be read: unlike a callback, it would
    decide by itself.
    """
    if report.inquiry_outcome is not None and report.has_ignored_amount and not report.has_amount:
        return True
    return report.has_amount and report.amount != (
        payment.amount_settled_kes or payment.request.amount_kes
    )


def has_own_id(payment: Payment, report: Report) -> bool:
    """Whether it speaks for all sends: the id is one account's own, so not where two accounts
    have used it.
    """
    return payment.own_id in report.ids and len(payment.sending_accounts) <= 1


def is_complete_success(report: Report) -> bool:
    """Whether it is a success that says all that a callback must say to be believed: its receipt
    and amount.
    """
    return (
        report.outcome is ReportedOutcome.SUCCESS
        and report.receipt is not None
        and report.has_amount
    )
