"""Steps of a test about inquiries: payments in doubt, inquiries about them, and answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.attempts import IdKind, ProviderIds
from domain.changes import Change, ChangeResult, Context, Decided, Reads
from domain.errors import OutcomeUnknown
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
from domain.lifecycle.record_callback import callback_change
from domain.lifecycle.submit import resend_claim_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Step
from tests.builders import ACCOUNTS, TIMES
from tests.decisions import inquiry_of
from tests.integration.conftest import Store, a_callback, acknowledgement, new_id

# Inquiries may follow each other without a pause, because these tests do not test the spacing.
AT_ONCE = replace(TIMES, inquiry_first_after=timedelta(0))


def askable_ids(kind: Kind) -> ProviderIds:
    """Return the provider ids that an inquiry about a payment of `kind` needs."""
    name = {
        Kind.DEPOSIT: IdKind.CHECKOUT_REQUEST,
        Kind.BILL_PAYMENT: IdKind.ORIGINATOR_CONVERSATION,
    }.get(kind)
    return frozenset({(name, f"id-{new_id().hex}")}) if name else frozenset()


async def in_doubt(store: Store, kind: Kind = Kind.WITHDRAWAL, *, askable: bool = True) -> UUID:
    """Create a payment in doubt whose next step is due now."""
    payment_id, attempt_id = await store.claimed(kind)
    ids = askable_ids(kind) if askable else frozenset()
    await store.change(acknowledgement(payment_id, attempt_id, ids=ids, error=OutcomeUnknown()))
    await make_due(store, payment_id)
    return payment_id


_SENT_AN_HOUR_AGO_AND_NOT_FOUND = (
    "UPDATE mkwanja.payments SET created_at = created_at - interval '1 hour' WHERE id = $1",
    """
    UPDATE mkwanja.attempts SET claimed_at = claimed_at - interval '1 hour',
        ended_at = ended_at - interval '1 hour'
    WHERE payment_id = $1
    """,
    """
    INSERT INTO mkwanja.inquiries (payment_id, number, api, asked_at, answered_at, verdict, code)
    SELECT $1, number, 'status', now() - interval '5 minutes', now(), 'not_found', 'SFC_IC0003'
    FROM generate_series(1, 2) AS number
    """,
)


async def resendable(store: Store) -> UUID:
    """Create a withdrawal that may be resent: sent an hour ago, and twice not found since."""
    payment_id = await in_doubt(store)
    for sql in _SENT_AN_HOUR_AGO_AND_NOT_FOUND:
        await store.execute(sql, payment_id)
    return payment_id


async def claim_first(
    store: Store, payment_id: UUID, attempt_id: UUID | None = None
) -> Payment | None:
    """Claim a payment for its first send."""
    return await store.claim(payment_id, attempt_id)


async def claim_resend(
    store: Store, payment_id: UUID, attempt_id: UUID | None = None
) -> Payment | None:
    """Claim a payment in doubt for another send."""
    attempt_id = attempt_id or new_id()
    result = await store.change(resend_claim_change(payment_id, attempt_id, AT_ONCE, ACCOUNTS))
    payment = result.decided.payment
    return payment if payment is not None and payment.attempt_id == attempt_id else None


Claim = Callable[..., Coroutine[Any, Any, Payment | None]]

EACH_CLAIM = pytest.mark.parametrize(
    "claim", [claim_first, claim_resend], ids=["first send", "resend"]
)


async def claimable(store: Store, claim: Claim) -> UUID:
    """Create a withdrawal that `claim` can claim."""
    is_first = claim is claim_first
    return await (store.accepted(Kind.WITHDRAWAL) if is_first else resendable(store))


async def make_due(store: Store, payment_id: UUID) -> None:
    """Make the payment's next step due now."""
    await store.update(payment_id, "next_step_at = now()")


async def store_inquiry(
    store: Store, payment_id: UUID, *, is_probe: bool = False
) -> Inquiry | None:
    """Store the next inquiry, if one is due."""
    result = await store.change(
        inquiry_change(payment_id, AT_ONCE, ACCOUNTS, is_breaker_probe=is_probe)
    )
    return inquiry_of(result.decided)


def an_answer(
    inquiry_outcome: InquiryOutcome,
    *,
    code: str = "4999",
    outcome: ReportedOutcome = ReportedOutcome.UNDECIDED,
) -> Report:
    return Report(outcome=outcome, code=code, inquiry_outcome=inquiry_outcome)


async def record_query_answer(
    store: Store, payment_id: UUID, number: int, report: Report
) -> ChangeResult:
    """Record the answer of STK query to an inquiry."""
    return await store.change(inquiry_answer_change(payment_id, number, report, (), AT_ONCE))


async def record_callback(
    store: Store, payment_id: UUID, operation: str, report: Report, *, source_allowed: bool = True
) -> ChangeResult:
    """Store a callback and its report."""
    callback = replace(
        a_callback(operation), outcome=report.outcome.value, source_allowed=source_allowed
    )
    return await store.change(callback_change(payment_id, callback, report))


async def read_evidence(store: Store, payment_id: UUID, *, is_claim: bool = False) -> Evidence:
    """Return the evidence that a decision about the payment gets."""
    seen: list[Evidence] = []

    def decide(payment: Payment | None, context: Context) -> Decided:
        seen.append(context.evidence)
        return Decided(payment=payment)

    await store.change(
        Change(
            payment_id=payment_id, decide=decide, reads=Reads.CLAIM if is_claim else Reads.EVIDENCE
        )
    )
    return seen[-1]


async def count_due(store: Store, step: Step, *, limit: int = 100) -> int:
    """Count the payments that a sweep would find with `step` due."""
    plan = await store.sweeping.plan_sweep(limit=limit, overdue_by=timedelta(0))
    return plan.due.get(step, 0)
