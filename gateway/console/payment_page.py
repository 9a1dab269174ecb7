"""A payment's page: its story in plain words, the evidence, and the forms to decide.

Phone numbers and names are masked. An operator who needs them gives a reason, which is recorded
before the numbers are shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from domain.adapters.postgres.console import ConsoleStore, Disclosure
from domain.adapters.postgres.storytelling import StoryReader
from domain.errors import InvalidRequest, PaymentNotFound, RequestRefused
from domain.explanations import Words, explain_code
from domain.stages import Stage, Step
from domain.story import (
    PaymentRecord,
    StoredExchange,
    StoredInquiry,
    StoredMessage,
    describe_due_step,
    tell_story,
)
from gateway.console.actions import (
    REFUSALS,
    describe_refusal,
    list_faults,
    read_payment_id,
    read_reason,
)
from gateway.console.forms import Form
from gateway.console.pages import Pages
from gateway.console.payments import STATES, Read
from gateway.console.visits import FormHandler, Visit

_DISCLOSURES_MAX = 20

# The actions that make a step due.
_DUE = {"asked": "The inquiry", "requeued": "The next step"}
_DONE = {
    "resolved": "Your decision is recorded.",
    "cancelled": "The payment is cancelled. It was not sent.",
    "cancelled_before": "The payment was cancelled before. Nothing was done.",
}


@dataclass(frozen=True, slots=True)
class Inquiry:
    """An inquiry with what its code means."""

    stored: StoredInquiry
    meaning: Words | None


class PaymentPage:
    """Shows one payment."""

    def __init__(
        self, *, pages: Pages, stories: StoryReader, store: ConsoleStore, read: Read[Any]
    ) -> None:
        self._pages = pages
        self._stories = stories
        self._store = store
        self._read = read

    async def show(self, visit: Visit) -> web.Response:
        """GET /console/payments/{payment_id}"""
        visit.query()
        return await self._page(visit, done=visit.done)

    async def reveal(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/payments/{payment_id}/reveal: the page with its numbers, this once."""
        payment_id = read_payment_id(visit.request)
        reason = read_reason(form)
        if await self._read(lambda: self._stories.read(payment_id)) is None:
            raise PaymentNotFound
        await self._read(
            lambda: self._store.record_disclosure(
                payment_id, operator=visit.operator, reason=reason
            )
        )
        return await self._page(visit, is_revealed=True)

    def with_refusals(self, act: FormHandler) -> FormHandler:
        """If `act` refuses the form, the page shows why, and what the operator wrote."""

        async def post(visit: Visit, form: Form) -> web.Response:
            try:
                return await act(visit, form)
            except REFUSALS as refusal:
                return await self._page(visit, refusal=refusal, form=form)

        return post

    async def _page(
        self,
        visit: Visit,
        *,
        done: str = "",
        is_revealed: bool = False,
        refusal: RequestRefused | None = None,
        form: Form | None = None,
    ) -> web.Response:
        payment_id = read_payment_id(visit.request)
        record: PaymentRecord | None = await self._read(
            lambda: self._stories.read(payment_id, unmask=is_revealed)
        )
        if record is None:
            raise PaymentNotFound
        payment = record.payment
        state, tone = STATES[payment.stage]
        return self._pages.response(
            "payment.html",
            status=_status_of(refusal),
            visit=visit,
            payment=payment,
            state=state,
            tone=tone,
            facts=_list_facts(record, is_revealed=is_revealed),
            record=record,
            story=tell_story(record),
            inquiries=[_explained(each, record) for each in record.inquiries],
            messages=[(each, _show_body(each)) for each in record.messages],
            exchanges=[(each, _show_request(each)) for each in record.exchanges],
            disclosures=await self._disclosures(payment_id),
            next_step_at=payment.next_step_at if payment.next_step is not None else None,
            may_cancel=payment.stage is Stage.ACCEPTED and not payment.needs_review,
            is_undecided=payment.needs_review or payment.stage is Stage.IN_DOUBT,
            is_revealed=is_revealed,
            notice=_describe_done(done, record),
            fault=None if refusal is None else describe_refusal(refusal, payment, state),
            faults=list_faults(refusal, form) if isinstance(refusal, InvalidRequest) else [],
            sent_to=visit.request.path.rpartition("/")[2] if form is not None else "",
            form=form or {},
        )

    async def _disclosures(self, payment_id: UUID) -> list[Disclosure]:
        disclosures: list[Disclosure] = await self._read(
            lambda: self._store.disclosures(payment_id, limit=_DISCLOSURES_MAX)
        )
        return disclosures


def _describe_done(done: str, record: PaymentRecord) -> str | None:
    """What the operator did a moment ago, and when its effect comes."""
    if done not in _DUE:
        return _DONE.get(done)
    payment = record.payment
    due_at = payment.next_step_at
    is_due = due_at is not None and due_at <= record.read_at
    # A sweeper that hands over a send plans the next look at it, also if a brake holds the send.
    if not is_due and payment.next_step is not Step.SUBMIT:
        return f"{_DUE[done]} was due at once. A worker has taken it."
    return f"{_DUE[done]} is due now. {describe_due_step(payment, record.brakes)}"


def _status_of(refusal: RequestRefused | None) -> int:
    if refusal is None:
        return 200
    return 422 if isinstance(refusal, InvalidRequest) else 409


def _list_facts(record: PaymentRecord, *, is_revealed: bool) -> list[tuple[str, str | datetime]]:
    """What the caller asked for and what came of it, in the order of the page."""
    payment, request = record.payment, record.payment.request
    name = payment.recipient_name
    facts = {
        "Phone number": request.phone_number,
        "Paybill": request.paybill,
        "Till": request.till,
        "Reference": request.account_reference,
        "Receipt": payment.receipt,
        "Settled": f"KES {payment.amount_settled_kes:,}" if payment.amount_settled_kes else None,
        "Recipient": name if is_revealed or not name else "hidden",
        "Description": request.description,
        "Remarks": request.remarks,
        "Purpose": request.purpose and request.purpose.value,
        "Owner": request.owner,
        "Accepted": payment.created_at,
        "Ended": payment.finalized_at,
        "Idempotency key": payment.idempotency_key,
        "Id": str(payment.id),
    }
    shown: list[tuple[str, str | datetime]] = [(key, fact) for key, fact in facts.items() if fact]
    shown += [
        (f"Daraja's {kind.replace('_', ' ')}", value)
        for kind, value in sorted(payment.provider_ids)
    ]
    shown += [(f"Metadata: {key}", value) for key, value in request.metadata.items()]
    return shown


def _explained(inquiry: StoredInquiry, record: PaymentRecord) -> Inquiry:
    code = inquiry.code
    return Inquiry(inquiry, explain_code(code, record.payment.kind) if code else None)


def _show_body(message: StoredMessage) -> str:
    return message.body.decode("utf-8", "backslashreplace")


def _show_request(exchange: StoredExchange) -> str:
    return json.dumps(exchange.request, indent=2, ensure_ascii=False)
