"""Payments that a former account sent: an account that is not in the worker's settings now.

Decisions about an old send do not read today's settings. The worker inquires as the account that
made the send. If the worker does not have the credentials of that account, it sends no inquiry.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from domain.account import Account
from domain.changes import Decided, HistoryEntry, NewEntry, OpenBreaker
from domain.inquiry import last_sent_at
from domain.payment import Payment
from domain.times import Times

# If the worker has no credentials of the former account, it checks the payment again later, because
# an operator may restore the settings. Each wait is as long as the time since the last send, up to
# this maximum. The checks therefore use almost nothing of the inquiry budget.
_CHECK_INTERVAL_MAX = timedelta(days=1)


def account_to_inquire_as(payment: Payment) -> Account | None:
    """The account that must inquire about this payment, or None if any account can inquire."""
    return payment.inquiry_attempt.inquiry_account if payment.inquiry_attempt is not None else None


def skip_inquiry(
    payment: Payment, own: Account, sent_by: Account, now: datetime, times: Times
) -> Decided:
    """Decides to send no inquiry, because the worker has no credentials of `sent_by` any more.

    Only a callback or a person can settle the payment.
    """
    wait = min(
        max(now - last_sent_at(payment, times), times.inquiry_interval_max),
        _CHECK_INTERVAL_MAX,
    )
    detail = {"differs": ", ".join(own.differences(sent_by)), "shortcode": sent_by.shortcode}
    return Decided(
        payment=replace(payment, needs_review=True, next_step_at=now + wait),
        entry=None
        if payment.needs_review
        else NewEntry(HistoryEntry.ACCOUNT_NOT_CONFIGURED, detail),
    )


def drop_credential_effects(decided: Decided) -> Decided:
    """Removes `OpenBreaker` from a decision about the answer to a former account's inquiry.

    That answer says nothing about the credential in use. If Daraja refused the former account's
    credential, the payment is flagged, because a person must look at it.
    """
    if decided.payment is None or decided.effect(OpenBreaker) is None:
        return decided
    flagged = replace(decided.payment, needs_review=True)
    effects = tuple(effect for effect in decided.effects if not isinstance(effect, OpenBreaker))
    return replace(decided, payment=flagged, effects=effects, is_message_flagged=True)
