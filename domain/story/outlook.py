"""Says in one sentence what happens next to a payment, and what may hold it up. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from domain.operations import OPERATION_OF_INQUIRY_STEP, Operation
from domain.payment import Payment
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
        flagged = "The payment is flagged for a person, so no worker sends it. Decide by `resolve`"
        if payment.is_postponed_for_a_person:
            return f"{flagged}."
        end = max(payment.expires_at, payment.next_step_at)
        return f"{flagged}, or it fails unsent after {_clock(end)}."
    holds = describe_holds(payment, record.brakes)
    if holds:
        told = f"{_STEPS[step]} {_when_free(payment.next_step_at, record.read_at)} {holds}"
    else:
        told = f"{_STEPS[step]} {_when(payment.next_step_at, record.read_at)}."
    if payment.stage.is_final:
        told = f"The payment is final, but its outcome is checked again. {told}"
    return told


def describe_due_step(payment: Payment, brakes: Collection[str]) -> str:
    """When a worker does the step of `payment` that is due now, as a sentence.

    `brakes` are the names of all brakes that are engaged.
    """
    if holds := describe_holds(payment, brakes):
        return holds
    if payment.next_step in OPERATION_OF_INQUIRY_STEP:
        return "A worker does it as soon as the inquiry budget allows."
    return "A worker does it within seconds."


def describe_holds(payment: Payment, brakes: Collection[str]) -> str:
    """The brakes that hold the planned step, as a sentence, or an empty text."""
    step, rules = payment.next_step, payment.rules
    if step is None:
        return ""
    operation: Operation | None = OPERATION_OF_INQUIRY_STEP.get(step)
    names: set[str] = set()
    if step is Step.SUBMIT:
        operation = rules.operation
        names = {"kill_switch", "breaker"} if rules.moves_money_out else set()
    elif step is Step.STATUS:
        names = {"breaker"}
    engaged = [f"the {name.replace('_', ' ')}" for name in sorted(names.intersection(brakes))]
    if operation is not None and operation in brakes:
        engaged.append(f"a hold of {OPERATIONS[operation]}")
    return f"It waits, because of {' and '.join(engaged)}." if engaged else ""


def _when(at: datetime, now: datetime) -> str:
    wait = at - now
    if wait <= timedelta(0):
        late = int(-wait.total_seconds())
        return "now" if late < 5 else f"now: it has been due for {_duration(late)}"
    return f"in {_duration(int(wait.total_seconds()) + 1)}, at {_clock(at)}"


def _when_free(at: datetime, now: datetime) -> str:
    """When a step comes that a brake holds: never now."""
    if at > now:
        return f"{_when(at, now)}, at the earliest."
    late = int((now - at).total_seconds())
    return "later." if late < 5 else f"later: it has been due for {_duration(late)}."


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: int) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} s"
