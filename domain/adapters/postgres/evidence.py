"""Loads the evidence about payments (inquiries, stored messages, brakes), under their row locks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from domain.adapters.postgres.brakes import (
    BRAKE_STATES,
    BRAKE_STATES_FOR_CLAIM,
    BREAKER,
    CLOSE_BREAKER,
    KNOWN_OPERATIONS,
    LOCK_BRAKES_FOR_CHANGE,
    LOCK_BRAKES_FOR_CLAIM,
    OPEN_BREAKER,
    PAYOUT_BRAKES,
)
from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Transaction
from domain.adapters.postgres.statements import sql
from domain.callback_address import PAYMENT_OPERATIONS
from domain.changes import Change, Disposition, Reads
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.lifecycle.judge_report import REMINDERS
from domain.operations import Operation
from domain.report import ReportedOutcome
from domain.stages import Step

log = structlog.get_logger()

_INQUIRIES = sql("""
SELECT payment_id, number, asked_at, verdict, code, is_probe, of_former_account
FROM mkwanja.inquiries
WHERE payment_id = ANY(CAST(:ids AS uuid[])) ORDER BY payment_id, number
""")
_MESSAGES = sql("""
SELECT payment_id, bool_or(operation = ANY(CAST(:operations AS text[]))) AS has_message,
    bool_or(source_allowed AND word = :success) AS claims_success,
    count(*) FILTER (WHERE disposition = ANY(CAST(:reminders AS text[]))) AS reminder_count,
    array_agg(DISTINCT receipt) FILTER (WHERE source_allowed AND disposition = :unconfirmed)
        AS unconfirmed_receipts,
    bool_or(source_allowed AND disposition = :amount_differs) AS names_another_amount,
    max(received_at) FILTER (WHERE source_allowed AND disposition = :unconfirmed)
        AS unconfirmed_since
FROM mkwanja.callbacks WHERE payment_id = ANY(CAST(:ids AS uuid[])) GROUP BY payment_id
""")


async def load_evidence(
    transaction: Transaction, changes: Sequence[Change]
) -> dict[UUID, Evidence]:
    """The evidence that the decisions of `changes` need, by payment."""
    ids = [change.payment_id for change in changes if change.reads is not Reads.PAYMENT]
    if not ids:
        return {}
    parameters = {"ids": ids}
    brakes = BRAKE_STATES
    if any(change.reads is Reads.CLAIM for change in changes):
        await transaction.run(LOCK_BRAKES_FOR_CLAIM)
        brakes = BRAKE_STATES_FOR_CLAIM
    inquiries: dict[UUID, list[Inquiry]] = defaultdict(list)
    for row in await transaction.rows(_INQUIRIES, parameters):
        outcome = InquiryOutcome(row.verdict) if row.verdict else None
        inquiries[row.payment_id].append(
            Inquiry(
                row.number, row.asked_at, outcome, row.code, row.is_probe, row.of_former_account
            )
        )
    message_parameters = {
        **parameters,
        "operations": sorted(PAYMENT_OPERATIONS),
        "success": ReportedOutcome.SUCCESS.value,
        "reminders": [disposition.value for disposition in REMINDERS],
        "unconfirmed": Disposition.AWAITS_CONFIRMATION.value,
        "amount_differs": Disposition.AMOUNT_DIFFERS.value,
    }
    message_rows = await transaction.rows(_MESSAGES, message_parameters)
    evidence_of_messages = {row.payment_id: _evidence_from_messages(row) for row in message_rows}
    # For the name of each engaged brake: whether its probe is due.
    engaged = {
        row.name: bool(row.is_probe_due) for row in await transaction.rows(brakes) if row.is_engaged
    }
    held = {Operation(name): is_due for name, is_due in engaged.items() if name in KNOWN_OPERATIONS}
    return {
        payment_id: replace(
            evidence_of_messages.get(payment_id, Evidence()),
            inquiries=tuple(inquiries[payment_id]),
            payouts_are_stopped=any(name in engaged for name in PAYOUT_BRAKES),
            breaker_is_open=BREAKER in engaged,
            held_operations=frozenset(held),
            probes_due=frozenset(operation for operation, is_due in held.items() if is_due),
        )
        for payment_id in ids
    }


def _evidence_from_messages(row: Any) -> Evidence:
    """The evidence of all stored messages about one payment."""
    return Evidence(
        has_message=row.has_message,
        claims_success=bool(row.claims_success),
        names_another_amount=bool(row.names_another_amount),
        reminder_count=row.reminder_count,
        unconfirmed_receipts=frozenset(row.unconfirmed_receipts or ()),
        unconfirmed_since=row.unconfirmed_since,
    )


async def change_breaker(transaction: Transaction, effects: BatchEffects) -> None:
    """Opens or closes the breaker, in the commit of the fact that requires it.

    If the batch has reasons for both, the breaker is open afterwards.
    """
    accepted = effects.credential_accepted_at
    if not (accepted or effects.breaker_reasons):
        return
    await transaction.run(LOCK_BRAKES_FOR_CHANGE)
    if accepted and await transaction.rows(CLOSE_BREAKER, {"accepted_at": max(accepted)}):
        log.warning("breaker_closed")
    for payment, reason in effects.breaker_reasons:
        has_status_inquiry = payment.inquiry_step is Step.STATUS
        parameters = {"reason": reason, "payment_id": payment.id if has_status_inquiry else None}
        if await transaction.rows(OPEN_BREAKER, parameters):
            log.error("breaker_opened", reason=reason)
