"""The decisions about a callback: which results are believed, and which finalize the payment."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.callback_address import PAYMENT_OPERATIONS, fits_kind
from domain.changes import Disposition, HistoryEntry
from domain.events import EventType
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.record_callback import raw_callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    NOW,
    PAYMENT_ID,
    RECEIPT,
    a_callback,
    a_payment,
    a_report,
    an_attempt,
    an_attempt_id,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, entry_of, event_of, payment_of
from tests.unit.deciding import OWN_ID, decide, decide_callback

D, S, R = Disposition, Stage, ReportedOutcome
PENDING = [stage for stage in Stage if not stage.is_final]


def with_inquiry_after_lease(payment: Payment) -> Payment:
    """If the payment has a lease, make the payment due just before the end of the lease.

    An inquiry then follows the send.
    """
    if payment.lease_until is None:
        return payment
    return replace(payment, next_step_at=payment.lease_until - timedelta(microseconds=1))


# Results that agree with the payment in everything. The columns: reported outcome, stage before,
# stage after, disposition, event (a dot: none), and whether the payment is flagged.
AGREEING = """
success  accepted         succeeded        finalized      mkwanja.payment.succeeded  .
success  submitting       succeeded        finalized      mkwanja.payment.succeeded  .
success  awaiting_result  succeeded        finalized      mkwanja.payment.succeeded  .
success  in_doubt         succeeded        finalized      mkwanja.payment.succeeded  .
success  succeeded        succeeded        duplicate      .                          .
success  failed           succeeded        corrected      mkwanja.payment.corrected  flagged
failure  accepted         accepted         contradiction  .                          flagged
failure  submitting       failed           finalized      mkwanja.payment.failed     .
failure  awaiting_result  failed           finalized      mkwanja.payment.failed     .
failure  in_doubt         failed           finalized      mkwanja.payment.failed     .
failure  succeeded        succeeded        contradiction  .                          flagged
failure  failed           failed           duplicate      .                          .
"""
ROWS = [line.split() for line in AGREEING.strip().splitlines()]


@for_each("kind", Kind)
@for_each("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_result_that_agrees_with_the_payment_moves_it_as_the_table_says(
    row: list[str], kind: Kind
) -> None:
    reported, before, after, disposition, event, flag = row
    payment = a_payment(stage=Stage(before), kind=kind)
    decision = decide_callback(payment, a_report(ReportedOutcome(reported)))
    assert (payment_of(decision).stage, decision.disposition) == (after, disposition)
    assert event_of(decision) == (None if event == "." else event)
    assert payment_of(decision).needs_review == decision.is_message_flagged == (flag == "flagged")
    if after == "succeeded":
        assert (payment_of(decision).receipt, payment_of(decision).failure) == (RECEIPT, None)


def test_the_table_has_each_result_in_every_stage() -> None:
    assert sorted((row[0], row[1]) for row in ROWS) == sorted(product((R.SUCCESS, R.FAILURE), S))


@for_each("kind", Kind)
@for_each("stage", Stage)
@for_each("reported", [one for one in R if one not in (R.SUCCESS, R.FAILURE)])
def test_a_message_without_a_result_moves_no_payment(
    reported: ReportedOutcome, stage: Stage, kind: Kind
) -> None:
    decision = decide_callback(a_payment(stage=stage, kind=kind), a_report(reported))
    expected = D.UNREADABLE if reported is R.UNREADABLE else D.INQUIRY_BROUGHT_FORWARD
    if (reported, stage) == (R.UNDECIDED, S.ACCEPTED):
        expected = D.CONTRADICTION
    assert (payment_of(decision).stage, decision.disposition) == (stage, expected)
    assert event_of(decision) is None


@pytest.mark.parametrize("kind", Kind)
def test_only_an_explicit_result_that_agrees_with_the_payment_finalizes_it(kind: Kind) -> None:
    """The test tries all combinations of outcome, stage, amount, ids, receipt, source and owner."""
    amounts = {
        "agrees": (True, Decimal("250.00")),
        "differs": (True, Decimal(251)),
        "two": (True, None),
        "absent": (False, None),
    }
    ids = {
        "agree": frozenset({("conversation_id", "AG_1")}),
        "differ": frozenset({("conversation_id", "AG_9")}),
        "absent": frozenset[tuple[str, str]](),
    }
    receipts = (RECEIPT, "UC1OTHER22", None)
    outcomes = {S.ACCEPTED: Outcome.NOT_ACTED, S.FAILED: Outcome.FAILED}
    flags = product((True, False), repeat=3)
    for reported, stage, amount, given_ids, receipt, (
        source_allowed,
        is_receipt_of_other,
        are_ids_of_other,
    ) in product(ReportedOutcome, Stage, amounts, ids, receipts, flags):
        attempt = an_attempt(outcomes.get(stage, Outcome.ACKNOWLEDGED), conversation_id="AG_1")
        payment = a_payment(stage=stage, kind=kind, attempts=(attempt,))
        has_amount, value = amounts[amount]
        report = a_report(
            reported, has_amount=has_amount, amount=value, ids=ids[given_ids], receipt=receipt
        )
        decision = decide_callback(
            payment,
            report,
            source_allowed=source_allowed,
            is_receipt_of_other=is_receipt_of_other,
            ids_of_others=ids[given_ids] if are_ids_of_other else frozenset(),
        )
        after = payment_of(decision)
        is_free = not (are_ids_of_other and ids[given_ids])
        amount_agrees = amount in ("agrees", "absent")
        agrees = source_allowed and given_ids != "differ" and is_free and amount_agrees
        if after.stage is Stage.SUCCEEDED is not stage:
            assert (reported, agrees) == (ReportedOutcome.SUCCESS, True)
            assert (amount, is_receipt_of_other) == ("agrees", False)
            assert receipt
        elif after.stage is Stage.FAILED is not stage:
            assert (reported, agrees) == (ReportedOutcome.FAILURE, True)
            assert not stage.is_final
        else:
            assert (after.stage, event_of(decision)) == (stage, None)
            assert (after.receipt, after.failure) == (payment.receipt, payment.failure)


VETOES: dict[str, tuple[dict[str, Any], dict[str, Any], Disposition]] = {
    "amount differs": ({"has_amount": True, "amount": Decimal("250.01")}, {}, D.AMOUNT_DIFFERS),
    "two amounts": ({"has_amount": True, "amount": None}, {}, D.AMOUNT_DIFFERS),
    "ids differ": ({"ids": frozenset({("conversation_id", "AG_9")})}, {}, D.IDS_DIFFER),
    "ids of another payment": (
        {},
        {"ids_of_others": frozenset({("conversation_id", "AG_7")})},
        D.IDS_DIFFER,
    ),
}


@for_each("reported", [ReportedOutcome.SUCCESS, ReportedOutcome.FAILURE])
@for_each("stage", Stage)
@for_each("veto", VETOES)
def test_a_result_that_disagrees_flags_the_payment_and_changes_nothing_else(
    veto: str, stage: Stage, reported: ReportedOutcome
) -> None:
    overrides, context, disposition = VETOES[veto]
    attempt = an_attempt(Outcome.ACKNOWLEDGED, conversation_id="AG_1")
    payment = a_payment(stage=stage, attempts=(attempt,))
    decision = decide_callback(payment, a_report(reported, **overrides), **context)
    assert decision.disposition is disposition
    assert decision.is_message_flagged
    assert entry_of(decision) is HistoryEntry(disposition.value)
    assert decision.payment == replace(payment, needs_review=True)


def test_the_history_shows_a_review_once_however_often_its_reason_arrives() -> None:
    payment = a_payment(stage=S.AWAITING_RESULT, needs_review=True)
    decision = decide_callback(payment, a_report(has_amount=True, amount=Decimal(1)))
    assert entry_of(decision) is None
    assert (decision.is_message_flagged, decision.payment) == (True, payment)


@for_each("stage", Stage)
@for_each("reported", ReportedOutcome)
def test_a_message_from_a_wrong_source_only_brings_the_inquiry_forward(
    reported: ReportedOutcome, stage: Stage
) -> None:
    payment = a_payment(stage=stage)
    decision = decide_callback(payment, a_report(reported), source_allowed=False)
    gets_inquiry = stage in (S.AWAITING_RESULT, S.IN_DOUBT) or (
        stage is S.FAILED and reported is ReportedOutcome.SUCCESS
    )
    expected = (
        replace(payment, next_step_at=NOW) if gets_inquiry else with_inquiry_after_lease(payment)
    )
    assert decision.payment == expected
    assert decision.disposition == D.WRONG_SOURCE
    assert (decision.is_message_flagged, decision.ids) == (True, frozenset())


@for_each("operation", ["deposit", "status-1", "status-1-timeout"])
@for_each("reported", ReportedOutcome)
def test_a_message_about_an_unknown_payment_is_flagged(
    reported: ReportedOutcome, operation: str
) -> None:
    decision = decide_callback(None, a_report(reported), operation=operation)
    assert decision.payment is None
    assert (decision.disposition, decision.is_message_flagged) == (D.UNKNOWN_PAYMENT, True)


@for_each(("kind", "operation"), list(product(Kind, sorted(PAYMENT_OPERATIONS))))
def test_a_message_at_an_address_of_another_kind_changes_nothing(
    kind: Kind, operation: str
) -> None:
    payment = a_payment(kind=kind, stage=S.AWAITING_RESULT)
    decision = decide_callback(payment, a_report(), operation=operation)
    if fits_kind(operation, kind):
        assert decision.disposition == D.FINALIZED
    else:
        assert decision.payment == payment
        assert (decision.disposition, decision.is_message_flagged) == (D.OTHER_OPERATION, True)


@pytest.mark.parametrize("stage", Stage)
def test_a_callback_that_could_not_be_processed_is_stored_and_changes_nothing(stage: Stage) -> None:
    payment = a_payment(stage=stage)
    change = raw_callback_change(PAYMENT_ID, a_callback())
    decision = decide(change, payment)
    assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)
    assert (decision.disposition, decision.is_message_flagged) == (D.NOT_PROCESSED, True)
    assert change.callback == a_callback()
    # the ids or the receipt may have caused the failure, so they are not stored
    assert (change.ids, change.receipt) == (frozenset(), None)


@pytest.mark.parametrize("missing", [{"receipt": None}, {"has_amount": False, "amount": None}])
@pytest.mark.parametrize("stage", PENDING)
def test_a_success_without_receipt_or_amount_is_flagged_and_brings_the_inquiry_forward(
    stage: Stage, missing: dict[str, Any]
) -> None:
    """Only an inquiry or a person can show which money moved (rules.md §14)."""
    payment = a_payment(stage=stage)
    decision = decide_callback(payment, a_report(**missing))
    # A payment that is proved unsent must not be sent now.
    expected = D.CONTRADICTION if stage is S.ACCEPTED else D.SUCCESS_WITHOUT_RECEIPT
    assert decision.disposition == expected
    assert (entry_of(decision), decision.is_message_flagged) == (HistoryEntry(expected.value), True)
    gets_inquiry = stage in (S.AWAITING_RESULT, S.IN_DOUBT)
    next_step_at = NOW if gets_inquiry else with_inquiry_after_lease(payment).next_step_at
    assert decision.payment == replace(payment, needs_review=True, next_step_at=next_step_at)


@pytest.mark.parametrize(
    ("stage", "reported", "confirm_above_kes"),
    [
        (S.SUBMITTING, R.SUCCESS, None),
        (S.IN_DOUBT, R.TIMEOUT, None),
        (S.IN_DOUBT, R.UNDECIDED, None),
        (S.IN_DOUBT, R.SUCCESS, 0),
    ],
    ids=["a result overtakes the answer", "time-out", "undecided", "an unconfirmed success"],
)
def test_a_callback_stores_the_ids_that_the_lost_or_later_answer_to_the_send_has(
    stage: Stage, reported: ReportedOutcome, confirm_above_kes: int | None
) -> None:
    ids = frozenset({("checkout_request_id", "ws_CO_1"), ("merchant_request_id", "m-1")})
    decision = decide_callback(
        a_payment(stage=stage), a_report(reported, ids=ids), confirm_above_kes=confirm_above_kes
    )
    assert (decision.ids, decision.attempt_id) == (ids, an_attempt_id())
    assert not decision.is_message_flagged
    if stage is S.IN_DOUBT:
        assert payment_of(decision).next_step_at == NOW


@pytest.mark.parametrize("stage", [*PENDING, S.FAILED])
def test_a_receipt_of_another_payment_finalizes_nothing(stage: Stage) -> None:
    payment = a_payment(stage=stage)
    decision = decide_callback(payment, a_report(), is_receipt_of_other=True)
    assert decision.payment == replace(payment, needs_review=True)
    assert decision.disposition == D.RECEIPT_OF_ANOTHER_PAYMENT
    assert decision.is_message_flagged


def test_a_second_receipt_for_a_payment_that_succeeded_is_a_contradiction() -> None:
    payment = a_payment(stage=S.SUCCEEDED)
    decision = decide_callback(payment, a_report(receipt="UC1SECOND2"))
    assert decision.payment == replace(payment, needs_review=True)
    assert (decision.disposition, event_of(decision)) == (D.CONTRADICTION, None)


@pytest.mark.parametrize("confirm_above_kes", [None, 0])
def test_a_receipt_that_arrives_after_a_success_without_a_receipt_is_announced(
    confirm_above_kes: int | None,
) -> None:
    payment = a_payment(stage=S.SUCCEEDED, receipt=None)
    decision = decide_callback(payment, a_report(), confirm_above_kes=confirm_above_kes)
    assert (payment_of(decision).receipt, event_of(decision)) == (RECEIPT, EventType.RECEIPT_ADDED)
    assert decision.disposition is D.RECEIPT_ADDED
    assert entry_of(decision) == "success_reported"


def test_a_repeated_result_is_a_duplicate_that_writes_no_history() -> None:
    first = decide_callback(a_payment(stage=S.AWAITING_RESULT), a_report())
    again = decide_callback(first.payment, a_report())
    assert (again.payment, entry_of(again), event_of(again)) == (first.payment, None, None)
    assert (again.disposition, again.is_message_flagged) == (D.DUPLICATE, False)


@pytest.mark.parametrize(
    ("kind", "ids", "expected"),
    [
        # The failure has our own id, and each send of a withdrawal has this id.
        (Kind.WITHDRAWAL, {OWN_ID}, S.FAILED),
        (Kind.WITHDRAWAL, set(), S.IN_DOUBT),
        (Kind.DEPOSIT, {("checkout_request_id", "ws_CO_1")}, S.IN_DOUBT),
        (Kind.BILL_PAYMENT, {("originator_conversation_id", "9d20-1")}, S.IN_DOUBT),
        # A bill payment is sent without our own id, so this id proves nothing.
        (Kind.BILL_PAYMENT, {OWN_ID}, S.IN_DOUBT),
    ],
)
def test_a_failure_finalizes_only_when_every_send_is_accounted_for(
    kind: Kind, ids: set[tuple[str, str]], expected: Stage
) -> None:
    attempts = (
        an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id="ws_CO_1"),
        an_attempt(Outcome.UNKNOWN, number=2),
    )
    payment = a_payment(kind=kind, stage=S.IN_DOUBT, attempts=attempts)
    decision = decide_callback(payment, a_report(ReportedOutcome.FAILURE, ids=frozenset(ids)))
    after = payment_of(decision)
    assert after.stage is expected
    if expected is S.IN_DOUBT:
        assert (decision.disposition, after.next_step_at) == (D.NOT_ALL_ACCOUNTED_FOR, NOW)


def test_an_answer_whose_only_amount_is_not_a_number_does_not_finalize() -> None:
    report = a_report(
        inquiry_outcome=InquiryOutcome.PAID, has_amount=False, amount=None, has_ignored_amount=True
    )
    decision = decide_callback(a_payment(stage=S.AWAITING_RESULT), report)
    assert payment_of(decision).stage is S.AWAITING_RESULT
    assert decision.disposition == D.AMOUNT_DIFFERS


@pytest.mark.parametrize(
    ("report", "detail"),
    [
        (a_report(R.FAILURE), {"provider_code": "1032"}),
        (
            a_report(has_ignored_amount=True),
            {
                "provider_code": "0",
                "note": "the message contains an amount that is not a number",
            },
        ),
    ],
)
def test_the_history_shows_the_code_and_an_amount_that_is_not_a_number(
    report: Report, detail: dict[str, str]
) -> None:
    decision = decide_callback(a_payment(stage=S.AWAITING_RESULT), report)
    assert entry_of(decision) == f"{report.outcome}_reported"
    assert detail_of(decision) == detail
