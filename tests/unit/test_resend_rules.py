"""When a withdrawal in doubt may be sent again.

Each condition of rules.md §15, if it is not met, forbids the resend by itself.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.attempts import Attempt, Outcome
from domain.changes import Decided, HistoryEntry, Reads
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
    NOW,
    PAYMENT_ID,
    TIMES,
    a_context,
    a_payment,
    a_send,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.decisions import entry_of, event_of

V = InquiryOutcome
UNKNOWN, NOT_ACTED, RESENDABLE = Outcome.UNKNOWN, Outcome.NOT_ACTED, Outcome.RESENDABLE
INSTANT = timedelta(microseconds=1)
SENT_AT = NOW - timedelta(minutes=20)
TRUSTED_AT = SENT_AT + TIMES.not_found_trusted_after
NOT_FOUND = (an_inquiry(1, V.NOT_FOUND, at=TRUSTED_AT), an_inquiry(2, V.NOT_FOUND, at=TRUSTED_AT))
DAY = EXPIRES_AFTER[Kind.WITHDRAWAL]


def sends(*outcomes: Outcome | None) -> tuple[Attempt, ...]:
    """Attempts that all ended twenty minutes ago."""
    return tuple(
        a_send(outcome, number=number, at=SENT_AT) for number, outcome in enumerate(outcomes, 1)
    )


def a_withdrawal(**overrides: Any) -> Payment:
    """A withdrawal in doubt that may be sent again, except for `overrides`."""
    fields = {
        "kind": Kind.WITHDRAWAL,
        "stage": Stage.IN_DOUBT,
        "created_at": SENT_AT - timedelta(minutes=1),
        "attempts": sends(UNKNOWN),
    }
    return a_payment(**{**fields, **overrides})


def permitted(
    payment: Payment | None = None,
    inquiries: tuple[Inquiry, ...] = NOT_FOUND,
    *,
    now: datetime = NOW,
    **evidence: Any,
) -> bool:
    return may_be_resent(
        payment or a_withdrawal(), evidence_of(*inquiries, **evidence), now, TIMES, ACCOUNTS
    )


def test_two_trusted_not_found_answers_permit_a_resend() -> None:
    assert permitted()


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
def test_no_other_kind_is_ever_sent_again(kind: Kind) -> None:
    """They have no id whose second use Daraja refuses."""
    ids: dict[str, Any] = {"checkout_request_id": "ws_CO_1", "originator_conversation_id": "9d20-1"}
    for outcome in (UNKNOWN, RESENDABLE):
        payment = a_payment(
            kind=kind, stage=Stage.IN_DOUBT, attempts=(a_send(outcome, at=SENT_AT, **ids),)
        )
        assert not permitted(payment)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.IN_DOUBT])
def test_only_a_payment_in_doubt_is_sent_again(stage: Stage) -> None:
    assert not permitted(a_withdrawal(stage=stage))


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
    assert permitted(a_withdrawal(attempts=sends(*outcomes))) is expected


@pytest.mark.parametrize(
    ("early", "expected"), [(INSTANT, True), (timedelta(0), False), (-timedelta(days=9), False)]
)
def test_an_expired_payment_is_not_sent_again(early: timedelta, expected: bool) -> None:
    created_at = NOW - DAY + early
    assert permitted(a_withdrawal(created_at=created_at)) is expected


def test_while_payouts_are_stopped_nothing_is_sent_again() -> None:
    assert not permitted(payouts_are_stopped=True)
    assert not permitted(a_withdrawal(attempts=sends(RESENDABLE)), (), payouts_are_stopped=True)


def test_only_a_probe_is_sent_again_while_its_operation_is_held() -> None:
    own = a_withdrawal().rules.operation
    others = frozenset(Operation) - {own}
    assert not permitted(held_operations=frozenset({own}))
    assert permitted(held_operations=frozenset({own}), probes_due=frozenset({own}))
    assert permitted(held_operations=others)


def test_any_stored_message_forbids_a_resend() -> None:
    assert not permitted(has_message=True)
    assert not permitted(a_withdrawal(attempts=sends(RESENDABLE)), (), has_message=True)


@pytest.mark.parametrize(
    "outcome", [Outcome.ACKNOWLEDGED, Outcome.DUPLICATE, Outcome.REFUSED, Outcome.FAILED]
)
def test_any_answer_that_shows_that_daraja_has_the_payment_forbids_a_resend(
    outcome: Outcome,
) -> None:
    for other in (UNKNOWN, RESENDABLE, NOT_ACTED):
        assert not permitted(a_withdrawal(attempts=sends(outcome, other)))
        assert not permitted(a_withdrawal(attempts=sends(other, outcome)))


@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_an_inquiry_that_shows_that_daraja_has_the_payment_forbids_a_resend(
    outcome: InquiryOutcome,
) -> None:
    """Also if other inquiries were answered "not found", and whenever it was sent."""
    has_it = outcome in (V.PAID, V.FAILED, V.UNDER_WAY)
    assert permitted(inquiries=(*NOT_FOUND, an_inquiry(3, outcome, at=SENT_AT))) is not has_it
    resendable = a_withdrawal(attempts=sends(RESENDABLE))
    assert permitted(resendable, (an_inquiry(1, outcome, at=SENT_AT),)) is not has_it


@pytest.mark.parametrize(
    "second", [None, *(outcome for outcome in InquiryOutcome if outcome is not V.NOT_FOUND)]
)
def test_one_not_found_answer_permits_no_resend(second: InquiryOutcome | None) -> None:
    assert not permitted(inquiries=NOT_FOUND[:1])
    assert not permitted(inquiries=(NOT_FOUND[0], an_inquiry(2, second, at=TRUSTED_AT)))


def test_one_inquiry_answered_twice_is_one_answer() -> None:
    evidence = evidence_of(an_inquiry(1, at=TRUSTED_AT))
    twice = evidence.with_answer(1, V.NOT_FOUND, "SFC_IC0003").with_answer(
        1, V.NOT_FOUND, "SFC_IC0003"
    )
    assert not may_be_resent(a_withdrawal(), twice, NOW, TIMES, ACCOUNTS)


def test_not_found_is_trusted_only_if_the_inquiry_was_sent_long_enough_after_the_send() -> None:
    assert permitted(inquiries=tuple(an_inquiry(n, V.NOT_FOUND, at=TRUSTED_AT) for n in (1, 2)))
    early = an_inquiry(1, V.NOT_FOUND, at=TRUSTED_AT - INSTANT)
    assert not permitted(inquiries=(early, NOT_FOUND[1]))
    assert permitted(inquiries=(early, NOT_FOUND[1], an_inquiry(3, V.NOT_FOUND, at=TRUSTED_AT)))


def test_each_further_send_needs_answers_of_its_own() -> None:
    """A "not found" from before the second send proves nothing about that send."""
    again = a_withdrawal(attempts=(*sends(UNKNOWN), a_send(UNKNOWN, number=2, at=TRUSTED_AT)))
    assert not permitted(again)
    later = TRUSTED_AT + TIMES.not_found_trusted_after
    assert permitted(
        again,
        (*NOT_FOUND, an_inquiry(3, V.NOT_FOUND, at=later), an_inquiry(4, V.NOT_FOUND, at=later)),
    )


def test_a_send_without_an_outcome_counts_as_sent_when_its_lease_ended() -> None:
    lost = a_withdrawal(attempts=(a_send(None, at=SENT_AT, ended=False),))
    assert not permitted(lost)
    later = TRUSTED_AT + TIMES.lease
    assert permitted(lost, tuple(an_inquiry(n, V.NOT_FOUND, at=later) for n in (1, 2)))


@pytest.mark.parametrize(("count", "seconds"), [(1, 30), (2, 60), (3, 120)])
def test_a_send_answered_busy_is_repeated_after_a_back_off_without_inquiries(
    count: int, seconds: int
) -> None:
    payment = a_withdrawal(attempts=sends(*[RESENDABLE] * count))
    due = SENT_AT + timedelta(seconds=seconds)
    assert permitted(payment, (), now=due)
    assert not permitted(payment, (), now=due - INSTANT)


def test_a_send_without_effect_beside_a_busy_one_needs_no_inquiry() -> None:
    assert permitted(a_withdrawal(attempts=sends(NOT_ACTED, RESENDABLE)), ())


@pytest.mark.parametrize("other", [None, UNKNOWN])
def test_a_busy_answer_beside_an_unknown_one_needs_inquiries_like_any_other(
    other: Outcome | None,
) -> None:
    """One busy answer proves nothing about the other send."""
    for attempts in (sends(other, RESENDABLE), sends(RESENDABLE, other)):
        assert not permitted(a_withdrawal(attempts=attempts), ())
        assert permitted(a_withdrawal(attempts=attempts))


# --- the claim of a resend ------------------------------------------------------------------------

SECOND_ATTEMPT = an_attempt_id(2)


def claimed(
    payment: Payment | None, inquiries: tuple[Inquiry, ...] = NOT_FOUND, **evidence: Any
) -> Decided:
    change = resend_claim_change(PAYMENT_ID, SECOND_ATTEMPT, TIMES, ACCOUNTS)
    return change.decide(payment, a_context(evidence=evidence_of(*inquiries, **evidence)))


def test_a_permitted_claim_begins_a_numbered_attempt_under_a_lease() -> None:
    decision = claimed(a_withdrawal())
    after = decision.payment
    assert after is not None
    assert after.stage is Stage.SUBMITTING
    assert (after.attempt_id, after.next_step) == (SECOND_ATTEMPT, Step.END_LEASE)
    assert after.lease_until == after.next_step_at == NOW + TIMES.lease
    assert [(attempt.number, attempt.outcome) for attempt in after.attempts] == [
        (1, UNKNOWN),
        (2, None),
    ]
    assert entry_of(decision) is HistoryEntry.CLAIMED
    assert (decision.attempt_id, event_of(decision)) == (SECOND_ATTEMPT, None)


def test_a_claim_holds_the_brakes_until_its_commit() -> None:
    assert resend_claim_change(PAYMENT_ID, SECOND_ATTEMPT, TIMES, ACCOUNTS).reads is Reads.CLAIM


FORBIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "payouts stopped": ({}, {"payouts_are_stopped": True}),
    "a message came": ({}, {"has_message": True}),
    "one answer": ({}, {"inquiries": NOT_FOUND[:1]}),
    "for review": ({"needs_review": True}, {}),
    "too old": ({"created_at": NOW - DAY}, {}),
    "four sends": ({"attempts": sends(*[UNKNOWN] * 4)}, {}),
    "another has it": ({"stage": Stage.SUBMITTING, "attempts": sends(UNKNOWN, None)}, {}),
    "acknowledged": ({"stage": Stage.AWAITING_RESULT, "attempts": sends(Outcome.ACKNOWLEDGED)}, {}),
    "succeeded": ({"stage": Stage.SUCCEEDED}, {}),
    "failed": ({"stage": Stage.FAILED}, {}),
    "proved unsent": ({"stage": Stage.ACCEPTED, "attempts": sends(NOT_ACTED)}, {}),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_a_resend_that_is_forbidden_when_it_is_claimed_changes_nothing(case: str) -> None:
    """An answer, a final result or a stop may have arrived since the worker read the payment."""
    overrides, evidence = FORBIDDEN[case]
    payment = a_withdrawal(**overrides)
    decision = claimed(payment, **evidence)
    assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)


def test_a_repeated_claim_after_a_lost_answer_to_its_commit_changes_nothing() -> None:
    first = claimed(a_withdrawal()).payment
    again = claimed(first)
    assert (again.payment, entry_of(again)) == (first, None)


def test_a_payment_that_is_not_stored_is_not_claimed() -> None:
    assert claimed(None).payment is None
