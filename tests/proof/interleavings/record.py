"""One payment's rows in memory, changed as Postgres changes them: atomically, under one lock.

`change` stamps and writes a decision as `adapters/postgres/changing.py` and `writing.py` do.
`claim`, `find_next_step`, `postpone` and `fetch_due_steps` do in Python what the product does in
SQL. tests/integration tests that SQL in a real Postgres. There is no other payment here, so no id
and no receipt belongs to another payment. After each change, `_check` compares the row with its
rules (`LawBroken`).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from domain.attempts import Attempt
from domain.callback_address import PAYMENT_OPERATIONS
from domain.changes import (
    AnnounceEvent,
    Change,
    CloseBreaker,
    Context,
    Decided,
    Disposition,
    Effect,
    JudgeOperation,
    OpenBreaker,
    ProbeOperation,
    Reads,
    StoreAnswer,
    StoredCallback,
    StoreInquiry,
)
from domain.events import EventType
from domain.evidence import Evidence, Inquiry
from domain.kinds import Kind
from domain.lifecycle.judge_report import REMINDERS
from domain.lifecycle.submit import NextStep
from domain.operations import OPERATION_OF_INQUIRY_STEP, Operation
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import TRANSITIONS, FactName, Stage, Step
from domain.stamp import stamp_change
from domain.times import HANDOVER_RETRY_AFTER
from tests.builders import a_payment
from tests.decisions import entry_of, event_of
from tests.proof.interleavings.brakes import START, Brakes, Hold
from tests.proof.interleavings.swift import swift_replace as replace
from tests.proof.interleavings.times import LifeTimes

# A new payment is due for the sweeper this long after its acceptance.
_FIRST_STEP_WITHIN = timedelta(seconds=3)


class LawBroken(AssertionError):
    """A rule that must always hold is broken."""


def instant(ms: int) -> datetime:
    """Virtual time as the database reports it."""
    return START + timedelta(milliseconds=ms)


def milliseconds(at: datetime) -> int:
    """The reverse of `instant`."""
    return round((at - START).total_seconds() * 1000)


# Payments that were accepted at `START` and not sent.
_NEW_PAYMENTS = {
    kind: a_payment(
        kind=kind,
        attempts=(),
        created_at=START,
        updated_at=START,
        next_step_at=START + _FIRST_STEP_WITHIN,
    )
    for kind in Kind
}


class Record:
    """The payment, its attempts, inquiries, callbacks, ids, events and the brakes."""

    def __init__(
        self, kind: Kind, seen: Counter[tuple[str, ...]], *, expires_after: int | None = None
    ) -> None:
        self.payment: Payment = _NEW_PAYMENTS[kind]
        if expires_after is not None:
            self.payment = replace(self.payment, expires_at=instant(expires_after))
        self.inquiries: list[Inquiry] = []
        self.ids: dict[tuple[str, str], UUID | None] = {}
        self.callbacks = 0
        self.has_message = False
        self.claims_success = False
        self.names_another_amount = False
        self.reminders = 0
        self.unconfirmed_receipts: frozenset[str] = frozenset()
        self.unconfirmed_since: datetime | None = None
        self.brakes = Brakes()
        self.holds = {operation: Hold() for operation in Operation}
        self.claim_is_probe = False  # whether the last claim is a probe
        self.history: list[tuple[Stage, str, Stage]] = []
        self.events: list[EventType] = []
        self.published: Counter[int] = Counter()  # by the event's place in `events`
        self._seen = seen

    # As changing.py does it

    def change(self, change: Change, now: datetime) -> Decided:
        """Lock, decide, write and commit."""
        before = self.payment
        evidence = self.evidence(now) if change.reads is not Reads.PAYMENT else Evidence()
        decided = change.decide(before, Context(now=now, evidence=evidence))
        if change.callback is not None:
            self._write_callback(change.callback, decided.disposition, now)
        self._write(before, decided, now)
        for effect in decided.effects:
            self._write_effect(effect, now)
        return decided

    def _write_callback(
        self, callback: StoredCallback, disposition: Disposition | None, now: datetime
    ) -> None:
        self._seen["disposition", str(disposition)] += 1
        self.callbacks += 1
        self.has_message = self.has_message or callback.operation in PAYMENT_OPERATIONS
        self.reminders += disposition in REMINDERS
        if not callback.source_allowed:
            return
        if callback.outcome == ReportedOutcome.SUCCESS.value:
            self.claims_success = True
        if disposition == Disposition.AMOUNT_DIFFERS:
            self.names_another_amount = True
        if disposition == Disposition.AWAITS_CONFIRMATION and callback.receipt:
            self.unconfirmed_receipts |= {callback.receipt}
            self.unconfirmed_since = now

    def _write_effect(self, effect: Effect, now: datetime) -> None:
        match effect:
            case AnnounceEvent():
                pass  # `_write` stores the event
            case JudgeOperation(answer):
                self.holds[answer.operation].apply(answer, now)
            case StoreInquiry(inquiry):
                if any(earlier.number == inquiry.number for earlier in self.inquiries):
                    raise LawBroken(f"inquiry {inquiry.number} exists already")
                self.inquiries.append(replace(inquiry, asked_at=now))
            case StoreAnswer(inquiry):
                self.answer(inquiry)
            case OpenBreaker():
                self.brakes.open(now, is_ours=True)
            case CloseBreaker(accepted_at):
                self.brakes.close(accepted_at)
            case ProbeOperation(operation):
                self.holds[operation].take_probe(now)
            case _ as unreachable:
                assert_never(unreachable)

    def answer(self, answered: Inquiry) -> None:
        """Store an answer, as `UPDATE … WHERE answered_at IS NULL` does."""
        self._seen["inquiry outcome", str(answered.outcome)] += 1
        for place, inquiry in enumerate(self.inquiries):
            if inquiry.number == answered.number and inquiry.outcome is None:
                self.inquiries[place] = replace(
                    inquiry, outcome=answered.outcome, code=answered.code
                )

    def evidence(self, now: datetime) -> Evidence:
        return Evidence(
            inquiries=tuple(self.inquiries),
            has_message=self.has_message,
            claims_success=self.claims_success,
            names_another_amount=self.names_another_amount,
            reminder_count=self.reminders,
            unconfirmed_receipts=self.unconfirmed_receipts,
            unconfirmed_since=self.unconfirmed_since,
            payouts_are_stopped=self.brakes.stop_payouts,
            breaker_is_open=self.brakes.breaker,
            held_operations=frozenset(name for name, hold in self.holds.items() if hold.is_engaged),
            probes_due=frozenset(name for name, hold in self.holds.items() if hold.is_due(now)),
        )

    def _write(self, before: Payment, decided: Decided, now: datetime) -> None:
        after = decided.payment
        assert after is not None
        new_ids = decided.ids - self.ids.keys()
        self.ids.update(dict.fromkeys(new_ids, decided.attempt_id))
        after = stamp_change(before, after, attempt_id=decided.attempt_id, new_ids=new_ids, now=now)
        what, event = entry_of(decided), event_of(decided)
        if what is None and after is before:
            return
        written: dict[str, object] = {"attempts": self._ended(before.attempts, after.attempts, now)}
        if what is not None:
            written |= {"sequence": before.sequence + 1, "updated_at": now}
            if event is not None:
                self.events.append(event)
        self.payment = replace(after, **written)
        self._check(before, self.payment, what, event)

    def _ended(
        self, before: tuple[Attempt, ...], after: tuple[Attempt, ...], now: datetime
    ) -> tuple[Attempt, ...]:
        earlier = {attempt.id: attempt.outcome for attempt in before}
        ended = []
        for attempt in after:
            if attempt.id in earlier and attempt.outcome is not earlier[attempt.id]:
                self._seen["outcome", str(attempt.outcome)] += 1
                attempt = replace(attempt, ended_at=now)  # noqa: PLW2901
            ended.append(attempt)
        return tuple(ended)

    # As the SQL of claiming.py and sweeping.py does it

    def find_next_step(self, now: datetime) -> NextStep:
        payment = self.payment
        at = payment.next_step_at
        return NextStep(
            payment_id=payment.id,
            kind=payment.kind,
            stage=payment.stage,
            is_expired=payment.expires_at <= now,
            step=payment.next_step,
            is_due=at is not None and at <= now + HANDOVER_RETRY_AFTER,
            is_held=self._is_held(now),
        )

    def _is_held(self, now: datetime) -> bool:
        payment = self.payment
        return (
            payment.needs_review
            or (payment.rules.moves_money_out and self.brakes.stop_payouts)
            or self.hold_of_sends.is_closed(now)
        )

    @property
    def hold_of_sends(self) -> Hold:
        return self.holds[self.payment.rules.operation]

    def claim(self, attempt_id: UUID, times: LifeTimes, now: datetime) -> bool:
        """Claim the payment, as the claim's SQL does. Its WHERE has the brakes and the age."""
        before = self.payment
        if before.stage is not Stage.ACCEPTED or before.expires_at <= now or self._is_held(now):
            return False
        self.claim_is_probe = self.hold_of_sends.is_due(now)
        if self.claim_is_probe:
            self.hold_of_sends.take_probe(now)
        until, number = now + times.worker.lease, len(before.attempts) + 1
        account = times.accounts[before.kind]
        attempt = Attempt(attempt_id, number, claimed_at=now, account=account)
        self.payment = replace(
            before,
            stage=Stage.SUBMITTING,
            attempt_id=attempt_id,
            lease_until=until,
            next_step_at=until,
            sequence=before.sequence + 1,
            updated_at=now,
            attempts=(*before.attempts, attempt),
        )
        self._check(before, self.payment, FactName.CLAIMED, None)
        return True

    def lose(self, claimed: Payment, before: Payment, now: datetime) -> bool:
        """Lose a committed claim. If another change was committed after it, return False."""
        if is_lost := self.payment is claimed:
            self.payment = replace(before, next_step_at=now + _FIRST_STEP_WITHIN)
        return is_lost

    def postpone(self, wait: timedelta, now: datetime) -> None:
        if self.payment.stage is Stage.ACCEPTED:
            self.payment = replace(self.payment, next_step_at=now + wait)

    def due_step(self, now: datetime) -> Step | None:
        payment = self.payment
        if payment.next_step_at is None or payment.next_step_at > now:
            return None
        step = payment.next_step
        operation = OPERATION_OF_INQUIRY_STEP.get(step) if step is not None else None
        if operation is not None and self.holds[operation].is_closed(now):
            return None
        return None if step is Step.STATUS and self.brakes.breaker else step

    def fetch_due_steps(self, next_step_in: timedelta, now: datetime) -> None:
        self.payment = replace(self.payment, next_step_at=now + next_step_in)

    def publish(self, place: int) -> None:
        """Publish the event at this place in `events`, for the first time or again."""
        if any(earlier not in self.published for earlier in range(place)):
            raise LawBroken("an event was published before an earlier one")
        self.published[place] += 1

    # What must always hold

    def _check(
        self, before: Payment, after: Payment, what: str | None, event: EventType | None
    ) -> None:
        if not after.stage.is_final and after.next_step_at is None:
            raise LawBroken(f"{after.stage} without a due time, so no sweeper will find the row")
        if after.stage is not before.stage:
            self.history.append((before.stage, str(what), after.stage))
            self._seen["transition", before.stage.value, str(what), after.stage.value] += 1
            self._check_transition(before, after, what, event)
        elif event is not None:
            has_new_receipt = before.receipt is None and after.receipt is not None
            if event is not EventType.RECEIPT_ADDED or not has_new_receipt:
                raise LawBroken(f"the event {event} says nothing new")
        if before.stage is Stage.SUCCEEDED and before.receipt not in (None, after.receipt):
            raise LawBroken("a receipt was changed or removed")

    def _check_transition(
        self, before: Payment, after: Payment, what: str | None, event: EventType | None
    ) -> None:
        if before.stage is Stage.SUCCEEDED:
            raise LawBroken(f"succeeded became {after.stage} by {what}")
        if before.stage is Stage.FAILED and (
            after.stage is not Stage.SUCCEEDED
            or event is not EventType.CORRECTED
            or after.failure is not None
        ):
            raise LawBroken(f"failed became {after.stage} by {what}, announced as {event}")
        expected = _ANNOUNCEMENTS.get(after.stage)
        if before.stage is not Stage.FAILED and event is not expected:
            raise LawBroken(f"{before.stage} to {after.stage} was announced as {event}")
        rule = TRANSITIONS[before.stage].get(FactName(what)) if what in _FACTS else None
        if rule is None or after.stage not in (rule.to, rule.otherwise):
            raise LawBroken(f"{before.stage} to {after.stage} by {what} is not in the table")
        if (after.stage is Stage.FAILED) is not (after.failure is not None):
            raise LawBroken("a failure without a reason, or a reason without a failure")


_FACTS = frozenset(FactName)
_ANNOUNCEMENTS = {Stage.SUCCEEDED: EventType.SUCCEEDED, Stage.FAILED: EventType.FAILED}
