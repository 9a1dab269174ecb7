"""When a withdrawal in doubt may be sent again.

If a single condition of rules.md §15 is not met, the withdrawal is not sent again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.attempts import Attempt, Outcome
from domain.changes import HistoryEntry, Reads
from domain.evidence import Inquiry, InquiryOutcome
from domain.inquiry import may_be_resent
from domain.kinds import Kind
from domain.lifecycle.submit import resend_claim_change
from domain.operations import Operation
from domain.payment import Payment
from domain.stages import Stage, Step
from tests.builders import (
    ACCOUNTS,
    EXPIRES_AFTER,
    INQUIRY_IDS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_payment,
    a_send,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.decisions import entry_of, event_of, payment_of
from tests.unit.deciding import NOT_ACTED, UNKNOWN, decide

V = InquiryOutcome
RESENDABLE = Outcome.RESENDABLE
INSTANT = timedelta(microseconds=1)
SENT_AT = NOW - timedelta(minutes=20)
TRUSTED_AT = SENT_AT + TIMES.not_found_trusted_after
DAY = EXPIRES_AFTER[Kind.WITHDRAWAL]
SECOND_ATTEMPT = an_attempt_id(2)
CLAIM = resend_claim_change(PAYMENT_ID, SECOND_ATTEMPT, TIMES, ACCOUNTS)


def not_found(*numbers: int, at: datetime = TRUSTED_AT) -> tuple[Inquiry, ...]:
    """Inquiries that were answered "not found"."""
    return tuple(an_inquiry(number, V.NOT_FOUND, at=at) for number in numbers)


NOT_FOUND = not_found(1, 2)


def sends(*outcomes: Outcome | None) -> tuple[Attempt, ...]:
    """Attempts that all ended twenty minutes ago."""
    return tuple(
        a_send(outcome, number=number, at=SENT_AT) for number, outcome in enumerate(outcomes, 1)
    )


def a_withdrawal(*outcomes: Outcome | None, **overrides: Any) -> Payment:
    """A withdrawal in doubt that was sent once and may be sent again, except for `overrides`."""
    fields = {
        "kind": Kind.WITHDRAWAL,
        "stage": Stage.IN_DOUBT,
        "created_at": SENT_AT - timedelta(minutes=1),
        "attempts": sends(*(outcomes or (UNKNOWN,))),
    }
    return a_payment(**{**fields, **overrides})


def permitted(
    payment: Payment | None = None,
    inquiries: tuple[Inquiry, ...] = NOT_FOUND,
    *,
    now: datetime = NOW,
    **evidence: Any,
) -> bool:
    """Whether the payment may be sent again. Check also that the claim decides the same.

    The claim decides once more under the payment's lock, because an answer, a final result or a
    stop may have arrived after the worker read the payment. A forbidden claim changes nothing.
    """
    payment = payment or a_withdrawal()
    known = evidence_of(*inquiries, **evidence)
    is_permitted = may_be_resent(payment, known, now, TIMES, ACCOUNTS)
    claimed = decide(CLAIM, payment, evidence=known, now=now)
    if is_permitted:
        assert payment_of(claimed).stage is Stage.SUBMITTING
    else:
        assert (claimed.payment, entry_of(claimed), event_of(claimed)) == (payment, None, None)
    return is_permitted


def test_two_trusted_not_found_answers_permit_a_resend() -> None:
    assert permitted()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WITHDRAWAL])
@pytest.mark.parametrize("outcome", [UNKNOWN, RESENDABLE])
def test_no_other_kind_is_ever_sent_again(outcome: Outcome, kind: Kind) -> None:
    """The other kinds have no id that is known to protect against a second payment."""
    attempts = (a_send(outcome, at=SENT_AT, **INQUIRY_IDS[kind]),)
    payment = a_payment(kind=kind, stage=Stage.IN_DOUBT, attempts=attempts, expires_at=NOW + DAY)
    assert not permitted(payment)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.IN_DOUBT])
@pytest.mark.parametrize("outcome", [UNKNOWN, NOT_ACTED])
def test_only_a_payment_in_doubt_is_sent_again(outcome: Outcome, stage: Stage) -> None:
    assert not permitted(a_withdrawal(outcome, stage=stage))


def test_a_payment_flagged_for_review_is_not_sent_again() -> None:
    assert not permitted(a_withdrawal(needs_review=True))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((UNKNOWN,) * 3, True),
        ((UNKNOWN,) * 4, False),
        ((None,) * 4, False),
        ((RESENDABLE,) * 4, False),
        # an attempt that is proved without effect is no send
        ((UNKNOWN, NOT_ACTED, UNKNOWN, UNKNOWN), True),
        ((UNKNOWN, NOT_ACTED, UNKNOWN, UNKNOWN, RESENDABLE), False),
    ],
)
def test_a_payment_is_sent_four_times_at_most(
    outcomes: tuple[Outcome | None, ...], expected: bool
) -> None:
    assert permitted(a_withdrawal(*outcomes)) is expected


@pytest.mark.parametrize(
    ("early", "expected"), [(INSTANT, True), (timedelta(0), False), (-timedelta(days=9), False)]
)
def test_an_expired_payment_is_not_sent_again(early: timedelta, expected: bool) -> None:
    assert permitted(a_withdrawal(created_at=NOW - DAY + early)) is expected


@pytest.mark.parametrize("obstacle", [{"payouts_are_stopped": True}, {"has_message": True}])
def test_stopped_payouts_and_any_stored_message_forbid_a_resend(obstacle: Any) -> None:
    assert not permitted(**obstacle)
    assert not permitted(a_withdrawal(RESENDABLE), (), **obstacle)


def test_only_a_probe_is_sent_again_while_its_operation_is_held() -> None:
    own = a_withdrawal().rules.operation
    assert not permitted(held_operations=frozenset({own}))
    assert permitted(held_operations=frozenset({own}), probes_due=frozenset({own}))
    assert permitted(held_operations=frozenset(Operation) - {own})


@pytest.mark.parametrize(
    "outcome", [Outcome.ACKNOWLEDGED, Outcome.DUPLICATE, Outcome.REFUSED, Outcome.FAILED]
)
@pytest.mark.parametrize("other", [UNKNOWN, RESENDABLE, NOT_ACTED])
def test_any_answer_that_shows_that_daraja_has_the_payment_forbids_a_resend(
    other: Outcome, outcome: Outcome
) -> None:
    assert not permitted(a_withdrawal(outcome, other))
    assert not permitted(a_withdrawal(other, outcome))


@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_an_inquiry_that_shows_that_daraja_has_the_payment_forbids_a_resend(
    outcome: InquiryOutcome,
) -> None:
    """The time of the inquiry does not matter, and "not found" answers do not help."""
    has_it = outcome in (V.PAID, V.FAILED, V.UNDER_WAY)
    assert permitted(inquiries=(*NOT_FOUND, an_inquiry(3, outcome, at=SENT_AT))) is not has_it
    resendable = a_withdrawal(RESENDABLE)
    assert permitted(resendable, (an_inquiry(1, outcome, at=SENT_AT),)) is not has_it


@pytest.mark.parametrize(
    "second", [None, *(outcome for outcome in InquiryOutcome if outcome is not V.NOT_FOUND)]
)
def test_one_not_found_answer_permits_no_resend(second: InquiryOutcome | None) -> None:
    assert not permitted(inquiries=not_found(1))
    assert not permitted(inquiries=(*not_found(1), an_inquiry(2, second, at=TRUSTED_AT)))


def test_not_found_is_trusted_only_if_the_inquiry_was_sent_long_enough_after_the_send() -> None:
    early = not_found(1, at=TRUSTED_AT - INSTANT)
    assert not permitted(inquiries=(*early, *not_found(2)))
    assert permitted(inquiries=(*early, *not_found(2, 3)))


def test_each_further_send_needs_answers_of_its_own() -> None:
    """A "not found" from before the second send proves nothing about that send."""
    attempts = (*sends(UNKNOWN), a_send(UNKNOWN, number=2, at=TRUSTED_AT))
    again = a_withdrawal(attempts=attempts)
    assert not permitted(again)
    later = not_found(3, 4, at=TRUSTED_AT + TIMES.not_found_trusted_after)
    assert permitted(again, (*NOT_FOUND, *later))


def test_a_send_without_an_outcome_counts_as_sent_when_its_lease_ended() -> None:
    lost = a_withdrawal(attempts=(a_send(None, at=SENT_AT, ended=False),))
    assert not permitted(lost)
    assert permitted(lost, not_found(1, 2, at=TRUSTED_AT + TIMES.lease))


@pytest.mark.parametrize(("count", "seconds"), [(1, 30), (2, 60), (3, 120)])
def test_a_send_answered_busy_is_repeated_after_a_back_off_without_inquiries(
    count: int, seconds: int
) -> None:
    payment = a_withdrawal(*[RESENDABLE] * count)
    due = SENT_AT + timedelta(seconds=seconds)
    assert permitted(payment, (), now=due)
    assert not permitted(payment, (), now=due - INSTANT)


def test_a_send_without_effect_beside_a_busy_answer_needs_no_inquiry() -> None:
    assert permitted(a_withdrawal(NOT_ACTED, RESENDABLE), ())


@pytest.mark.parametrize("other", [None, UNKNOWN])
def test_a_busy_answer_beside_an_unknown_outcome_needs_inquiries(
    other: Outcome | None,
) -> None:
    """One busy answer proves nothing about the other send."""
    for payment in (a_withdrawal(other, RESENDABLE), a_withdrawal(RESENDABLE, other)):
        assert not permitted(payment, ())
        assert permitted(payment)


# --- the claim of a resend ------------------------------------------------------------------------


def test_a_permitted_claim_begins_a_numbered_attempt_under_a_lease() -> None:
    decision = decide(CLAIM, a_withdrawal(), *NOT_FOUND)
    after = payment_of(decision)
    assert after.stage is Stage.SUBMITTING
    assert (after.attempt_id, after.next_step) == (SECOND_ATTEMPT, Step.END_LEASE)
    assert after.lease_until == after.next_step_at == NOW + TIMES.lease
    assert [(one.number, one.outcome) for one in after.attempts] == [(1, UNKNOWN), (2, None)]
    assert entry_of(decision) is HistoryEntry.CLAIMED
    assert (decision.attempt_id, event_of(decision)) == (SECOND_ATTEMPT, None)


def test_a_claim_holds_the_brakes_until_its_commit() -> None:
    assert CLAIM.reads is Reads.CLAIM


def test_a_repeated_claim_after_a_lost_answer_to_its_commit_changes_nothing() -> None:
    first = decide(CLAIM, a_withdrawal(), *NOT_FOUND).payment
    again = decide(CLAIM, first, *NOT_FOUND)
    assert (again.payment, entry_of(again)) == (first, None)
