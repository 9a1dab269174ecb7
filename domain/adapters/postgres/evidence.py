"""The evidence about payments: inquiries, stored messages and brakes. Also changes the breaker.

`loading.py` loads the evidence together with the payments, under their row locks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from domain.adapters.postgres.brakes import (
    BREAKER,
    CLOSE_BREAKER,
    KNOWN_OPERATIONS,
    LOCK_BRAKES_FOR_CHANGE,
    OPEN_BREAKER,
    PAYOUT_BRAKES,
)
from domain.adapters.postgres.effects import BatchEffects
from domain.adapters.postgres.engine import Calls
from domain.adapters.postgres.payment_columns import as_moment
from domain.callback_address import PAYMENT_OPERATIONS
from domain.changes import Disposition
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.lifecycle.judge_report import REMINDERS
from domain.operations import Operation
from domain.report import ReportedOutcome
from domain.stages import Step

log = structlog.get_logger()


def _quoted(texts: Iterable[str]) -> str:
    return ", ".join(f"'{text}'" for text in sorted(texts))


# Queries of the function that loads a batch. `:evidence_ids` are payments. The first and the last
# of them select the partitions of `callbacks`, because an array of ids does not.
INQUIRIES = """SELECT payment_id, number, asked_at, verdict, code, is_probe, of_former_account
            FROM mkwanja.inquiries WHERE payment_id = ANY(:evidence_ids)
            ORDER BY payment_id, number"""
_IS_UNCONFIRMED = f"source_allowed AND disposition = '{Disposition.AWAITS_CONFIRMATION}'"
_OF_PAYMENTS = """payment_id = ANY(:evidence_ids)
                AND payment_id BETWEEN :first_evidence_id AND :last_evidence_id"""
UNCONFIRMED_RECEIPTS = f"""SELECT DISTINCT receipt FROM mkwanja.callbacks
            WHERE {_OF_PAYMENTS} AND {_IS_UNCONFIRMED}"""
MESSAGES = f"""SELECT payment_id,
                bool_or(operation IN ({_quoted(PAYMENT_OPERATIONS)})) AS has_message,
                bool_or(source_allowed AND word = '{ReportedOutcome.SUCCESS}') AS claims_success,
                bool_or(source_allowed AND disposition = '{Disposition.AMOUNT_DIFFERS}')
                    AS names_another_amount,
                count(*) FILTER (WHERE disposition IN ({_quoted(REMINDERS)})) AS reminder_count,
                array_agg(DISTINCT receipt) FILTER (WHERE {_IS_UNCONFIRMED})
                    AS unconfirmed_receipts,
                max(received_at) FILTER (WHERE {_IS_UNCONFIRMED}) AS unconfirmed_since
            FROM mkwanja.callbacks WHERE {_OF_PAYMENTS} GROUP BY payment_id"""


def evidence_from(
    payment_ids: Sequence[UUID],
    *,
    inquiries: Iterable[Mapping[str, Any]],
    messages: Iterable[Mapping[str, Any]],
    brakes: Iterable[Mapping[str, Any]],
) -> dict[UUID, Evidence]:
    """The evidence about each of `payment_ids`, from rows of the queries as JSON."""
    inquiries_by_payment: dict[str, list[Inquiry]] = defaultdict(list)
    for row in inquiries:
        inquiries_by_payment[row["payment_id"]].append(_inquiry_from(row))
    messages_by_payment = {row["payment_id"]: _evidence_from_messages(row) for row in messages}
    # For the name of each engaged brake: whether its probe is due.
    engaged = {row["name"]: row["is_probe_due"] for row in brakes}
    held = {Operation(name): is_due for name, is_due in engaged.items() if name in KNOWN_OPERATIONS}
    return {
        payment_id: replace(
            messages_by_payment.get(str(payment_id), Evidence()),
            inquiries=tuple(inquiries_by_payment[str(payment_id)]),
            payouts_are_stopped=any(name in engaged for name in PAYOUT_BRAKES),
            breaker_is_open=BREAKER in engaged,
            held_operations=frozenset(held),
            probes_due=frozenset(operation for operation, is_due in held.items() if is_due),
        )
        for payment_id in payment_ids
    }


def _inquiry_from(row: Mapping[str, Any]) -> Inquiry:
    return Inquiry(
        number=row["number"],
        asked_at=as_moment(row["asked_at"]),
        outcome=InquiryOutcome(row["verdict"]) if row["verdict"] else None,
        code=row["code"],
        is_probe=row["is_probe"],
        is_of_former_account=row["of_former_account"],
    )


def _evidence_from_messages(row: Mapping[str, Any]) -> Evidence:
    """The evidence of all stored messages about one payment."""
    since = row["unconfirmed_since"]
    return Evidence(
        has_message=row["has_message"],
        claims_success=bool(row["claims_success"]),
        names_another_amount=bool(row["names_another_amount"]),
        reminder_count=row["reminder_count"],
        unconfirmed_receipts=frozenset(row["unconfirmed_receipts"] or ()),
        unconfirmed_since=as_moment(since) if since else None,
    )


async def change_breaker(transaction: Calls, effects: BatchEffects) -> None:
    """Opens or closes the breaker, in the commit of the fact that requires it.

    If the batch has reasons for both, the breaker is open afterwards.
    """
    if not effects.changes_breaker:
        return
    await transaction.run(LOCK_BRAKES_FOR_CHANGE)
    accepted = effects.credential_accepted_at
    if accepted and await transaction.rows(CLOSE_BREAKER, {"accepted_at": max(accepted)}):
        log.warning("breaker_closed")
    for payment, reason in effects.breaker_reasons:
        has_status_inquiry = payment.inquiry_step is Step.STATUS
        parameters = {"reason": reason, "payment_id": payment.id if has_status_inquiry else None}
        if await transaction.rows(OPEN_BREAKER, parameters):
            log.error("breaker_opened", reason=reason)
