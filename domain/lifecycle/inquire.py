"""Asking Daraja about a payment that is overdue or in doubt, and doing what follows.

The question is numbered and stored before it is asked, so that its answer counts once whenever and
however often it comes: at once for STK query, by its own address for Transaction Status. What an
answer says is judged by `judge_report`, what follows from silence by
`domain/inquiry.py`: both under the payment's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from domain.account import Account
from domain.changes import (
    Change,
    ChangeResult,
    ChangingStore,
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
from domain.errors import PaymentServiceError, ProviderError, QueueUnavailable, Throttled
from domain.failures import Failure, FailureReason
from domain.inquiry import (
    Evidence,
    Inquiry,
    count_inquiries_since,
    inquiry_interval,
    last_sent_at,
    may_be_resent,
    needs_a_person,
    next_inquiry_after_end_at,
    no_result_is_confirmed,
    result_window_end,
)
from domain.kinds import RULES, Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.former_accounts import account_to_inquire_as, skip_inquiry
from domain.lifecycle.judge_report import add_inquiry_answer, judge_report
from domain.lifecycle.submit import Due, Submitter
from domain.operations import OPERATION_OF_INQUIRY_STEP, OperationAnswer, OperationHealth
from domain.payment import Fact, Payment
from domain.report import Report
from domain.stages import FactName, Stage, Step
from domain.times import HANDOVER_RETRY_AFTER, Times

log = structlog.get_logger()

_NO_RESULT = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)


@dataclass(frozen=True, slots=True)
class InquiryAnswer:
    """What came of a question: the report, or None if the answer comes by callback; what it says
    of its operation.
    """

    report: Report | None
    exchanges: tuple[Exchange, ...] = ()
    health: OperationHealth | None = None
    code: str | None = None


class Asker(Protocol):
    """M-PESA through Daraja, as an inquiry needs it."""

    def prepare_inquiry(self) -> AbstractAsyncContextManager[None]:
        """As `Provider.prepare_send`, for an inquiry."""
        ...

    async def ask(self, payment: Payment, number: int, *, is_probe: bool = False) -> InquiryAnswer:
        """Asks Daraja about the payment, as its inquiry `number`.

        `is_probe`: the question's operation is held.
        """
        ...


class Inquirer:
    """Takes the next step of payments that Daraja must be asked about.

    One for each worker process.
    """

    def __init__(
        self,
        *,
        changes: ChangingStore,
        provider: Asker,
        submitter: Submitter,
        announcer: Announcer,
        times: Times,
        accounts: Mapping[Kind, Account],
    ) -> None:
        self._changes = changes
        self._provider = provider
        self._submitter = submitter
        self._announcer = announcer
        self._times = times
        self._accounts = accounts
        self._probes: set[asyncio.Task[None]] = set()

    async def inquire(self, due: Due) -> None:
        """Asks about the payment if that is due, or sends it again if that is permitted; else
        changes nothing.
        """
        can_be_resent = RULES[due.kind].can_be_sent_again and due.stage is Stage.IN_DOUBT
        if can_be_resent and await self._may_be_resent(due.payment_id):
            await self._submitter.resend(due.payment_id, due.kind)
        elif due.is_due:
            await self._ask_when_ready(due.payment_id, for_breaker=False)

    def probe_soon(self, payment_id: UUID) -> None:
        """Asks about a payment, final or not, to learn whether Daraja takes our credential
        again.
        """
        task = asyncio.create_task(self._probe(payment_id))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, payment_id: UUID) -> None:
        try:
            await self._ask_when_ready(payment_id, for_breaker=True)
        except PaymentServiceError as error:
            log.warning("probe_postponed", error=type(error).__name__)
        except Exception:
            log.exception("probe_failed")

    async def _may_be_resent(self, payment_id: UUID) -> bool:
        permitted = False

        def decide(payment: Payment | None, context: Context) -> Decided:
            nonlocal permitted
            permitted = payment is not None and may_be_resent(
                payment, context.evidence, context.now, self._times, self._accounts
            )
            return Decided(payment=payment)

        await self._changes.change(
            Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)
        )
        return permitted

    async def _ask_when_ready(self, payment_id: UUID, *, for_breaker: bool) -> None:
        try:
            async with self._provider.prepare_inquiry():
                change = inquiry_change(
                    payment_id, self._times, self._accounts, for_breaker=for_breaker
                )
                result = await self._changes.change(change)
                self._announcer.announce_soon(result)
                payment, entry = result.decided.payment, result.decided.entry
                if entry is not None and entry.name is HistoryEntry.ACCOUNT_NOT_CONFIGURED:
                    log.error("account_not_configured", payment_id=str(payment_id), **entry.detail)
                stored = result.decided.effect(StoreInquiry)
                if payment is not None and stored is not None:
                    is_held = result.decided.effect(ProbeOperation) is not None
                    await self._ask(payment, stored.inquiry, is_probe=is_held)
        except Throttled as error:
            await self._changes.change(
                postponement_change(payment_id, timedelta(seconds=error.wait_seconds))
            )
        except (ProviderError, QueueUnavailable) as error:
            log.warning("not_ready_to_ask", payment_id=str(payment_id), error=type(error).__name__)

    async def _ask(self, payment: Payment, asked: Inquiry, *, is_probe: bool) -> None:
        said = await self._provider.ask(payment, asked.number, is_probe=is_probe)
        change = inquiry_answer_change(
            payment.id, asked.number, said.report, said.exchanges, self._times, said=said
        )
        result: ChangeResult = await self._changes.change(change)
        self._announcer.announce_soon(result)


def inquiry_change(
    payment_id: UUID,
    times: Times,
    accounts: Mapping[Kind, Account],
    *,
    for_breaker: bool = False,
) -> Change:
    """The change that stores the next inquiry before it is asked. Nothing is asked twice for one
    due time.

    `accounts`: by which this worker asks, by kind. `for_breaker`: asked to learn whether Daraja
    takes our credential again.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.inquiry_step is None:
            return Decided(payment=payment)
        evidence, now = context.evidence, context.now
        operation = OPERATION_OF_INQUIRY_STEP[payment.inquiry_step]
        if evidence.is_held(operation):
            return Decided(payment=payment)  # the payment keeps its due time
        own, sent_by = accounts.get(payment.kind), account_to_inquire_as(payment)
        is_of_another = own is not None and sent_by is not None and own != sent_by
        number = 1 + max((inquiry.number for inquiry in evidence.inquiries), default=0)
        effects: tuple[Effect, ...] = (
            StoreInquiry(
                Inquiry(
                    number=number,
                    asked_at=now,
                    is_probe=for_breaker,
                    is_of_former_account=is_of_another,
                )
            ),
        )
        if evidence.probe_of(operation) is not None:
            effects = (*effects, ProbeOperation(operation))
        if for_breaker:
            # Another account's answer says nothing about the credential in use.
            return Decided(payment=payment, effects=() if is_of_another else effects)
        if not _is_due(payment, evidence, context, times):
            return Decided(payment=payment)
        if own is not None and sent_by is not None and not own.may_ask_for(sent_by):
            return skip_inquiry(payment, own, sent_by, now, times)
        if payment.stage.is_final:
            waiting = replace(
                payment, next_step_at=next_inquiry_after_end_at(payment, evidence, now, times)
            )
        else:
            asked_before = count_inquiries_since(last_sent_at(payment, times), evidence)
            waiting = replace(payment, next_step_at=now + inquiry_interval(asked_before, times))
        if needs_a_person(payment, evidence, now, times):
            entry = NewEntry(HistoryEntry.NEEDS_A_PERSON)
            return Decided(
                payment=replace(waiting, needs_review=True), entry=entry, effects=effects
            )
        return Decided(payment=waiting, effects=effects)

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)


def _is_due(payment: Payment, evidence: Evidence, context: Context, times: Times) -> bool:
    """Whether a job may ask now: jobs run twice and late, and each question costs what another
    payment waits for.
    """
    if payment.next_step not in (Step.QUERY, Step.STATUS) or payment.next_step_at is None:
        return False
    if payment.next_step is Step.STATUS and evidence.breaker_is_open:
        return False  # it carries the credential that was refused
    spacing = min(times.inquiry_first_after, HANDOVER_RETRY_AFTER)
    last_asked_at = max((inquiry.asked_at for inquiry in evidence.inquiries), default=None)
    is_fresh = last_asked_at is not None and last_asked_at + spacing > context.now
    return payment.next_step_at <= context.now + HANDOVER_RETRY_AFTER and not is_fresh


def inquiry_answer_change(
    payment_id: UUID,
    number: int,
    report: Report | None,
    exchanges: tuple[Exchange, ...],
    times: Times,
    *,
    said: InquiryAnswer | None = None,
) -> Change:
    """The change that records what came of asking. `report` None: acknowledged, and the answer
    comes by callback.

    `said` has what the answer says about the operation.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        decided = decide_payment(payment, context)
        if payment is None or said is None or said.health is None:
            return decided
        heard = _operation_answer(payment, number, said, said.health, context, times)
        return decided.with_effect(JudgeOperation(heard) if heard is not None else None)

    def decide_payment(payment: Payment | None, context: Context) -> Decided:
        if payment is None or report is None or report.inquiry_outcome is None:
            return Decided(payment=payment)
        answered = context.evidence.with_answer(number, report.inquiry_outcome, report.code)
        decided = judge_report(payment, replace(context, evidence=answered), report)
        decided = add_inquiry_answer(decided, context, number, report)
        after = decided.payment
        if after is payment and no_result_is_confirmed(payment, answered, context.now, times):
            ended = fail_for_silence(payment)
            ended = replace(ended, attempt_id=decided.attempt_id, ids=decided.ids)
            return ended.with_effect(decided.effect(StoreAnswer))
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
    said: InquiryAnswer,
    health: OperationHealth,
    context: Context,
    times: Times,
) -> OperationAnswer | None:
    """What an answer says about the operation that was asked.

    It answers the question as it was stored.
    """
    asked_at = next((i.asked_at for i in context.evidence.inquiries if i.number == number), None)
    if asked_at is None or payment.inquiry_step is None:
        return None
    return OperationAnswer(
        operation=OPERATION_OF_INQUIRY_STEP[payment.inquiry_step],
        health=health,
        since=asked_at,
        cool_down=times.operation_cool_down,
        code=said.code,
    )


def watch_change(payment_id: UUID, times: Times) -> Change:
    """The next step of a payment that Daraja cannot be asked about: for want of an id, only its
    callback can tell.
    """

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.stage.is_final:
            return Decided(payment=payment)
        now = context.now
        if payment.next_step in (Step.QUERY, Step.STATUS) and _has_handover_due_time(payment, now):
            # Its row is older than the id that it can be asked by. Written anew, the row says so.
            return Decided(payment=replace(payment, next_step_at=now))
        if payment.next_step is not Step.WATCH:
            return Decided(payment=payment)
        if no_result_is_confirmed(payment, context.evidence, now, times):
            return fail_for_silence(payment)
        window_ends = result_window_end(payment, context.evidence, times)
        waiting = replace(
            payment,
            next_step_at=window_ends if now < window_ends else now + times.inquiry_interval_max,
        )
        if needs_a_person(payment, context.evidence, now, times):
            return Decided(
                payment=replace(waiting, needs_review=True),
                entry=NewEntry(HistoryEntry.NEEDS_A_PERSON),
            )
        return Decided(payment=waiting)

    return Change(payment_id=payment_id, decide=decide, reads=Reads.EVIDENCE)


def _has_handover_due_time(payment: Payment, now: datetime) -> bool:
    """Whether its time is the one that the sweep has moved it to.

    A question in its own time is later.
    """
    return payment.next_step_at is not None and payment.next_step_at <= now + HANDOVER_RETRY_AFTER


def fail_for_silence(payment: Payment) -> Decided:
    """The deposit failed as `no_result_confirmed`: not safe to retry, and looked at again for a
    day.
    """
    fact = Fact(name=FactName.NO_RESULT_CONFIRMED, failure=_NO_RESULT)
    after = payment.apply(fact)
    return Decided(
        payment=after, entry=NewEntry.of_fact(fact.name), effects=event_effects(payment, after)
    )


def postponement_change(payment_id: UUID, wait: timedelta) -> Change:
    """The change that gives an inquiry which has to wait for its turn its next due time."""

    def decide(payment: Payment | None, context: Context) -> Decided:
        if payment is None or payment.next_step not in (Step.QUERY, Step.STATUS):
            return Decided(payment=payment)
        return Decided(payment=replace(payment, next_step_at=context.now + wait))

    return Change(payment_id=payment_id, decide=decide)
