"""What operators do in the console: decide about a payment, and set brakes.

Each action needs a reason, and goes through the same changes as the operator's commands.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from aiohttp import web

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.changes import Change
from domain.errors import (
    FieldError,
    InvalidRequest,
    PaymentNotFound,
    RequestRefused,
    ResolutionRefused,
    TooLateToCancel,
)
from domain.lifecycle.accept import operator_cancellation_change
from domain.lifecycle.resolve import (
    OperatorDecision,
    Resolution,
    inquiry_request_change,
    resolution_change,
)
from domain.operations import Operation
from domain.times import Times
from domain.values import is_receipt, parse_reason
from gateway.console.visits import Form, Visit, redirect
from gateway.edge.read_queue import ReadQueue
from gateway.resources import Resources

_AMOUNT_DIGITS_MAX = 9


class PaymentActions:
    """The forms of a payment's page. Each handler returns to the page."""

    def __init__(self, resources: Resources, reads: ReadQueue, times: Times) -> None:
        self._resources = resources
        self._reads = reads
        self._times = times

    async def resolve(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/resolve"""
        resolution = Resolution(
            decision=_read_decision(form),
            reason=read_reason(form),
            operator=visit.operator,
            receipt=_read_receipt(form),
            amount_kes=_read_amount(form),
        )
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

    async def _change(
        self, visit: Visit, done: str, make_change: Callable[[UUID], Change]
    ) -> web.Response:
        payment_id = read_payment_id(visit.request)

        async def change_and_announce() -> None:
            result = await self._resources.changes.change(make_change(payment_id))
            self._resources.announcer.announce_soon(result)

        await self._reads.finish(change_and_announce)
        return redirect(f"/console/payments/{payment_id}?done={done}")


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
        names = (KILL_SWITCH, BREAKER) if form.get("breaker") else (KILL_SWITCH,)
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
        return redirect(f"/console/brakes?done={done}")


# The errors that a payment's page shows beside its form, so that the operator can correct it.
REFUSALS = (ResolutionRefused, TooLateToCancel, InvalidRequest)


def describe_refusal(refusal: RequestRefused) -> str:
    """The refusal as a sentence for the operator."""
    if isinstance(refusal, InvalidRequest):
        return " ".join(f"{fault.pointer}: {fault.detail}." for fault in refusal.errors)
    # The texts name the command's options.
    return refusal.message.replace(" (--receipt)", "").replace(" (--amount)", "")


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
        raise InvalidRequest([FieldError("Reason", str(error))]) from None


def _read_decision(form: Form) -> OperatorDecision:
    try:
        return OperatorDecision(form.get("decision", ""))
    except ValueError:
        raise InvalidRequest([FieldError("Decision", "choose one")]) from None


def _read_receipt(form: Form) -> str | None:
    receipt = form.get("receipt", "").strip().upper()
    if receipt and not is_receipt(receipt):
        raise InvalidRequest(
            [FieldError("Receipt", "is not an M-PESA receipt number, such as UC14KD82QZ")]
        )
    return receipt or None


def _read_amount(form: Form) -> int | None:
    text = form.get("amount", "").strip()
    if not text:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= _AMOUNT_DIGITS_MAX
    if not is_number or int(text) < 1:
        raise InvalidRequest([FieldError("Amount", "is not whole shillings, such as 400")])
    return int(text)
