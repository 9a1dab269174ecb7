"""The answer to an inquiry: it counts once, and the decision uses all evidence of the payment."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.changes import Decided, HistoryEntry, Reads
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    A_FAILURE,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    TIMES,
    a_context,
    a_due_payment,
    a_report,
    a_send,
    an_inquiry,
    evidence_of,
)
from tests.decisions import answer_of, detail_of, entry_of, event_of, payment_of

V, S = InquiryOutcome, Stage
SECOND = timedelta(seconds=1)
SENT_AT = NOW - timedelta(minutes=20)
OPEN = (S.AWAITING_RESULT, S.IN_DOUBT)
SILENCE = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)


def an_answer(outcome: InquiryOutcome, *, code: str | None = None, **overrides: Any) -> Report:
    """The report of an answer with this outcome."""
    match outcome:
        case V.PAID:
            return a_report(
                code=code or "0",
                inquiry_outcome=outcome,
                **{"has_amount": False, "amount": None, "receipt": None, **overrides},
            )
        case V.FAILED:
            failure = Failure(A_FAILURE.reason, A_FAILURE.safe_to_retry, code or "1032")
            return a_report(
                ReportedOutcome.FAILURE,
                code=code or "1032",
                failure=failure,
                inquiry_outcome=outcome,
                **overrides,
            )
        case _:
            return a_report(
                ReportedOutcome.UNDECIDED, code=code or "4999", inquiry_outcome=outcome, **overrides
            )


def decide_answer(
    payment: Payment, report: Report | None, *inquiries: Inquiry, number: int = 1, **evidence: Any
) -> Decided:
    change = inquiry_answer_change(PAYMENT_ID, number, report, (), TIMES)
    return change.decide(payment, a_context(evidence=evidence_of(*inquiries, **evidence)))


def test_an_answer_that_comes_by_callback_changes_nothing_yet() -> None:
    payment = a_due_payment()
    assert decide_answer(payment, None, an_inquiry(1)) == Decided(payment=payment)


def test_an_answer_about_an_unknown_payment_changes_nothing() -> None:
    change = inquiry_answer_change(PAYMENT_ID, 1, an_answer(V.PAID), (), TIMES)
    assert change.decide(None, a_context()) == Decided(payment=None)


@pytest.mark.parametrize("outcome", InquiryOutcome)
def test_an_answer_is_recorded_once_with_its_code(outcome: InquiryOutcome) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    answer = an_answer(outcome)
    first = decide_answer(payment, answer, an_inquiry(1))
    assert answer_of(first) == Inquiry(1, NOW, outcome, answer.code)
    again = decide_answer(payment, answer, an_inquiry(1, V.VAGUE))
    assert answer_of(again) is None
    assert answer_of(decide_answer(payment, answer, an_inquiry(1), number=2)) is None


def test_an_answer_without_a_result_changes_neither_the_payment_nor_its_due_time() -> None:
    payment = a_due_payment(Kind.DEPOSIT, next_step_at=NOW + 30 * SECOND)
    for outcome in (V.UNDER_WAY, V.NOT_FOUND, V.NO_RESULT, V.VAGUE, V.NO_ANSWER):
        decision = decide_answer(payment, an_answer(outcome), an_inquiry(1))
        assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)
        assert not decision.is_message_flagged


@pytest.mark.parametrize("stage", OPEN)
def test_a_query_with_code_zero_is_a_success_without_a_receipt(stage: Stage) -> None:
    decision = decide_answer(a_due_payment(Kind.DEPOSIT, stage), an_answer(V.PAID), an_inquiry(1))
    after = payment_of(decision)
    assert (after.stage, after.receipt, after.needs_review) == (S.SUCCEEDED, None, False)
    assert (event_of(decision), detail_of(decision)) == (
        EventType.SUCCEEDED,
        {"provider_code": "0", "by": "inquiry"},
    )


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
def test_the_answer_about_a_completed_payout_adds_its_receipt(kind: Kind) -> None:
    answer = an_answer(
        V.PAID, code="Completed", receipt=RECEIPT, has_amount=True, amount=Decimal("250.00")
    )
    after = payment_of(decide_answer(a_due_payment(kind), answer, an_inquiry(1)))
    assert (after.stage, after.receipt) == (S.SUCCEEDED, RECEIPT)


def test_a_deposit_fails_by_query_only_if_a_second_query_agrees() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    first = decide_answer(payment, an_answer(V.FAILED), an_inquiry(1))
    assert (first.payment, event_of(first), first.disposition) == (payment, None, "not_agreed_yet")
    assert answer_of(first) is not None
    second = decide_answer(
        payment, an_answer(V.FAILED), an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2), number=2
    )
    assert (payment_of(second).stage, event_of(second)) == (S.FAILED, EventType.FAILED)
    assert payment_of(second).failure == A_FAILURE


def test_two_queries_that_report_different_failures_do_not_agree() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    earlier = an_inquiry(1, V.FAILED, code="1037")
    decision = decide_answer(payment, an_answer(V.FAILED), earlier, an_inquiry(2), number=2)
    assert decision.payment == payment


def test_one_query_answered_twice_does_not_agree_with_itself() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    again = decide_answer(payment, an_answer(V.FAILED), an_inquiry(1, V.FAILED, code="1032"))
    assert (again.payment, answer_of(again)) == (payment, None)


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
def test_a_payout_fails_at_once_if_transaction_status_reports_a_failure(kind: Kind) -> None:
    decision = decide_answer(a_due_payment(kind), an_answer(V.FAILED, code="Failed"), an_inquiry(1))
    assert (payment_of(decision).stage, event_of(decision)) == (S.FAILED, EventType.FAILED)


def test_a_failure_of_one_send_keeps_the_due_time_of_inquiries_about_the_others() -> None:
    attempts = (a_send(at=SENT_AT), a_send(number=2, at=SENT_AT))
    payment = a_due_payment(attempts=attempts, next_step_at=NOW + 60 * SECOND)
    decision = decide_answer(payment, an_answer(V.FAILED, code="Failed"), an_inquiry(1))
    assert (payment_of(decision).stage, payment_of(decision).next_step_at) == (
        S.IN_DOUBT,
        payment.next_step_at,
    )


def test_a_failure_that_a_query_reports_after_a_success_is_a_contradiction() -> None:
    """STK query has reported failures of payments whose callback had code 0 (daraja.md §3)."""
    payment = a_due_payment(Kind.DEPOSIT, S.SUCCEEDED)
    decision = decide_answer(
        payment, an_answer(V.FAILED), an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2), number=2
    )
    assert (decision.payment, event_of(decision)) == (replace(payment, needs_review=True), None)
    assert answer_of(decision) is not None


def test_a_success_that_a_later_inquiry_finds_is_a_correction() -> None:
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE)
    decision = decide_answer(payment, an_answer(V.PAID), an_inquiry(1))
    after = payment_of(decision)
    assert (after.stage, after.failure, after.needs_review) == (S.SUCCEEDED, None, True)
    assert (event_of(decision), decision.is_message_flagged) == (EventType.CORRECTED, True)


def test_a_later_inquiry_without_a_success_keeps_the_failure() -> None:
    payment = a_due_payment(Kind.DEPOSIT, S.FAILED, failure=SILENCE)
    for outcome in (V.FAILED, V.NO_RESULT, V.VAGUE):
        decision = decide_answer(
            payment,
            an_answer(outcome),
            an_inquiry(1, V.FAILED, code="1032"),
            an_inquiry(2),
            number=2,
        )
        assert (payment_of(decision).failure, event_of(decision)) == (SILENCE, None)


def silent_answers(count: int) -> list[Inquiry]:
    start = SENT_AT + TIMES.result_window
    return [
        an_inquiry(n, V.NO_RESULT, at=start + n * TIMES.inquiry_first_after)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("stage", OPEN)
def test_the_answer_that_completes_the_silence_fails_the_deposit(stage: Stage) -> None:
    payment = a_due_payment(Kind.DEPOSIT, stage)
    last = an_inquiry(3, at=SENT_AT + TIMES.result_window + 3 * TIMES.inquiry_first_after)
    decision = decide_answer(payment, an_answer(V.NO_RESULT), *silent_answers(2), last, number=3)
    after = payment_of(decision)
    assert (after.stage, after.failure) == (S.FAILED, SILENCE)
    assert (entry_of(decision), event_of(decision)) == (
        HistoryEntry.NO_RESULT_CONFIRMED,
        EventType.FAILED,
    )
    assert answer_of(decision) == Inquiry(3, NOW, V.NO_RESULT, "4999")


@pytest.mark.parametrize("outcome", [V.PAID, V.FAILED, V.NO_ANSWER])
def test_an_answer_that_is_not_silence_does_not_complete_the_silence(
    outcome: InquiryOutcome,
) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    last = an_inquiry(3, at=SENT_AT + TIMES.result_window + 3 * TIMES.inquiry_first_after)
    decision = decide_answer(payment, an_answer(outcome), *silent_answers(2), last, number=3)
    assert entry_of(decision) != HistoryEntry.NO_RESULT_CONFIRMED


def test_a_result_outranks_the_silence_before_it() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    paid = decide_answer(payment, an_answer(V.PAID), *silent_answers(3), an_inquiry(4), number=4)
    assert payment_of(paid).stage is S.SUCCEEDED
    agreeing = (an_inquiry(4, V.FAILED, code="1032"), an_inquiry(5))
    failed = decide_answer(payment, an_answer(V.FAILED), *silent_answers(3), *agreeing, number=5)
    assert payment_of(failed).failure == A_FAILURE


def test_silence_does_not_fail_a_deposit_while_a_stored_message_claims_success() -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    last = an_inquiry(4, at=NOW)
    decision = decide_answer(
        payment, an_answer(V.NO_RESULT), *silent_answers(3), last, number=4, claims_success=True
    )
    assert decision.payment == payment


def test_an_answer_looks_up_the_payments_with_its_ids_and_receipt() -> None:
    ids = frozenset({("checkout_request_id", "ws_CO_1")})
    change = inquiry_answer_change(
        PAYMENT_ID, 1, an_answer(V.PAID, ids=ids, receipt=RECEIPT), (), TIMES
    )
    assert (change.ids, change.receipt, change.reads) == (ids, RECEIPT, Reads.EVIDENCE)
    assert inquiry_answer_change(PAYMENT_ID, 1, None, (), TIMES).ids == frozenset()


def test_queries_do_not_fail_a_deposit_whose_stored_callback_claims_success() -> None:
    """A query must never overwrite a success callback (daraja.md §3).

    If the callback has no receipt, the payment waits for a person.
    """
    payment = a_due_payment(Kind.DEPOSIT, needs_review=True)
    earlier = (an_inquiry(1, V.FAILED, code="1032"), an_inquiry(2))
    decision = decide_answer(payment, an_answer(V.FAILED), *earlier, number=2, claims_success=True)
    assert (decision.payment, event_of(decision)) == (payment, None)
