"""The first answer to an inquiry counts, and the decision uses all evidence of the payment.

STK query answers at once. Transaction Status answers by a callback to the inquiry's own address.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import IdKind
from domain.changes import Decided, Disposition, HistoryEntry, Reads
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change
from domain.payment import Payment
from domain.report import Report
from domain.stages import Stage
from tests.builders import (
    A_FAILURE,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_due_payment,
    a_send,
    an_inquiry,
)
from tests.decisions import answer_of, entry_of, event_of, payment_of
from tests.unit.deciding import (
    ANSWERED_FAILED,
    OWN_ID,
    QUERY_PAID,
    SILENCE,
    STATUS_PAID,
    an_undecided_answer,
    decide_callback,
    decide_inquiry_answer,
)

S, V = Stage, InquiryOutcome
SENT_AT = NOW - timedelta(minutes=20)
OPEN = (S.AWAITING_RESULT, S.IN_DOUBT)
WITHOUT_RESULT = (V.UNDER_WAY, V.NOT_FOUND, V.NO_RESULT, V.VAGUE, V.NO_ANSWER)
ANSWERS = {
    V.PAID: STATUS_PAID,
    V.FAILED: ANSWERED_FAILED,
    **{outcome: an_undecided_answer(outcome) for outcome in WITHOUT_RESULT},
}
# Inquiry 1 was answered "failed", and inquiry 2 is not answered yet.
FAILED_ONCE = (an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2))


def decide_answer(payment: Payment, report: Report, *inquiries: Inquiry) -> Decided:
    """Decides about the newest inquiry's answer: a direct answer for a deposit, else a callback."""
    number = inquiries[-1].number
    if payment.kind is Kind.DEPOSIT:
        return decide_inquiry_answer(payment, report, *inquiries, number=number)
    return decide_callback(payment, report, *inquiries, operation=f"status-{number}")


def test_an_answer_that_comes_by_callback_changes_nothing_yet() -> None:
    payment = a_due_payment()
    assert decide_inquiry_answer(payment, None, an_inquiry(1)) == Decided(payment=payment)


def test_an_answer_about_an_unknown_payment_changes_nothing() -> None:
    assert decide_inquiry_answer(None, QUERY_PAID) == Decided(payment=None)


def test_an_answer_looks_up_the_payments_with_its_ids_and_receipt() -> None:
    ids = frozenset({(IdKind.CHECKOUT_REQUEST, "ws_CO_1")})
    report = replace(QUERY_PAID, ids=ids, receipt=RECEIPT)
    change = inquiry_answer_change(PAYMENT_ID, 1, report, (), TIMES)
    assert (change.ids, change.receipt, change.reads) == (ids, RECEIPT, Reads.EVIDENCE)
    assert inquiry_answer_change(PAYMENT_ID, 1, None, (), TIMES).ids == frozenset()


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_only_the_first_answer_to_a_stored_inquiry_counts(
    outcome: InquiryOutcome, kind: Kind
) -> None:
    payment, answer = a_due_payment(kind), ANSWERS[outcome]
    stored = Inquiry(1, NOW, outcome, answer.code)
    assert answer_of(decide_answer(payment, answer, an_inquiry(1))) == stored
    assert answer_of(decide_answer(payment, answer, an_inquiry(1, V.VAGUE))) is None
    assert answer_of(decide_inquiry_answer(payment, answer, an_inquiry(1), number=2)) is None
    assert answer_of(decide_callback(payment, answer, operation="status-2")) is None


def test_the_result_in_a_second_answer_to_an_inquiry_is_still_used() -> None:
    """The service believes the result, because it came to the address of the inquiry."""
    decision = decide_answer(a_due_payment(), STATUS_PAID, an_inquiry(1, V.NO_ANSWER))
    assert payment_of(decision).stage is S.SUCCEEDED


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("outcome", WITHOUT_RESULT)
def test_an_answer_without_a_result_changes_neither_the_payment_nor_its_due_time(
    outcome: InquiryOutcome, kind: Kind
) -> None:
    """The next inquiry keeps its due time, because an answer does not bring it forward."""
    payment = a_due_payment(kind, next_step_at=NOW + timedelta(minutes=2))
    decision = decide_answer(payment, ANSWERS[outcome], an_inquiry(1))
    assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)
    assert decision.disposition is Disposition.INQUIRY_ANSWERED
    assert not decision.is_message_flagged


@pytest.mark.parametrize(
    ("inquiries", "is_agreed"),
    [
        ((an_inquiry(1),), False),
        (FAILED_ONCE, True),
        ((an_inquiry(1, V.FAILED, code="1037"), an_inquiry(2)), False),
        ((an_inquiry(1, V.NO_RESULT, code="1032"), an_inquiry(2)), False),
        # a failure with another code is between the two
        ((FAILED_ONCE[0], an_inquiry(2, V.FAILED, code="1"), an_inquiry(3)), True),
        # a second answer to the same inquiry confirms nothing
        ((FAILED_ONCE[0],), False),
    ],
)
def test_a_deposit_fails_by_query_only_if_a_second_query_agrees(
    inquiries: tuple[Inquiry, ...], is_agreed: bool
) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    decision = decide_answer(payment, ANSWERED_FAILED, *inquiries)
    if is_agreed:
        assert (payment_of(decision).failure, event_of(decision)) == (A_FAILURE, EventType.FAILED)
    else:
        assert (decision.payment, event_of(decision)) == (payment, None)
        assert decision.disposition is Disposition.NOT_AGREED_YET


@pytest.mark.parametrize(
    ("ids", "stage"), [(frozenset(), S.IN_DOUBT), (frozenset({OWN_ID}), S.FAILED)]
)
def test_a_failure_is_about_all_sends_only_if_it_names_the_payment_s_own_id(
    ids: Any, stage: Stage
) -> None:
    """A failure without this id is about one send. The next inquiry then keeps its due time."""
    attempts = (a_send(at=SENT_AT), a_send(number=2, at=SENT_AT))
    payment = a_due_payment(attempts=attempts, next_step_at=NOW + timedelta(minutes=1))
    after = payment_of(decide_answer(payment, replace(ANSWERED_FAILED, ids=ids), an_inquiry(1)))
    assert after.stage is stage
    if stage is S.IN_DOUBT:
        assert after.next_step_at == payment.next_step_at


@pytest.mark.parametrize(("kind", "code"), [(Kind.DEPOSIT, "1032"), (Kind.WITHDRAWAL, "Reversed")])
def test_a_failure_that_an_answer_reports_after_a_success_is_a_contradiction(
    kind: Kind, code: str
) -> None:
    """STK query has reported failures of payments whose callback had code 0 (daraja.md §3)."""
    payment = a_due_payment(kind, S.SUCCEEDED)
    decision = decide_answer(payment, replace(ANSWERED_FAILED, code=code), *FAILED_ONCE)
    assert (decision.payment, event_of(decision)) == (replace(payment, needs_review=True), None)
    assert decision.disposition is Disposition.CONTRADICTION
    assert answer_of(decision) is not None


def test_queries_do_not_fail_a_deposit_whose_stored_callback_claims_success() -> None:
    """A query must never overwrite a success callback (daraja.md §3).

    If the callback has no receipt, the payment waits for a person.
    """
    payment = a_due_payment(Kind.DEPOSIT, needs_review=True)
    decision = decide_inquiry_answer(
        payment, ANSWERED_FAILED, *FAILED_ONCE, number=2, claims_success=True
    )
    assert (decision.payment, event_of(decision)) == (payment, None)


def test_a_success_that_a_later_inquiry_finds_is_a_correction() -> None:
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE)
    decision = decide_answer(payment, QUERY_PAID, an_inquiry(1))
    after = payment_of(decision)
    assert (after.stage, after.failure, after.needs_review) == (S.SUCCEEDED, None, True)
    assert (event_of(decision), decision.is_message_flagged) == (EventType.CORRECTED, True)


@pytest.mark.parametrize("outcome", [V.FAILED, V.NO_RESULT, V.VAGUE])
def test_a_later_inquiry_without_a_success_keeps_the_failure(outcome: InquiryOutcome) -> None:
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE)
    decision = decide_answer(payment, ANSWERS[outcome], *FAILED_ONCE)
    assert (payment_of(decision).failure, event_of(decision)) == (SILENCE, None)


# --- silence --------------------------------------------------------------------------------------


def silent_answers(count: int) -> list[Inquiry]:
    """Inquiries after the window whose answers have no result, and one without an answer."""
    start, step = SENT_AT + TIMES.result_window, TIMES.inquiry_first_after
    answered = [an_inquiry(n, V.NO_RESULT, at=start + n * step) for n in range(1, count + 1)]
    return [*answered, an_inquiry(count + 1, at=start + (count + 1) * step)]


@pytest.mark.parametrize("stage", OPEN)
def test_the_answer_that_completes_the_silence_fails_the_deposit(stage: Stage) -> None:
    payment = a_due_payment(Kind.DEPOSIT, stage)
    decision = decide_answer(payment, ANSWERS[V.NO_RESULT], *silent_answers(2))
    after = payment_of(decision)
    assert (after.stage, after.failure) == (S.FAILED, SILENCE)
    assert entry_of(decision) is HistoryEntry.NO_RESULT_CONFIRMED
    assert event_of(decision) is EventType.FAILED
    assert answer_of(decision) == Inquiry(3, NOW, V.NO_RESULT, "4999")


@pytest.mark.parametrize("outcome", [V.PAID, V.FAILED, V.NO_ANSWER])
def test_an_answer_that_is_not_silence_does_not_complete_the_silence(
    outcome: InquiryOutcome,
) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    decision = decide_answer(payment, ANSWERS[outcome], *silent_answers(2))
    assert entry_of(decision) != HistoryEntry.NO_RESULT_CONFIRMED


def test_a_result_outranks_the_silence_before_it() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    paid = decide_answer(payment, QUERY_PAID, *silent_answers(3))
    assert payment_of(paid).stage is S.SUCCEEDED
    *silent, last = silent_answers(4)
    agreeing = replace(silent.pop(), outcome=V.FAILED, code="1032")
    failed = decide_answer(payment, ANSWERED_FAILED, *silent, agreeing, last)
    assert payment_of(failed).failure == A_FAILURE
