"""Asking Daraja about a payment, and what may be concluded from what it answered, or did not.

Pure. In doubt means ask, never resend (rules.md §4, §15): everything that
follows from silence, from a "not found", or from two answers that agree is decided here and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from domain.account import Account
from domain.attempts import Outcome
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.operations import Operation
from domain.payment import Payment
from domain.stages import Stage
from domain.times import Times

# A payment is sent this often at most, counting what may have reached Daraja (rules.md §10).
SENDS_MAX = 4

# So many not-found answers, of different inquiries, permit another send of a payment with a key,
# under its own id.
_NOT_FOUND_NEEDED = 2

# A deposit fails for silence after so many answers without a result; more where one was Daraja's
# vaguest code.
_SILENT_ANSWERS_NEEDED = 3
_SILENT_ANSWERS_NEEDED_IF_VAGUE = 5

# While STK query answers "still under processing", a deposit's result is awaited for so long after
# its send at the most.
_UNDER_WAY_MAX = timedelta(minutes=15)

# After so many inquiries since the last send that ended nothing, somebody should see the payment.
# It is still asked about.
FRUITLESS_INQUIRIES_MAX = 10

# A message brings the next question forward at once, unless such messages keep coming: then each
# doubles what must have passed since the last question, so that whoever repeats them makes us ask
# no more often than we would by ourselves.
_REMINDED_AGAIN_AFTER = timedelta(seconds=30)
_REMINDED_AGAIN_AFTER_MAX = timedelta(seconds=300)

# A deposit that failed for silence is asked about again so long after it did: M-PESA has been late
# before.
_SECOND_LOOKS = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6), timedelta(hours=24))


class InquiryOutcome(StrEnum):
    """What the answer to one inquiry said."""

    PAID = "paid"
    FAILED = "failed"
    UNDER_WAY = "under_way"  # Daraja has it and has not ended it
    # Daraja says that there is no such transaction; of payouts only (Transaction Status)
    NOT_FOUND = "not_found"
    NO_RESULT = "no_result"  # answered, and no result in it
    VAGUE = "vague"  # 500.001.1001, which means at least five things (daraja.md §3)
    NO_ANSWER = "no_answer"  # 429, a time-out, another 5xx, something unreadable

    @property
    def is_silent(self) -> bool:
        """Whether Daraja answered and told no result."""
        return self in (InquiryOutcome.UNDER_WAY, InquiryOutcome.NO_RESULT, InquiryOutcome.VAGUE)

    @property
    def shows_that_daraja_has_it(self) -> bool:
        return self in (InquiryOutcome.PAID, InquiryOutcome.FAILED, InquiryOutcome.UNDER_WAY)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One numbered question, stored before it was asked. It counts once, by its first answer.

    `is_probe`: it was asked for the breaker's sake, so it is no part of the payment's own schedule.
    `is_of_former_account`: it was asked with another short code than the worker's own, so that its
    answer says nothing about our credential, and a "not found" may only mean that the asker cannot
    look there.
    """

    number: int
    asked_at: datetime
    outcome: InquiryOutcome | None = None
    code: str | None = None
    is_probe: bool = False
    is_of_former_account: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a payment besides its row: inquiries, stored messages, and whether money
    out is stopped.
    """

    inquiries: tuple[Inquiry, ...] = ()
    has_message: bool = (
        False  # a result or a time-out message came by the payment's own address, whatever it said
    )
    claims_success: bool = False  # one of them says that it was paid
    names_another_amount: bool = False  # one of them names another amount than the payment's
    reminder_count: int = 0  # stored messages that brought the next question forward
    unconfirmed_receipts: frozenset[str] = (
        frozenset()
    )  # named by successes that wait for Daraja's own word (policy)
    unconfirmed_since: datetime | None = None  # when the last of those came
    payouts_are_stopped: bool = False  # by the kill switch or the breaker
    breaker_is_open: bool = False
    held_operations: frozenset[Operation] = frozenset()
    probes_due: frozenset[Operation] = frozenset()  # held operations whose cool-down is over

    def is_held(self, operation: Operation) -> bool:
        """Whether nothing may be sent to `operation` now, not even to probe it."""
        return operation in self.held_operations - self.probes_due

    def probe_of(self, operation: Operation) -> Operation | None:
        """`operation` if a request to it now is its probe."""
        return operation if operation in self.held_operations & self.probes_due else None

    @property
    def shows_that_daraja_has_it(self) -> bool:
        """Whether Daraja has said anything that it can only say of a payment that reached it."""
        return self.has_message or any(
            inquiry.outcome is not None and inquiry.outcome.shows_that_daraja_has_it
            for inquiry in self.inquiries
        )

    def with_answer(self, number: int, outcome: InquiryOutcome, code: str | None) -> Evidence:
        """This evidence once inquiry `number` was answered. Its first answer stays."""
        return replace(
            self,
            inquiries=tuple(
                replace(inquiry, outcome=outcome, code=code)
                if inquiry.number == number and inquiry.outcome is None
                else inquiry
                for inquiry in self.inquiries
            ),
        )

    def is_inquiry_of_former_account(self, number: int) -> bool:
        return any(
            inquiry.number == number and inquiry.is_of_former_account for inquiry in self.inquiries
        )

    def awaits_answer(self, number: int) -> bool:
        return any(
            inquiry.number == number and inquiry.outcome is None for inquiry in self.inquiries
        )


def inquiry_interval(inquiries_asked: int, times: Times) -> timedelta:
    """How long after one inquiry the next is due: doubling, up to the ceiling."""
    doubled: timedelta = times.inquiry_first_after * 2 ** min(inquiries_asked, 20)
    return min(doubled, max(times.inquiry_interval_max, times.inquiry_first_after))


def count_inquiries_since(moment: datetime, evidence: Evidence) -> int:
    """How often the payment was asked about since then. Probes of the breaker do not count."""
    return sum(
        inquiry.asked_at >= moment and not inquiry.is_probe for inquiry in evidence.inquiries
    )


def earliest_inquiry_at(evidence: Evidence, now: datetime) -> datetime:
    """When a message that came now may have Daraja asked."""
    last_asked_at = max((inquiry.asked_at for inquiry in evidence.inquiries), default=None)
    if last_asked_at is None or not evidence.reminder_count:
        return now
    rest: timedelta = _REMINDED_AGAIN_AFTER * 2 ** min(evidence.reminder_count - 1, 20)
    return max(now, last_asked_at + min(rest, _REMINDED_AGAIN_AFTER_MAX))


def last_sent_at(payment: Payment, times: Times) -> datetime:
    """The latest time at which a send of `payment` can have left.

    An attempt that ended was sent before it did; one that never ended cannot send past its lease
    (rules.md §3).
    """
    ends = [
        attempt.ended_at or attempt.claimed_at + times.lease
        for attempt in payment.attempts
        if attempt.outcome is not Outcome.NOT_ACTED and attempt.claimed_at is not None
    ]
    return max(ends, default=payment.created_at)


def may_be_resent(
    payment: Payment,
    evidence: Evidence,
    now: datetime,
    times: Times,
    accounts: Mapping[Kind, Account],
) -> bool:
    """Whether `payment` may be sent again, under its one id, though it is in doubt.

    Only one that has a key: Daraja refuses its second use (daraja.md §4.2). And only where Daraja
    has twice said, long enough after the last send, that it knows nothing of it; or where every
    send was answered "too busy". And only by the account of every send that may have acted: another
    account's use of the id is not refused.
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
    """Until when a deposit's result is awaited. "Still under processing" is an answer: the
    window begins again with it.
    """
    sent_at = last_sent_at(payment, times)
    under_way = (
        inquiry.asked_at
        for inquiry in evidence.inquiries
        if inquiry.outcome is InquiryOutcome.UNDER_WAY
    )
    window_ends = max((sent_at, *under_way)) + times.result_window
    return min(window_ends, sent_at + max(_UNDER_WAY_MAX, times.result_window))


def outcome_awaited_until(payment: Payment, evidence: Evidence, times: Times) -> datetime:
    """Until when Daraja's own word about the last send is to be awaited, as long as a payment of
    its kind is waited for.
    """
    if payment.rules.fails_by_silence:
        return result_window_end(payment, evidence, times)
    if payment.rules.own_id is not None:
        return last_sent_at(payment, times) + max(
            times.inquiry_interval_max, times.not_found_trusted_after
        )
    return last_sent_at(payment, times) + times.inquiry_interval_max


def is_sent_by_own_account(payment: Payment, accounts: Mapping[Kind, Account]) -> bool:
    """Whether every send of `payment` that may have acted is known to be by the account by which
    this worker sends.

    `accounts`: by which it sends and asks, by kind.
    """
    account = accounts.get(payment.kind)
    return account is not None and payment.sending_accounts <= {account}


def no_result_is_confirmed(
    payment: Payment, evidence: Evidence, now: datetime, times: Times
) -> bool:
    """Whether silence has lasted long enough to end it as `no_result_confirmed`, if silence ends
    its kind.

    Where it can be asked about, only answers count that came to questions after the window. While
    we cannot ask, or hold a message that claims success, it stays open. "Still under processing"
    counts from the latest end of the window.
    """
    if not payment.rules.fails_by_silence or payment.stage not in (
        Stage.AWAITING_RESULT,
        Stage.IN_DOUBT,
    ):
        return False
    window_ends = result_window_end(payment, evidence, times)
    is_claimed = evidence.claims_success or any(
        inquiry.outcome is InquiryOutcome.PAID for inquiry in evidence.inquiries
    )
    if now < window_ends or is_claimed:
        return False
    if payment.inquiry_step is None:
        return True
    silent = _apart(
        [
            inquiry
            for inquiry in evidence.inquiries
            if inquiry.outcome and inquiry.outcome.is_silent and not inquiry.is_of_former_account
            if inquiry.asked_at >= window_ends
        ],
        times,
    )
    is_vague = any(inquiry.outcome is InquiryOutcome.VAGUE for inquiry in silent)
    return len(silent) >= (_SILENT_ANSWERS_NEEDED_IF_VAGUE if is_vague else _SILENT_ANSWERS_NEEDED)


def _apart(inquiries: Sequence[Inquiry], times: Times) -> list[Inquiry]:
    """Those that were asked at least `inquiry_first_after` after the one before."""
    kept: list[Inquiry] = []
    for inquiry in sorted(inquiries, key=lambda inquiry: inquiry.asked_at):
        if not kept or inquiry.asked_at >= kept[-1].asked_at + times.inquiry_first_after:
            kept.append(inquiry)
    return kept


def is_failure_confirmed(payment: Payment, evidence: Evidence, code: str | None) -> bool:
    """Whether enough inquiries were answered with this failure to believe it without a callback.

    Where one is enough, the answer that is being judged is that one: it need not be on record yet.
    """
    needed = payment.rules.failed_answers_needed
    return (
        needed == 1
        or sum(i.outcome is InquiryOutcome.FAILED and i.code == code for i in evidence.inquiries)
        >= needed
    )


def needs_a_person(payment: Payment, evidence: Evidence, now: datetime, times: Times) -> bool:
    """Whether asking has led nowhere, so that a person should look at M-PESA's own statement.

    Also once for a failed payment whose unconfirmed success Daraja did not confirm. A person who
    reviewed the payment before the last question could not know that.
    """
    if payment.needs_review:
        return False
    if payment.stage is Stage.FAILED:
        since = evidence.unconfirmed_since
        is_last_question = (
            since is not None and count_inquiries_since(since, evidence) == FRUITLESS_INQUIRIES_MAX
        )
        return is_last_question and not success_is_denied(payment, evidence)
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
    """When a payment that ended is asked about after this time, or None where it is not.

    A success that is to be confirmed is asked about until Daraja has answered, or asking has led
    nowhere; a person was told.
    """
    since = evidence.unconfirmed_since
    if payment.stage is not Stage.FAILED or since is None:
        return next_inquiry_after_silence_at(payment, now)
    asked = count_inquiries_since(since, evidence)
    if success_is_denied(payment, evidence) or asked >= FRUITLESS_INQUIRIES_MAX:
        return next_inquiry_after_silence_at(payment, now)
    return now + inquiry_interval(asked, times)


def success_is_denied(payment: Payment, evidence: Evidence) -> bool:
    """Whether Daraja, asked about the successes that wait for its word, said that it failed;
    often enough for its kind.
    """
    since = evidence.unconfirmed_since
    denials = sum(
        inquiry.outcome is InquiryOutcome.FAILED and since is not None and inquiry.asked_at >= since
        for inquiry in evidence.inquiries
    )
    return denials >= payment.rules.failed_answers_needed


def next_inquiry_after_silence_at(payment: Payment, now: datetime) -> datetime | None:
    """When a deposit that failed for silence is asked about next, or None where it is not."""
    if payment.failure is None or payment.failure.reason is not FailureReason.NO_RESULT_CONFIRMED:
        return None
    if payment.inquiry_step is None:
        return None
    since = payment.finalized_at or now
    return next((since + wait for wait in _SECOND_LOOKS if since + wait > now), None)
