"""Says in one sentence what happens next to a payment, and what may hold it up. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from domain.operations import OPERATION_OF_INQUIRY_STEP, Operation
from domain.stages import Stage, Step
from domain.story.records import PaymentRecord
from domain.story.sentences import OPERATIONS

_STEPS = {
    Step.SUBMIT: "A worker claims and sends the payment",
    Step.END_LEASE: "A worker is sending the payment. Its lease ends",
    Step.QUERY: "A worker inquires about the payment by STK query",
    Step.STATUS: "A worker inquires about the payment by Transaction Status",
    Step.WATCH: "No inquiry is possible, so the payment waits for a callback. The sweeper looks",
}


def describe_outlook(record: PaymentRecord) -> str:
    """What happens next to the payment of `record`."""
    payment = record.payment
    step = payment.next_step
    if payment.stage.is_final and step is None:
        return "The payment is final. Nothing more is planned."
    if step is None or payment.next_step_at is None:
        return "No step is planned."
    if payment.stage is Stage.ACCEPTED and payment.needs_review:
        # A restore has postponed the step, because the payment may have been sent.
        end = max(payment.expires_at, payment.next_step_at)
        return (
            "The payment is flagged for a person, so no worker sends it. Decide by `resolve`, or "
            f"it fails unsent after {_clock(end)}."
        )
    told = f"{_STEPS[step]} {_when(payment.next_step_at, record.read_at)}."
    if payment.stage.is_final:
        told = f"The payment is final, but its outcome is checked again. {told}"
    held = _what_holds(record, step)
    return f"{told} {held}" if held else told


def _what_holds(record: PaymentRecord, step: Step) -> str:
    """The brakes that hold this step, as a sentence, or an empty text."""
    rules = record.payment.rules
    operation: Operation | None = OPERATION_OF_INQUIRY_STEP.get(step)
    names = set()
    if step is Step.SUBMIT:
        operation = rules.operation
        names = {"kill_switch", "breaker"} if rules.moves_money_out else set()
    elif step is Step.STATUS:
        names = {"breaker"}
    engaged = [f"the {name.replace('_', ' ')}" for name in sorted(names & record.brakes)]
    if operation is not None and operation in record.brakes:
        engaged.append(f"a hold of {OPERATIONS[operation]}")
    return f"It waits, because of {' and '.join(engaged)}." if engaged else ""


def _when(at: datetime, now: datetime) -> str:
    wait = at - now
    if wait <= timedelta(0):
        late = int(-wait.total_seconds())
        return "now" if late < 5 else f"now: it has been due for {_duration(late)}"
    return f"in {_duration(int(wait.total_seconds()) + 1)}, at {_clock(at)}"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: int) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} s"
