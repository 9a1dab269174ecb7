"""What operators do in the console: decide about a payment, and set brakes.

Each action needs a reason, and goes through the same changes as the operator's commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from aiohttp import web

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.changes import Change, ChangeResult
from domain.errors import (
    FieldError,
    InvalidRequest,
    PaymentNotFound,
    RequestRefused,
    ResolutionRefused,
    TooLateToCancel,
)
from domain.lifecycle.accept import operator_cancellation_change
from domain.lifecycle.requeue import requeue_change
from domain.lifecycle.resolve import (
    OperatorDecision,
    Resolution,
    inquiry_request_change,
    resolution_change,
)
from domain.operations import Operation
from domain.payment import Payment
from domain.stages import Stage, Step
from domain.times import Times
from domain.values import is_receipt, parse_reason
from gateway.console.faults import Fault, show_faults
from gateway.console.forms import Form
from gateway.console.visits import Visit
from gateway.edge.read_queue import ReadQueue
from gateway.follow_ups import NewWakeups
from gateway.resources import Resources

Value = TypeVar("Value")

_AMOUNT_DIGITS_MAX = 9


class PaymentActions:
    """The forms of a payment's page. Each handler returns to the page."""

    def __init__(
        self, resources: Resources, reads: ReadQueue, times: Times, wakeups: NewWakeups
    ) -> None:
        self._resources = resources
        self._reads = reads
        self._times = times
        self._wakeups = wakeups

    async def resolve(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/resolve"""
        resolution = _read_resolution(form, visit.operator)
        return await self._change(
            visit, "resolved", lambda id_: resolution_change(id_, resolution, self._times)
        )

    async def ask(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/ask"""
        reason = read_reason(form)
        return await self._change(
            visit,
            "asked",
            lambda id_: inquiry_request_change(id_, reason=reason, operator=visit.operator),
        )

    async def cancel(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/cancel"""
        reason = read_reason(form)
        return await self._change(
            visit,
            "cancelled",
            lambda id_: operator_cancellation_change(id_, reason=reason, operator=visit.operator),
        )

    async def requeue(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/requeue"""
        reason = read_reason(form)
        return await self._change(
            visit,
            "requeued",
            lambda id_: requeue_change(id_, reason=reason, operator=visit.operator),
            then=self._wake_worker,
        )

    async def _change(
        self,
        visit: Visit,
        done: str,
        make_change: Callable[[UUID], Change],
        then: Callable[[Payment], Awaitable[None]] | None = None,
    ) -> web.Response:
        payment_id = read_payment_id(visit.request)

        async def change_and_announce() -> ChangeResult:
            result = await self._resources.changes.change(make_change(payment_id))
            self._resources.announcer.announce_soon(result)
            return result

        result = await self._reads.finish(change_and_announce)
        payment = result.decided.payment
        if then is not None and payment is not None:
            await then(payment)
        # A change without an entry found that another person has done the same before.
        name = done if result.decided.entry is not None else f"{done}_before"
        return visit.redirect_done(f"/console/payments/{payment_id}", name)

    async def _wake_worker(self, payment: Payment) -> None:
        """Queues a job for a send. The sweeper hands over inquiries, because they have a budget."""
        if payment.next_step is Step.SUBMIT:
            await self._resources.if_redis_answers(lambda: self._wakeups.wake_new([payment.id]))


class BrakeActions:
    """The forms of the page of brakes."""

    def __init__(self, brakes: Brakes, reads: ReadQueue) -> None:
        self._brakes = brakes
        self._reads = reads

    async def stop_payouts(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/brakes/payouts/stop"""
        return await self._set(visit, form, KILL_SWITCH, is_engaged=True)

    async def start_payouts(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/brakes/payouts/start"""
        closes_breaker = form.get("breaker", "")
        if closes_breaker not in ("", "yes"):
            fault = FieldError("breaker", "must be yes, or left out to keep the breaker as it is")
            raise InvalidRequest([fault])
        names = (KILL_SWITCH, BREAKER) if closes_breaker else (KILL_SWITCH,)
        return await self._set(visit, form, *names, is_engaged=False)

    async def release_operation(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/brakes/operations/{name}/release"""
        name = visit.request.match_info["name"]
        if name not in set(Operation):
            raise web.HTTPNotFound
        return await self._set(visit, form, name, is_engaged=False)

    async def _set(self, visit: Visit, form: Form, *names: str, is_engaged: bool) -> web.Response:
        reason = read_reason(form)
        changed = await self._reads.finish(
            lambda: self._brakes.set(
                *names, is_engaged=is_engaged, reason=reason, operator=visit.operator
            )
        )
        done = "unchanged" if not changed else "engaged" if is_engaged else "released"
        return visit.redirect_done("/console/brakes", done)


# The errors that a payment's page shows beside its form, so that the operator can correct it.
REFUSALS = (ResolutionRefused, TooLateToCancel, InvalidRequest)

# The names of the fields on the pages.
_LABELS = {
    "reason": "Reason",
    "decision": "Decision",
    "receipt": "Receipt",
    "amount": "Amount",
    "breaker": "Close the breaker",
}

# The refusals name the commands and their options. The console has forms.
_COMMAND_WORDS = {
    " (--receipt)": "",
    " (--amount)": "",
    "This command": "A decision",
    "(`ask`)": '("Ask Daraja now")',
    "use `ask`": 'use "Ask Daraja now"',
    "Decide by `resolve`": "Decide by M-PESA's statement",
    "Use the decision 'reviewed'": 'To clear a flag, use "Only clear the flag"',
    "use 'reviewed'": 'use "Only clear the flag"',
    "After 'reviewed'": "If you clear the flag,",
    "Decide 'paid' or 'unpaid'": 'Decide "Paid" or "Not paid"',
    "with the decision 'paid'": 'with the decision "Paid"',
    "or decide 'paid'": 'or choose "Paid"',
}


def describe_refusal(refusal: RequestRefused, payment: Payment, state: str) -> str:
    """Why nothing was done, for the operator. `state` is the payment's state in words."""
    is_final = payment.stage.is_final
    shown = f"The payment is final: {state}." if is_final else f"The payment's state: {state}."
    if not isinstance(refusal, TooLateToCancel):
        return f"{shown} {_in_words_of_console(refusal.message)}"
    if is_final:
        return f"{shown} It has ended, so there is nothing to cancel."
    if payment.stage is Stage.ACCEPTED:
        return f"{shown} It needs review, so decide about it by M-PESA's statement."
    return f"{shown} It may have been sent already, so it cannot be cancelled. Wait for its result."


def list_faults(refusal: InvalidRequest, form: Form | None) -> list[Fault]:
    """What is wrong with each field of a form, and what the operator gave."""
    errors = [replace(each, detail=_in_words_of_console(each.detail)) for each in refusal.errors]
    return show_faults(errors, form, _LABELS)


def _in_words_of_console(text: str) -> str:
    for words, replacement in _COMMAND_WORDS.items():
        text = text.replace(words, replacement)
    return text


def read_payment_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["payment_id"])
    except ValueError:
        raise PaymentNotFound from None


def read_reason(form: Form) -> str:
    """Raises InvalidRequest unless the reason has 3 to 500 printable characters."""
    try:
        return parse_reason(form.get("reason", ""))
    except ValueError as error:
        raise InvalidRequest([FieldError("reason", str(error))]) from None


def _read_resolution(form: Form, operator: str) -> Resolution:
    """The decision of the form. Raises InvalidRequest with every wrong field."""
    faults: list[FieldError] = []

    def read(name: str, parse: Callable[[str], Value]) -> Value | None:
        try:
            return parse(form.get(name, ""))
        except ValueError as error:
            faults.append(FieldError(name, str(error)))
            return None

    decision = read("decision", _parse_decision)
    receipt = read("receipt", _parse_receipt)
    amount_kes = read("amount", _parse_amount)
    reason = read("reason", parse_reason)
    if decision is None or reason is None or faults:
        raise InvalidRequest(faults)
    return Resolution(
        decision=decision,
        reason=reason,
        operator=operator,
        receipt=receipt or None,
        amount_kes=amount_kes or None,
    )


def _parse_decision(text: str) -> OperatorDecision:
    try:
        return OperatorDecision(text)
    except ValueError:
        raise ValueError("choose one") from None


def _parse_receipt(text: str) -> str:
    receipt = text.strip().upper()
    if receipt and not is_receipt(receipt):
        raise ValueError("is not an M-PESA receipt number, such as UC14KD82QZ")
    return receipt


def _parse_amount(text: str) -> int:
    """The amount in whole shillings, or 0 if the field is empty."""
    digits = text.strip()
    if not digits:
        return 0
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _AMOUNT_DIGITS_MAX
    if not is_number or int(digits) < 1:
        raise ValueError("is not whole shillings in digits, such as 1200: no comma, no cents")
    return int(digits)
