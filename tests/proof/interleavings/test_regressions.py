"""Replays of orders of steps that once broke a law in the interleavings, without chance."""

from __future__ import annotations

from collections import Counter

import pytest

from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import watch_change
from domain.lifecycle.reconcile import lease_expiry_change
from domain.lifecycle.record_answer import answer_change
from domain.lifecycle.record_callback import callback_change
from domain.lifecycle.submit import resend_claim_change
from domain.stages import Stage
from tests.builders import PAYMENT_ID, an_attempt_id, an_open_attempt
from tests.proof.interleavings.provider import Answer, Message
from tests.proof.interleavings.reading import callback_of, read_submit_answer, report_of
from tests.proof.interleavings.record import Record, instant
from tests.proof.interleavings.times import TIMES

_OWN_ID = str(PAYMENT_ID)
_IDS = ("ws_CO_1", "4c1e-1")


def _answer(record: Record, attempt: int, answer: Answer, at: int) -> None:
    times = TIMES[record.payment.kind][0]
    read_answer = read_submit_answer(record.payment.kind, answer)
    change = answer_change(
        PAYMENT_ID, an_open_attempt(attempt), *read_answer, times.worker, times.accounts
    )
    record.change(change, instant(at))


def _receive(record: Record, message: Message, at: int) -> None:
    report = report_of(record.payment.kind, message)
    callback = callback_of(record.payment.kind, message, report.outcome.value)
    record.change(callback_change(PAYMENT_ID, callback, report), instant(at))


@pytest.mark.parametrize(
    "late",
    [Answer("acknowledged", *_IDS), Message("result", "paid", 0, "0", *_IDS)],
    ids=["an acknowledgement", "a success without a receipt"],
)
def test_a_late_id_of_a_deposit_that_failed_for_silence_permits_an_inquiry(
    late: Answer | Message,
) -> None:
    """The id comes after the failure, in one of two ways.

    The worker was frozen past its lease and the result window, and then reads the acknowledgement
    from its socket. Or a callback brings the id, with a success but without a receipt.
    """
    times = TIMES[Kind.DEPOSIT][0]
    record = Record(Kind.DEPOSIT, Counter())
    assert record.claim(an_attempt_id(1), times, instant(0))
    record.change(lease_expiry_change(PAYMENT_ID, times.worker), instant(61_000))
    record.change(watch_change(PAYMENT_ID, times.worker), instant(241_000))
    assert record.payment.stage is Stage.FAILED
    if isinstance(late, Answer):
        _answer(record, 1, late, 242_000)
    else:
        _receive(record, late, 242_000)
    assert record.payment.inquiry_step is not None
    assert record.payment.next_step_at is not None


def test_a_withdrawal_whose_repeat_daraja_refused_ends_by_the_result_of_its_first_send() -> None:
    """Daraja acted on the first send, but answered "busy".

    It acknowledged the second send, and then refused it by a result (daraja.md §4.2).
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
