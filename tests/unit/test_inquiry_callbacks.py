"""Answers to status inquiries, by callback: each counts once and is evidence of our credential."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.adapters.daraja.reports import UNREADABLE
from domain.attempts import IdKind, Outcome
from domain.callback_address import (
    PAYMENT_OPERATIONS,
    inquiry_number,
    is_operation,
    is_timeout,
    make_address,
    make_token,
    status_operation,
)
from domain.changes import Decided, Disposition, Reads
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import RULES, Kind, kinds_that
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    A_FAILURE,
    NOW,
    PAYMENT_ID,
    RECEIPT,
    a_callback,
    a_context,
    a_due_payment,
    a_report,
    a_send,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.decisions import (
    answer_of,
    breaker_reason_of,
    credential_accepted_at,
    entry_of,
    event_of,
    payment_of,
)

D, S, V = Disposition, Stage, InquiryOutcome
PAYOUTS = kinds_that(lambda rules: rules.moves_money_out)
ASKED_AT = NOW - timedelta(minutes=1)
OWN_ID = frozenset({(IdKind.ORIGINATOR_CONVERSATION, str(PAYMENT_ID))})
COMPLETED = a_report(code="Completed", inquiry_outcome=V.PAID, amount=Decimal("250.00"))
FAILED = a_report(
    ReportedOutcome.FAILURE, code="Failed", failure=A_FAILURE, inquiry_outcome=V.FAILED
)
UNDER_WAY = a_report(ReportedOutcome.UNDECIDED, code="Pending", inquiry_outcome=V.UNDER_WAY)
NOT_FOUND = a_report(ReportedOutcome.UNDECIDED, code="SFC_IC0003", inquiry_outcome=V.NOT_FOUND)
NO_ANSWER = a_report(ReportedOutcome.UNDECIDED, code="26", inquiry_outcome=V.NO_ANSWER)
WRONG_CREDENTIAL = a_report(
    ReportedOutcome.UNDECIDED, code="2001", inquiry_outcome=V.NO_ANSWER, refuses_credential=True
)


def decide_callback(
    payment: Payment | None,
    report: Report,
    *inquiries: Inquiry,
    operation: str = "status-1",
    source_allowed: bool = True,
    **context: Any,
) -> Decided:
    change = callback_change(
        PAYMENT_ID, a_callback(operation=operation, source_allowed=source_allowed), report
    )
    return change.decide(payment, a_context(evidence=evidence_of(*inquiries), **context))


INQUIRY = an_inquiry(1, at=ASKED_AT)


@pytest.mark.parametrize("kind", PAYOUTS)
def test_a_completed_payout_succeeds_with_the_receipt_of_the_answer(kind: Kind) -> None:
    decision = decide_callback(a_due_payment(kind), COMPLETED, INQUIRY)
    assert (payment_of(decision).stage, payment_of(decision).receipt) == (S.SUCCEEDED, RECEIPT)
    assert (event_of(decision), decision.disposition) == (EventType.SUCCEEDED, D.FINALIZED)
    assert answer_of(decision) == Inquiry(1, NOW, V.PAID, "Completed")


@pytest.mark.parametrize(
    "report", [UNDER_WAY, NOT_FOUND, NO_ANSWER, WRONG_CREDENTIAL], ids=lambda report: report.code
)
@pytest.mark.parametrize("kind", PAYOUTS)
def test_an_answer_without_a_result_is_recorded_and_changes_no_payment(
    kind: Kind, report: Report
) -> None:
    """The next inquiry keeps its due time, because an answer does not bring it forward."""
    payment = a_due_payment(kind, next_step_at=NOW + timedelta(minutes=2))
    decision = decide_callback(payment, report, INQUIRY)
    assert (decision.payment, entry_of(decision), decision.is_message_flagged) == (
        payment,
        None,
        False,
    )
    assert decision.disposition is D.INQUIRY_ANSWERED
    assert answer_of(decision) == Inquiry(1, NOW, report.inquiry_outcome, report.code)


@pytest.mark.parametrize(
    "report", [COMPLETED, FAILED, UNDER_WAY, NOT_FOUND, NO_ANSWER], ids=lambda report: report.code
)
def test_only_the_first_answer_to_a_stored_inquiry_counts(report: Report) -> None:
    for inquiries in ((), (an_inquiry(2, at=ASKED_AT),), (an_inquiry(1, V.VAGUE, at=ASKED_AT),)):
        assert answer_of(decide_callback(a_due_payment(), report, *inquiries)) is None


def test_the_result_in_a_second_answer_to_an_inquiry_is_still_used() -> None:
    """The service believes it because of its address. Only the first answer is counted."""
    decision = decide_callback(a_due_payment(), COMPLETED, an_inquiry(1, V.NO_ANSWER, at=ASKED_AT))
    assert payment_of(decision).stage is S.SUCCEEDED


def test_a_failure_with_the_payment_s_own_id_fails_every_send() -> None:
    attempts = (a_send(at=ASKED_AT), a_send(number=2, at=ASKED_AT))
    payment = a_due_payment(attempts=attempts)
    assert payment_of(decide_callback(payment, FAILED, INQUIRY)).stage is S.IN_DOUBT
    decision = decide_callback(payment, replace(FAILED, ids=OWN_ID), INQUIRY)
    assert (payment_of(decision).stage, event_of(decision)) == (S.FAILED, EventType.FAILED)
    assert [attempt.outcome for attempt in payment_of(decision).attempts] == [Outcome.FAILED] * 2


@pytest.mark.parametrize(
    ("overrides", "disposition"),
    [
        (
            {"ids": frozenset({(IdKind.ORIGINATOR_CONVERSATION, "of-another-payment")})},
            D.IDS_DIFFER,
        ),
        ({"amount": Decimal(251)}, D.AMOUNT_DIFFERS),
        ({"amount": None}, D.AMOUNT_DIFFERS),
    ],
)
def test_an_answer_about_another_payment_or_amount_is_flagged_and_finalizes_nothing(
    overrides: dict[str, Any], disposition: Disposition
) -> None:
    for report in (COMPLETED, replace(FAILED, has_amount=True, amount=Decimal(250))):
        payment = a_due_payment()
        decision = decide_callback(payment, replace(report, **overrides), INQUIRY)
        assert decision.payment == replace(payment, needs_review=True)
        assert (decision.disposition, decision.is_message_flagged, event_of(decision)) == (
            disposition,
            True,
            None,
        )


def test_an_unreadable_answer_is_flagged_and_answers_no_inquiry() -> None:
    payment = a_due_payment()
    decision = decide_callback(payment, UNREADABLE, INQUIRY)
    assert (decision.payment, decision.disposition, decision.is_message_flagged) == (
        payment,
        D.UNREADABLE,
        True,
    )
    assert (answer_of(decision), credential_accepted_at(decision)) == (None, None)


@pytest.mark.parametrize("operation", ["status-1", "status-1-timeout"])
@pytest.mark.parametrize(
    "report", [COMPLETED, FAILED, NOT_FOUND, WRONG_CREDENTIAL], ids=lambda report: report.code
)
def test_an_answer_from_a_wrong_source_only_brings_the_next_inquiry_forward(
    report: Report, operation: str
) -> None:
    payment = a_due_payment(next_step_at=NOW + timedelta(minutes=2))
    decision = decide_callback(payment, report, INQUIRY, operation=operation, source_allowed=False)
    assert decision.payment == replace(payment, next_step_at=NOW)
    assert (decision.disposition, decision.is_message_flagged) == (D.WRONG_SOURCE, True)
    assert (
        answer_of(decision),
        breaker_reason_of(decision),
        credential_accepted_at(decision),
    ) == (None, None, None)


@pytest.mark.parametrize("stage", Stage)
def test_a_time_out_of_an_inquiry_changes_nothing(stage: Stage) -> None:
    payment = a_due_payment(stage=stage)
    decision = decide_callback(
        payment, a_report(ReportedOutcome.TIMEOUT), INQUIRY, operation="status-1-timeout"
    )
    assert (decision.payment, entry_of(decision), answer_of(decision)) == (payment, None, None)
    assert (decision.disposition, decision.is_message_flagged) == (D.INQUIRY_ANSWERED, False)
    # The queue was slow, so M-PESA did not read the credential.
    assert credential_accepted_at(decision) is None


@pytest.mark.parametrize("operation", ["status-1", "status-1-timeout"])
def test_a_status_answer_about_a_deposit_is_flagged_and_not_used(operation: str) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    decision = decide_callback(payment, COMPLETED, INQUIRY, operation=operation)
    assert (decision.payment, decision.disposition, decision.is_message_flagged) == (
        payment,
        D.OTHER_OPERATION,
        True,
    )
    assert answer_of(decision) is None


@pytest.mark.parametrize("operation", ["status-1", "status-1-timeout"])
def test_an_answer_about_an_unknown_payment_is_flagged(
    operation: str,
) -> None:
    decision = decide_callback(None, COMPLETED, operation=operation)
    assert (decision.payment, decision.disposition, decision.is_message_flagged) == (
        None,
        D.UNKNOWN_PAYMENT,
        True,
    )


def test_a_reversal_after_a_success_needs_a_person() -> None:
    payment = a_due_payment(stage=S.SUCCEEDED)
    decision = decide_callback(payment, replace(FAILED, code="Reversed"), INQUIRY)
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, event_of(decision)) == (D.CONTRADICTION, None)


# --- the breaker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [S.AWAITING_RESULT, S.IN_DOUBT, S.SUCCEEDED, S.FAILED])
def test_a_refused_credential_opens_the_breaker_in_every_stage(stage: Stage) -> None:
    decision = decide_callback(a_due_payment(stage=stage), WRONG_CREDENTIAL, INQUIRY)
    assert breaker_reason_of(decision) == f"result 2001 for payment {PAYMENT_ID}"
    assert credential_accepted_at(decision) is None


@pytest.mark.parametrize("kind", PAYOUTS)
def test_a_payout_s_result_that_refuses_the_credential_opens_the_breaker(kind: Kind) -> None:
    operation = RULES[kind].result_operation
    report = a_report(ReportedOutcome.FAILURE, code="8006", refuses_credential=True)
    decision = decide_callback(a_due_payment(kind), report, operation=operation)
    assert breaker_reason_of(decision) == f"result 8006 for payment {PAYMENT_ID}"
    assert payment_of(decision).stage is S.FAILED
    assert (
        breaker_reason_of(
            decide_callback(
                a_due_payment(kind), a_report(ReportedOutcome.FAILURE), operation=operation
            )
        )
        is None
    )


def test_a_result_with_another_payment_s_id_opens_no_breaker() -> None:
    report = replace(
        WRONG_CREDENTIAL, ids=frozenset({(IdKind.ORIGINATOR_CONVERSATION, "of-another-payment")})
    )
    assert breaker_reason_of(decide_callback(a_due_payment(), report, INQUIRY)) is None


@pytest.mark.parametrize(
    "report", [COMPLETED, FAILED, UNDER_WAY, NOT_FOUND], ids=lambda report: report.code
)
def test_an_answer_proves_the_credential_at_the_time_of_the_inquiry(
    report: Report,
) -> None:
    """Not at the time of the answer, because a newer refusal may have opened the breaker since."""
    decision = decide_callback(
        a_due_payment(), report, an_inquiry(1, at=ASKED_AT), an_inquiry(2, at=NOW)
    )
    assert credential_accepted_at(decision) == ASKED_AT


def test_an_answer_without_an_inquiry_proves_nothing_about_the_credential() -> None:
    assert credential_accepted_at(decide_callback(a_due_payment(), COMPLETED)) is None


def test_a_payout_s_own_result_proves_nothing_about_the_credential() -> None:
    """It may be old."""
    decision = decide_callback(a_due_payment(), a_report(), operation="withdrawal")
    assert (credential_accepted_at(decision), answer_of(decision)) == (None, None)


def test_only_a_callback_of_an_inquiry_reads_the_evidence() -> None:
    for operation, expected in (
        ("status-1", Reads.EVIDENCE),
        ("status-1-timeout", Reads.EVIDENCE),
        ("withdrawal", Reads.PAYMENT),
    ):
        assert (
            callback_change(PAYMENT_ID, a_callback(operation=operation), COMPLETED).reads
            is expected
        )


# --- the addresses of answers ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 9, 10, 999_999])
def test_each_inquiry_has_two_addresses_of_its_own(number: int) -> None:
    answer, late = status_operation(number), status_operation(number, for_timeout=True)
    assert (inquiry_number(answer), inquiry_number(late)) == (number, number)
    assert (is_timeout(answer), is_timeout(late)) == (False, True)
    assert is_operation(answer)
    assert is_operation(late)


_OTHER_OPERATIONS = ["status-0", "status-01", "status-1000000", "status-1-", "status", ""]


@pytest.mark.parametrize("operation", [*sorted(PAYMENT_OPERATIONS), *_OTHER_OPERATIONS])
def test_an_operation_of_no_inquiry_has_no_number(operation: str) -> None:
    assert inquiry_number(operation) is None


def test_a_token_is_valid_for_one_operation_of_one_payment() -> None:
    operations = ["status-1", "status-1-timeout", "status-11", "status-2"]
    operations += ["withdrawal", "withdrawal-timeout"]
    tokens = {make_token("s3cret", str(PAYMENT_ID), operation) for operation in operations}
    assert len(tokens) == len(operations)
    one, other = (
        make_address("https://pay.example", "s3cret", an_attempt_id(n), "status-1") for n in (1, 2)
    )
    assert one != other
