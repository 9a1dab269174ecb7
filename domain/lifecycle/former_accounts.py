"""Payments that another account sent than the one that the worker is configured for now.

Nothing that decides about an old send reads today's settings: an inquiry goes out as the account of
the send, and what that account's credentials are needed for is not done without them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from domain.account import Account
from domain.changes import Decided, HistoryEntry, NewEntry, OpenBreaker
from domain.inquiry import last_sent_at
from domain.payment import Payment
from domain.times import Times

# Such a payment is looked at again, because the setting may come back: each time as long after its
# send as twice the time before, so that it costs next to nothing of the inquiry budget.
_LOOKED_AT_AGAIN_AFTER_MAX = timedelta(days=1)


def account_to_inquire_as(payment: Payment) -> Account | None:
    """The account to ask Daraja as about this payment; None where any account may ask."""
    return payment.inquiry_attempt.inquiry_account if payment.inquiry_attempt is not None else None


def skip_inquiry(
    payment: Payment, own: Account, sent_by: Account, now: datetime, times: Times
) -> Decided:
    """The credentials of `sent_by` are gone: only its callback, or a person, can tell how the
    payment ended.
    """
    wait = min(
        max(now - last_sent_at(payment, times), times.inquiry_interval_max),
        _LOOKED_AT_AGAIN_AFTER_MAX,
    )
    detail = {"differs": ", ".join(own.differences(sent_by)), "shortcode": sent_by.shortcode}
    return Decided(
        payment=replace(payment, needs_review=True, next_step_at=now + wait),
        entry=None
        if payment.needs_review
        else NewEntry(HistoryEntry.ACCOUNT_NOT_CONFIGURED, detail),
    )


def drop_credential_effects(decided: Decided) -> Decided:
    """What follows from the answer to an inquiry with another short code than the worker's own.

    It says nothing about the credential in use: it neither opens the breaker nor closes it. A
    refusal is for a person.
    """
    if decided.payment is None or decided.effect(OpenBreaker) is None:
        return decided
    flagged = replace(decided.payment, needs_review=True)
    effects = tuple(effect for effect in decided.effects if not isinstance(effect, OpenBreaker))
    return replace(decided, payment=flagged, effects=effects, is_message_flagged=True)
