"""Inquiries to Daraja about a payment, and the conclusions from its answers and its silence.

Pure. If a payment is in doubt, the worker inquires about it. Only a payment with a resend key may
also be sent again (rules.md §4, §15). Only this module decides what follows from silence, from a
"not found", and from two answers that agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from domain.account import Account
from domain.attempts import Outcome
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.payment import Payment
from domain.stages import Stage
from domain.times import Times

# The maximum number of sends of a payment. A send that cannot have reached Daraja does not count
# (rules.md §10).
SENDS_MAX = 4

# How many different inquiries must be answered "not found" before a payment of a kind with a resend
# key may be sent again under its own id.
_NOT_FOUND_NEEDED = 2

# A deposit fails for silence after this many answers without a result. If one of these answers is
# Daraja's vaguest code (`InquiryOutcome.VAGUE`), more answers are needed.
_SILENT_ANSWERS_NEEDED = 3
_SILENT_ANSWERS_NEEDED_IF_VAGUE = 5

# The longest wait for a deposit's result after its send, while STK query answers "still under
# processing".
_UNDER_WAY_MAX = timedelta(minutes=15)

# If a payment is not final after this many inquiries since its last send, a person should look at
# it. The inquiries continue.
FRUITLESS_INQUIRIES_MAX = 10

# The first reminder makes the next inquiry due now. Later reminders also bring the next inquiry
# forward, but not nearer to the last inquiry than this interval. Each reminder doubles the
# interval. If a sender repeats messages, we therefore inquire no more often than by our own
# schedule.
_REMINDER_INTERVAL = timedelta(seconds=30)
_REMINDER_INTERVAL_MAX = timedelta(seconds=300)

# After a deposit failed for silence, we inquire again at these times after the failure, because
# M-PESA has been late before.
_INQUIRIES_AFTER_SILENCE = (
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=24),
)


def inquiry_interval(inquiries_asked: int, times: Times) -> timedelta:
    """The time from one inquiry to the next. It doubles with each inquiry, up to the maximum."""
    doubled: timedelta = times.inquiry_first_after * 2 ** min(inquiries_asked, 20)
    return min(doubled, max(times.inquiry_interval_max, times.inquiry_first_after))


def count_inquiries_since(moment: datetime, evidence: Evidence) -> int:
    """How many inquiries were sent since `moment`. Probes of the breaker do not count."""
    return sum(
        inquiry.asked_at >= moment and not inquiry.is_probe for inquiry in evidence.inquiries
    )


def earliest_inquiry_at(evidence: Evidence, now: datetime) -> datetime:
    """The earliest time to which a message that comes now can bring the next inquiry forward."""
    last_asked_at = max((inquiry.asked_at for inquiry in evidence.inquiries), default=None)
    if last_asked_at is None or not evidence.reminder_count:
        return now
    interval: timedelta = _REMINDER_INTERVAL * 2 ** min(evidence.reminder_count - 1, 20)
    return max(now, last_asked_at + min(interval, _REMINDER_INTERVAL_MAX))


def last_sent_at(payment: Payment, times: Times) -> datetime:
    """The latest time at which a send of `payment` can have left.

    If an attempt has an outcome, its send left before `ended_at`. If an attempt has no outcome, its
    send left before the end of the lease, because the worker sends nothing later (rules.md §3).
    """
    latest_sends = [
        attempt.ended_at or attempt.claimed_at + times.lease
        for attempt in payment.attempts
        if attempt.outcome is not Outcome.NOT_ACTED and attempt.claimed_at is not None
    ]
    return max(latest_sends, default=payment.created_at)


def may_be_resent(
    payment: Payment,
    evidence: Evidence,
    now: datetime,
    times: Times,
    accounts: Mapping[Kind, Account],
) -> bool:
    """Whether `payment` may be sent again under its one id (rules.md §15).

    The payment must be in doubt, unflagged, young enough, and not sent too often, and no brake
    stops it. All of these conditions must hold too:

    * Its kind has a resend key: Daraja refuses the id's second use (daraja.md §4.2).
    * This worker's account made every send that may have acted. Daraja does not refuse an id that
      only another account has used.
    * Nothing shows that Daraja has the payment.
    * Daraja answered "too busy" to every send that may have acted, and the wait after the last send
      is over. Or Daraja answered "not found" to two inquiries that were sent long enough after the
      last send.
    """
    outcomes = {attempt.outcome for attempt in payment.attempts}
    is_open = (
        payment.stage is Stage.IN_DOUBT
        and payment.rules.can_be_sent_again
        and not payment.needs_review
        and payment.send_count < SENDS_MAX
        and now < payment.expires_at
        and not evidence.payouts_are_stopped
        and not evidence.is_held(payment.rules.operation)
    )
    daraja_may_have_it = evidence.shows_that_daraja_has_it or bool(
        outcomes & {Outcome.ACKNOWLEDGED, Outcome.DUPLICATE, Outcome.REFUSED, Outcome.FAILED}
    )
    if not is_open or daraja_may_have_it or not is_sent_by_own_account(payment, accounts):
        return False
    sent_at = last_sent_at(payment, times)
    if outcomes <= {Outcome.RESENDABLE, Outcome.NOT_ACTED}:
        return now >= sent_at + inquiry_interval(payment.send_count - 1, times)
    trusted = [
        inquiry
        for inquiry in evidence.inquiries
        if inquiry.outcome is InquiryOutcome.NOT_FOUND
        and not inquiry.is_of_former_account
        and inquiry.asked_at >= sent_at + times.not_found_trusted_after
    ]
    return len(trusted) >= _NOT_FOUND_NEEDED


def result_window_end(payment: Payment, evidence: Evidence, times: Times) -> datetime:
    """The end of the time in which we wait for a deposit's result.

    The window begins again with each inquiry that Daraja answered "still under processing". But it
    ends at the latest `_UNDER_WAY_MAX` after the send, or `result_window` if that is longer.
    """
    sent_at = last_sent_at(payment, times)
    under_way = (
        inquiry.asked_at
        for inquiry in evidence.inquiries
        if inquiry.outcome is InquiryOutcome.UNDER_WAY
    )
    window_end = max((sent_at, *under_way)) + times.result_window
    return min(window_end, sent_at + max(_UNDER_WAY_MAX, times.result_window))


def outcome_awaited_until(payment: Payment, evidence: Evidence, times: Times) -> datetime:
    """The end of our wait for Daraja's outcome of the last send. The wait depends on the kind."""
    if payment.rules.fails_by_silence:
        return result_window_end(payment, evidence, times)
    if payment.rules.own_id is not None:
        return last_sent_at(payment, times) + max(
            times.inquiry_interval_max, times.not_found_trusted_after
        )
    return last_sent_at(payment, times) + times.inquiry_interval_max


def unrecorded_send_awaited_until(payment: Payment, times: Times) -> datetime | None:
    """The end of our wait for the outcome of a send that a restore may have lost.

    None if no restore has flagged the payment as possibly sent.
    """
    wait = max(times.result_window, times.inquiry_interval_max, times.not_found_trusted_after)
    return payment.updated_at + wait if payment.is_postponed_for_a_person else None


def is_sent_by_own_account(payment: Payment, accounts: Mapping[Kind, Account]) -> bool:
    """Whether this worker's account made every send of `payment` that may have acted.

    `accounts` are the accounts by which this worker sends and inquires, by kind. A send whose
    account is not known counts as another account's.
    """
    account = accounts.get(payment.kind)
    return account is not None and payment.sending_accounts <= {account}


def no_result_is_confirmed(
    payment: Payment, evidence: Evidence, now: datetime, times: Times
) -> bool:
    """Whether Daraja was silent for so long that the payment fails as `no_result_confirmed`.

    All of these conditions must hold:

    * Payments of this kind can fail by silence.
    * The result window is over. Each answer "still under processing" extends the window, but only
      up to its latest end (`result_window_end`).
    * No message and no answer claims success.
    * No inquiry is possible. Or enough inquiries that were sent after the end of the window were
      answered without a result. If Daraja does not answer them, the payment stays open.
    """
    if not payment.rules.fails_by_silence or payment.stage not in (
        Stage.AWAITING_RESULT,
        Stage.IN_DOUBT,
    ):
        return False
    window_end = result_window_end(payment, evidence, times)
    is_success_claimed = evidence.claims_success or any(
        inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries
    )
    if now < window_end or is_success_claimed:
        return False
    if payment.inquiry_step is None:
        return True
    silent = _spaced_inquiries(
        [
            inquiry
            for inquiry in evidence.inquiries
            if inquiry.outcome and inquiry.outcome.is_silent and not inquiry.is_of_former_account
            if inquiry.asked_at >= window_end
        ],
        times,
    )
    is_vague = any(inquiry.outcome is InquiryOutcome.VAGUE for inquiry in silent)
    return len(silent) >= (_SILENT_ANSWERS_NEEDED_IF_VAGUE if is_vague else _SILENT_ANSWERS_NEEDED)


def _spaced_inquiries(inquiries: Sequence[Inquiry], times: Times) -> list[Inquiry]:
    """Keeps only inquiries that were sent at least `inquiry_first_after` apart."""
    spaced: list[Inquiry] = []
    for inquiry in sorted(inquiries, key=lambda inquiry: inquiry.asked_at):
        if not spaced or inquiry.asked_at >= spaced[-1].asked_at + times.inquiry_first_after:
            spaced.append(inquiry)
    return spaced


def is_failure_confirmed(payment: Payment, evidence: Evidence, code: str | None) -> bool:
    """Whether enough answers report failure `code` to believe it without a callback.

    If the kind needs only one answer, this is always true. The answer that is being judged is then
    enough, even if it is not stored yet.
    """
    needed = payment.rules.failed_answers_needed
    return (
        needed == 1
        or sum(i.outcome is InquiryOutcome.FAILED and i.code == code for i in evidence.inquiries)
        >= needed
    )


def needs_a_person(payment: Payment, evidence: Evidence, now: datetime, times: Times) -> bool:
    """Whether the inquiries led nowhere, so that a person should look at M-PESA's statement.

    False if the payment is flagged already.

    For a failed payment with an unconfirmed success, this is true only at the last inquiry, and
    only if Daraja has not denied the success. If a person reviewed such a payment before the last
    inquiry, the payment is flagged again, because that person could not know this outcome.
    """
    if payment.needs_review:
        return False
    if payment.stage is Stage.FAILED:
        since = evidence.unconfirmed_since
        is_last_inquiry = (
            since is not None and count_inquiries_since(since, evidence) == FRUITLESS_INQUIRIES_MAX
        )
        return is_last_inquiry and not success_is_denied(payment, evidence)
    if payment.stage not in (Stage.AWAITING_RESULT, Stage.IN_DOUBT):
        return False
    if payment.inquiry_step is None:
        is_by_window = payment.rules.fails_by_silence
        wait = (
            max(times.inquiry_interval_max, times.result_window)
            if is_by_window
            else times.inquiry_interval_max
        )
        return now >= last_sent_at(payment, times) + wait
    return count_inquiries_since(last_sent_at(payment, times), evidence) >= FRUITLESS_INQUIRIES_MAX


def next_inquiry_after_end_at(
    payment: Payment, evidence: Evidence, now: datetime, times: Times
) -> datetime | None:
    """When to inquire next about a final payment, or None if no inquiry follows.

    We inquire about an unconfirmed success until Daraja denies it, or until we have sent
    `FRUITLESS_INQUIRIES_MAX` inquiries. In the second case `needs_a_person` has flagged the
    payment.
    """
    since = evidence.unconfirmed_since
    if payment.stage is not Stage.FAILED or since is None:
        return next_inquiry_after_silence_at(payment, now)
    asked = count_inquiries_since(since, evidence)
    if success_is_denied(payment, evidence) or asked >= FRUITLESS_INQUIRIES_MAX:
        return next_inquiry_after_silence_at(payment, now)
    return now + inquiry_interval(asked, times)


def success_is_denied(payment: Payment, evidence: Evidence) -> bool:
    """Whether enough inquiries about an unconfirmed success were answered with a failure.

    How many are enough depends on the kind.
    """
    since = evidence.unconfirmed_since
    denials = sum(
        inquiry.outcome is InquiryOutcome.FAILED and since is not None and inquiry.asked_at >= since
        for inquiry in evidence.inquiries
    )
    return denials >= payment.rules.failed_answers_needed


def next_inquiry_after_silence_at(payment: Payment, now: datetime) -> datetime | None:
    """When to inquire next about a deposit that failed for silence, or None if none follows."""
    if payment.failure is None or payment.failure.reason is not FailureReason.NO_RESULT_CONFIRMED:
        return None
    if payment.inquiry_step is None:
        return None
    since = payment.finalized_at or now
    return next((since + wait for wait in _INQUIRIES_AFTER_SILENCE if since + wait > now), None)
