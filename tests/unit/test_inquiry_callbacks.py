"""Callbacks of Transaction Status: their addresses, and what they prove of our credential."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from domain.adapters.daraja.reports import UNREADABLE
from domain.attempts import IdKind
from domain.callback_address import (
    PAYMENT_OPERATIONS,
    inquiry_number,
    is_operation,
    is_timeout,
    status_operation,
)
from domain.changes import Disposition
from domain.evidence import InquiryOutcome
from domain.kinds import Kind, kinds_that
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import NOW, PAYMENT_ID, a_due_payment, a_report, an_inquiry
from tests.decisions import (
    answer_of,
    breaker_reason_of,
    credential_accepted_at,
    entry_of,
    payment_of,
)
from tests.unit.deciding import (
    ANSWERED_FAILED,
    STATUS_PAID,
    an_undecided_answer,
    decide_callback,
)

D, S, V = Disposition, Stage, InquiryOutcome
PAYOUTS = kinds_that(lambda rules: rules.moves_money_out)
ASKED_AT = NOW - timedelta(minutes=1)
INQUIRY = an_inquiry(1, at=ASKED_AT)
UNDER_WAY = an_undecided_answer(V.UNDER_WAY, "Pending")
NOT_FOUND = an_undecided_answer(V.NOT_FOUND, "SFC_IC0003")
WRONG_CREDENTIAL = an_undecided_answer(V.NO_ANSWER, "2001", refuses_credential=True)
OF_ANOTHER = frozenset({(IdKind.ORIGINATOR_CONVERSATION, "of-another-payment")})
ADDRESSES = ["status-1", "status-1-timeout"]


@pytest.mark.parametrize(
    ("report", "disposition"),
    [
        (replace(STATUS_PAID, ids=OF_ANOTHER), D.IDS_DIFFER),
        (replace(STATUS_PAID, amount=Decimal(251)), D.AMOUNT_DIFFERS),
        (replace(STATUS_PAID, amount=None), D.AMOUNT_DIFFERS),
        (replace(ANSWERED_FAILED, has_amount=True, amount=Decimal(251)), D.AMOUNT_DIFFERS),
    ],
)
def test_an_answer_about_another_payment_or_amount_is_flagged_and_finalizes_nothing(
    report: Report, disposition: Disposition
) -> None:
    payment = a_due_payment()
    decision = decide_callback(payment, report, INQUIRY, operation="status-1")
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, decision.is_message_flagged) == (disposition, True)


def test_an_unreadable_answer_is_flagged_and_answers_no_inquiry() -> None:
    payment = a_due_payment()
    decision = decide_callback(payment, UNREADABLE, INQUIRY, operation="status-1")
    assert (decision.payment, decision.is_message_flagged) == (payment, True)
    assert decision.disposition is D.UNREADABLE
    assert (answer_of(decision), credential_accepted_at(decision)) == (None, None)


@pytest.mark.parametrize("operation", ADDRESSES)
@pytest.mark.parametrize(
    "report", [STATUS_PAID, NOT_FOUND, WRONG_CREDENTIAL], ids=lambda report: report.code
)
def test_an_answer_from_a_wrong_source_only_brings_the_next_inquiry_forward(
    report: Report, operation: str
) -> None:
    payment = a_due_payment(next_step_at=NOW + timedelta(minutes=2))
    decision = decide_callback(payment, report, INQUIRY, operation=operation, source_allowed=False)
    assert decision.payment == replace(payment, next_step_at=NOW)
    assert (decision.disposition, decision.is_message_flagged) == (D.WRONG_SOURCE, True)
    assert (answer_of(decision), credential_accepted_at(decision)) == (None, None)
    assert breaker_reason_of(decision) is None


@pytest.mark.parametrize("stage", Stage)
def test_a_time_out_of_an_inquiry_changes_nothing(stage: Stage) -> None:
    """The time-out proves nothing about the credential, because M-PESA did not read it."""
    payment = a_due_payment(stage=stage)
    decision = decide_callback(
        payment, a_report(ReportedOutcome.TIMEOUT), INQUIRY, operation="status-1-timeout"
    )
    assert (decision.payment, entry_of(decision), answer_of(decision)) == (payment, None, None)
    assert (decision.disposition, decision.is_message_flagged) == (D.INQUIRY_ANSWERED, False)
    assert credential_accepted_at(decision) is None


@pytest.mark.parametrize("operation", ADDRESSES)
def test_a_status_answer_about_a_deposit_is_flagged_and_not_used(operation: str) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    decision = decide_callback(payment, STATUS_PAID, INQUIRY, operation=operation)
    assert (decision.payment, decision.is_message_flagged) == (payment, True)
    assert (decision.disposition, answer_of(decision)) == (D.OTHER_OPERATION, None)


# --- the breaker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [S.AWAITING_RESULT, S.IN_DOUBT, S.SUCCEEDED, S.FAILED])
def test_a_refused_credential_opens_the_breaker_in_every_stage(stage: Stage) -> None:
    payment = a_due_payment(stage=stage)
    decision = decide_callback(payment, WRONG_CREDENTIAL, INQUIRY, operation="status-1")
    assert breaker_reason_of(decision) == f"result 2001 for payment {PAYMENT_ID}"
    assert credential_accepted_at(decision) is None


@pytest.mark.parametrize("kind", PAYOUTS)
def test_a_payout_s_result_that_refuses_the_credential_opens_the_breaker(kind: Kind) -> None:
    failed = a_report(ReportedOutcome.FAILURE, code="8006", refuses_credential=True)
    decision = decide_callback(a_due_payment(kind), failed)
    assert breaker_reason_of(decision) == f"result 8006 for payment {PAYMENT_ID}"
    assert payment_of(decision).stage is S.FAILED
    other = decide_callback(a_due_payment(kind), replace(failed, refuses_credential=False))
    assert breaker_reason_of(other) is None


def test_a_result_with_another_payment_s_id_opens_no_breaker() -> None:
    report = replace(WRONG_CREDENTIAL, ids=OF_ANOTHER)
    decision = decide_callback(a_due_payment(), report, INQUIRY, operation="status-1")
    assert breaker_reason_of(decision) is None


@pytest.mark.parametrize(
    "report", [STATUS_PAID, ANSWERED_FAILED, UNDER_WAY, NOT_FOUND], ids=lambda report: report.code
)
def test_an_answer_proves_the_credential_at_the_time_of_the_inquiry(report: Report) -> None:
    """A newer refusal may have opened the breaker between the inquiry and its answer."""
    inquiries = (INQUIRY, an_inquiry(2, at=NOW))
    decision = decide_callback(a_due_payment(), report, *inquiries, operation="status-1")
    assert credential_accepted_at(decision) == ASKED_AT


def test_a_message_without_an_inquiry_proves_nothing_about_the_credential() -> None:
    """The messages are an answer to an unknown inquiry, and a payout's result, which may be old."""
    unknown = decide_callback(a_due_payment(), STATUS_PAID, operation="status-1")
    own_result = decide_callback(a_due_payment(), a_report(), INQUIRY)
    for decision in (unknown, own_result):
        assert (credential_accepted_at(decision), answer_of(decision)) == (None, None)


def test_an_answer_of_busy_proves_nothing_about_the_credential() -> None:
    """M-PESA may have been too busy to read the credential."""
    busy = an_undecided_answer(V.NO_ANSWER, "26")
    decision = decide_callback(a_due_payment(), busy, INQUIRY, operation="status-1")
    assert answer_of(decision) is not None
    assert credential_accepted_at(decision) is None


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
