"""Orders of events that the interleavings found and that once broke a law, without chance."""

from __future__ import annotations

from collections import Counter

from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import watch_change
from domain.lifecycle.reconcile import lease_expiry_change
from domain.lifecycle.record_answer import answer_change
from domain.lifecycle.record_callback import callback_change
from domain.lifecycle.submit import resend_claim_change
from domain.stages import Stage
from tests.builders import PAYMENT_ID, an_attempt_id
from tests.proof.interleavings.provider import Answer, Message
from tests.proof.interleavings.reading import callback_of, read_submit_answer, report_of
from tests.proof.interleavings.record import Record, instant
from tests.proof.interleavings.times import TIMES

_OWN_ID = str(PAYMENT_ID)


def _answer(record: Record, attempt: int, answer: Answer, at: int) -> None:
    times = TIMES[record.payment.kind][0]
    read_answer = read_submit_answer(record.payment.kind, answer)
    fence = Fence(clock=lambda: 0.0, deadline_seconds=30, is_draining=lambda: False)
    open_attempt = OpenAttempt(attempt_id=an_attempt_id(attempt), fence=fence)
    record.change(
        answer_change(
            PAYMENT_ID,
            open_attempt,
            read_answer.ids,
            read_answer.error,
            times.worker,
            times.accounts,
        ),
        instant(at),
    )


def _receive(record: Record, message: Message, at: int) -> None:
    report = report_of(record.payment.kind, message)
    callback = callback_of(record.payment.kind, message, report.outcome.value)
    record.change(callback_change(PAYMENT_ID, callback, report), instant(at))


def _a_deposit_that_failed_for_silence() -> Record:
    times = TIMES[Kind.DEPOSIT][0]
    record = Record(Kind.DEPOSIT, Counter())
    assert record.claim(an_attempt_id(1), times, instant(0))
    record.change(lease_expiry_change(PAYMENT_ID, times.worker), instant(61_000))
    record.change(watch_change(PAYMENT_ID, times.worker), instant(241_000))
    assert record.payment.stage is Stage.FAILED
    return record


def test_a_failed_deposit_is_inquired_about_once_a_late_acknowledgement_gives_its_id() -> None:
    """The worker was frozen with the answer in its socket, past its lease and the result window."""
    record = _a_deposit_that_failed_for_silence()
    _answer(record, 1, Answer("acknowledged", "ws_CO_1", "4c1e-1"), 242_000)
    assert record.payment.inquiry_step is not None
    assert record.payment.next_step_at is not None


def test_a_failed_deposit_is_inquired_about_once_a_success_without_receipt_gives_its_id() -> None:
    record = _a_deposit_that_failed_for_silence()
    _receive(record, Message("result", "paid", 0, "0", "ws_CO_1", "4c1e-1"), 242_000)
    assert record.payment.inquiry_step is not None
    assert record.payment.next_step_at is not None


def test_a_withdrawal_whose_repeat_daraja_refused_ends_by_the_result_of_its_first_send() -> None:
    """The first send was answered "busy" and had acted; its repeat was acknowledged, then
    refused (daraja.md §4.2).
    """
    times = TIMES[Kind.WITHDRAWAL][0]
    record = Record(Kind.WITHDRAWAL, Counter())
    assert record.claim(an_attempt_id(1), times, instant(0))
    _answer(record, 1, Answer("busy"), 1000)
    record.change(
        resend_claim_change(PAYMENT_ID, an_attempt_id(2), times.worker, times.accounts),
        instant(40_000),
    )
    _answer(record, 2, Answer("acknowledged", _OWN_ID, "AG_15_1"), 41_000)
    _receive(record, Message("result", "duplicate", 0, "15", _OWN_ID, "AG_15_1"), 42_000)
    _receive(record, Message("result", "paid", 0, "0", _OWN_ID, "AG_1", "UC14KD82Q1"), 43_000)
    assert len(record.payment.attempts) == 2
    assert record.payment.stage is Stage.SUCCEEDED
