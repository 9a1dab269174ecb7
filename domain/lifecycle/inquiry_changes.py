"""The changes of a payment that waits for Daraja, with or without an id to inquire by.

An inquiry has a number and is stored before it is sent. The answer to an inquiry therefore counts
once, however late or often it arrives. `judge_report` decides what an answer proves, and
`domain/inquiry.py` what follows from silence. Both decide under the payment's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from domain.account import Account
from domain.changes import (
    Change,
    Context,
    Decided,
    Effect,
    Exchange,
    HistoryEntry,
    JudgeOperation,
    NewEntry,
    ProbeOperation,
    Reads,
    StoreAnswer,
    StoreInquiry,
    event_effects,
)
from domain.evidence import Evidence, Inquiry
from domain.failures import Failure, FailureReason
from domain.inquiry import (
    count_inquiries_since,
    inquiry_interval,
    last_sent_at,
    needs_a_person,
    next_inquiry_after_end_at,
    no_result_is_confirmed,
    result_window_end,
)
from domain.kinds import Kind
from domain.lifecycle.former_accounts import account_to_inquire_as, skip_inquiry
from domain.lifecycle.judge_report import add_inquiry_answer, judge_report
from domain.operations import OPERATION_OF_INQUIRY_STEP, OperationAnswer, OperationHealth
from domain.payment import Fact, Payment
from domain.report import Report
from domain.stages import FactName, Step
from domain.times import HANDOVER_RETRY_AFTER, Times

_NO_RESULT = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)


@dataclass(frozen=True, slots=True)
class InquiryAnswer:
    """Daraja's answer to an inquiry.

    `report` is None if the answer comes by callback. `health` and `code` are what the answer says
    about its operation.
    """

    report: Report | None
    exchanges: tuple[Exchange, ...] = ()
    health: OperationHealth | None = None
    code: str | None = None


def inquiry_change(
    payment_id: UUID,
    times: Times,
    accounts: Mapping[Kind, Account],
    *,
    is_breaker_probe: bool = False,
) -> Change:
    """The change that stores the next inquiry before it is sent: one inquiry for each due time.

    `accounts`: the accounts by which this worker inquires, by kind. `is_breaker_probe`: the inquiry
    tests if Daraja accepts our credential again.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.inquiry_step is None:
            return Decided(payment=payment)
        evidence, now = context.evidence, context.now
        operation = OPERATION_OF_INQUIRY_STEP[payment.inquiry_step]
        if evidence.is_held(operation):
            return Decided(payment=payment)  # the payment keeps its due time
        own, sent_by = accounts.get(payment.kind), account_to_inquire_as(payment)
        is_of_former_account = own is not None and sent_by is not None and own != sent_by
        number = 1 + max((inquiry.number for inquiry in evidence.inquiries), default=0)
        effects: tuple[Effect, ...] = (
            StoreInquiry(
                Inquiry(
                    number=number,
                    asked_at=now,
                    is_probe=is_breaker_probe,
                    is_of_former_account=is_of_former_account,
                )
            ),
        )
        if evidence.probe_of(operation) is not None:
            effects = (*effects, ProbeOperation(operation))
        if is_breaker_probe:
            # The answer to a former account's inquiry says nothing about the credential in use.
            return Decided(payment=payment, effects=() if is_of_former_account else effects)
        if not _is_due(payment, evidence, context, times):
            return Decided(payment=payment)
        if own is not None and sent_by is not None and not own.may_ask_for(sent_by):
            return skip_inquiry(payment, own, sent_by, now, times)
        if payment.stage.is_final:
            waiting = replace(
                payment, next_step_at=next_inquiry_after_end_at(payment, evidence, now, times)
            )
        else:
            earlier_inquiries = count_inquiries_since(last_sent_at(payment, times), evidence)
            waiting = replace(
                payment, next_step_at=now + inquiry_interval(earlier_inquiries, times)
            )
        if needs_a_person(payment, evidence, now, times):
            entry = NewEntry(HistoryEntry.NEEDS_A_PERSON)
            return Decided(
                payment=replace(waiting, needs_review=True), entry=entry, effects=effects
            )
        return Decided(payment=waiting, effects=effects)

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)


def _is_due(payment: Payment, evidence: Evidence, context: Context, times: Times) -> bool:
    """Whether an inquiry is due now.

    arq may run a job twice or late. Without this check, each such run would send an inquiry. The
    inquiry would use up budget, and another payment would wait.
    """
    if payment.next_step not in (Step.QUERY, Step.STATUS) or payment.next_step_at is None:
        return False
    if payment.next_step is Step.STATUS and evidence.breaker_is_open:
        return False  # Transaction Status carries the credential that Daraja refused
    spacing = min(times.inquiry_first_after, HANDOVER_RETRY_AFTER)
    last_asked_at = max((inquiry.asked_at for inquiry in evidence.inquiries), default=None)
    is_recent = last_asked_at is not None and last_asked_at + spacing > context.now
    return payment.next_step_at <= context.now + HANDOVER_RETRY_AFTER and not is_recent


def inquiry_answer_change(
    payment_id: UUID,
    number: int,
    report: Report | None,
    exchanges: tuple[Exchange, ...],
    times: Times,
    *,
    answer: InquiryAnswer | None = None,
) -> Change:
    """The change that records the answer to inquiry `number`.

    `report` is None if Daraja only acknowledged the inquiry and answers by callback. `answer`
    contains what the answer says about the operation.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        decided = decide_payment(payment, context)
        if payment is None or answer is None or answer.health is None:
            return decided
        on_operation = _operation_answer(payment, number, answer, answer.health, context, times)
        return decided.with_effect(
            JudgeOperation(on_operation) if on_operation is not None else None
        )

    def decide_payment(payment: Payment | None, context: Context) -> Decided:
        if payment is None or report is None or report.inquiry_outcome is None:
            return Decided(payment=payment)
        evidence = context.evidence.with_answer(number, report.inquiry_outcome, report.code)
        decided = judge_report(payment, replace(context, evidence=evidence), report)
        decided = add_inquiry_answer(decided, context, number, report)
        is_unchanged = decided.payment is payment
        if is_unchanged and no_result_is_confirmed(payment, evidence, context.now, times):
            failed = fail_for_silence(payment)
            failed = replace(failed, attempt_id=decided.attempt_id, ids=decided.ids)
            return failed.with_effect(decided.effect(StoreAnswer))
        return decided

    return Change(
        payment_id=payment_id,
        decide=decide,
        ids=report.ids if report else frozenset(),
        receipt=report.receipt if report else None,
        exchanges=exchanges,
        reads=Reads.EVIDENCE,
    )


def _operation_answer(
    payment: Payment,
    number: int,
    answer: InquiryAnswer,
    health: OperationHealth,
    context: Context,
    times: Times,
) -> OperationAnswer | None:
    """Returns what the answer to inquiry `number` says about its operation.

    `since` is the time at which the inquiry was stored, not the time of the answer.
    """
    asked_at = next(
        (inquiry.asked_at for inquiry in context.evidence.inquiries if inquiry.number == number),
        None,
    )
    if asked_at is None or payment.inquiry_step is None:
        return None
    return OperationAnswer(
        operation=OPERATION_OF_INQUIRY_STEP[payment.inquiry_step],
        health=health,
        since=asked_at,
        cool_down=times.operation_cool_down,
        code=answer.code,
    )


def watch_change(payment_id: UUID, times: Times) -> Change:
    """The change of a payment that waits without an id to inquire by.

    Only a callback can end such a payment. A deposit can also fail by silence.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.stage.is_final:
            return Decided(payment=payment)
        now = context.now
        if payment.next_step in (Step.QUERY, Step.STATUS) and _has_handover_due_time(payment, now):
            # The row was written before the payment had an id to inquire by, so the column
            # `next_step` still says "watch". Writing the row again corrects the column.
            return Decided(payment=replace(payment, next_step_at=now))
        if payment.next_step is not Step.WATCH:
            return Decided(payment=payment)
        if no_result_is_confirmed(payment, context.evidence, now, times):
            return fail_for_silence(payment)
        window_end = result_window_end(payment, context.evidence, times)
        waiting = replace(
            payment,
            next_step_at=window_end if now < window_end else now + times.inquiry_interval_max,
        )
        if needs_a_person(payment, context.evidence, now, times):
            return Decided(
                payment=replace(waiting, needs_review=True),
                entry=NewEntry(HistoryEntry.NEEDS_A_PERSON),
            )
        return Decided(payment=waiting)

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)


def _has_handover_due_time(payment: Payment, now: datetime) -> bool:
    """Whether the sweeper set the due time just now. A due time that an inquiry sets is later."""
    return payment.next_step_at is not None and payment.next_step_at <= now + HANDOVER_RETRY_AFTER


def fail_for_silence(payment: Payment) -> Decided:
    """Fails a deposit as `no_result_confirmed`.

    The failure is not safe to retry. If an inquiry is possible, the worker inquires about the
    deposit again during the next 24 hours.
    """
    fact = Fact(name=FactName.NO_RESULT_CONFIRMED, failure=_NO_RESULT)
    after = payment.apply(fact)
    return Decided(
        payment=after, entry=NewEntry.of_fact(fact.name), effects=event_effects(payment, after)
    )


def postponement_change(payment_id: UUID, wait: timedelta) -> Change:
    """The change that gives a payment its next due time if its inquiry must wait for a turn."""

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.next_step not in (Step.QUERY, Step.STATUS):
            return Decided(payment=payment)
        return Decided(payment=replace(payment, next_step_at=context.now + wait))

    return Change(payment_id=payment_id, decide=decide)
