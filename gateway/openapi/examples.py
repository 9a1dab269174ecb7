"""Examples for `/openapi.json`, made by the code that makes the real ones: they cannot look otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from domain import errors
from domain.attempts import Attempt, IdKind, Outcome
from domain.changes import HistoryEntry
from domain.errors import FieldError
from domain.events import EventType, event_body, public_payment, timestamp
from domain.failures import Failure, FailureReason
from domain.payment import Payment
from domain.policy import Meter
from domain.stages import Stage
from domain.values import DEFAULT_TEXT, PAYMENT_MAX_KES, Kind, Purpose, reference_from
from gateway.cursors import FeedPlace, feed_cursor
from gateway.problems import PROBLEMS, Problem, members, told
from gateway.schemas import BillPaymentBody, Body, DepositBody, WithdrawalBody

PAYMENT_ID = UUID("0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")
IDEMPOTENCY_KEY = "order-42"
_CREATED_AT = datetime(2026, 3, 1, 7, 15, 0, 123_000, tzinfo=UTC)
_ENDED_AT = _CREATED_AT + timedelta(seconds=9)
_OWNER = "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a10"

# Of each body, by what it shows. A backend may send all of them, an app's user those without an owner.
BODY_EXAMPLES: Mapping[type[Body], Mapping[str, dict[str, Any]]] = {
    DepositBody: {
        "least": {"amount": 250, "phone_number": "0711000111"},
        "whole": {
            "amount": 250,
            "phone_number": "+254711000111",
            "account_reference": "INV00042",
            "description": "Invoice 42",
            "metadata": {"order": "42"},
        },
        "for_a_user": {"amount": 250, "phone_number": "254111000111", "owner": _OWNER},
    },
    WithdrawalBody: {
        "least": {"amount": 1200, "phone_number": "0722000222"},
        "whole": {
            "amount": 1200,
            "phone_number": "0722000222",
            "purpose": "salary",
            "remarks": "March wages",
            "owner": _OWNER,
            "metadata": {"employee": "7"},
        },
    },
    BillPaymentBody: {
        "to_a_paybill": {"amount": 830, "paybill": "888880", "account_reference": "METER7731"},
        "to_a_till": {"amount": 830, "till": "556677", "remarks": "Order 771", "metadata": {"order": "771"}},
    },
}

_DEPOSIT = Payment(
    id=PAYMENT_ID,
    kind=Kind.DEPOSIT,
    stage=Stage.ACCEPTED,
    caller_key="",
    owner=_OWNER,
    amount_kes=250,
    phone_number="254711000111",
    paybill=None,
    till=None,
    account_reference="INV00042",
    description="Invoice 42",
    remarks=None,
    purpose=None,
    metadata={"order": "42"},
    idempotency_key=IDEMPOTENCY_KEY,
    created_at=_CREATED_AT,
    updated_at=_CREATED_AT,
)
_ENDED = replace(_DEPOSIT, updated_at=_ENDED_AT, finalized_at=_ENDED_AT)
_ASKED = Attempt(
    UUID(int=PAYMENT_ID.int + 1), 1, Outcome.ACKNOWLEDGED, frozenset({(IdKind.CHECKOUT_REQUEST, "ws_CO_010320261015")})
)
_PAID = replace(_ENDED, stage=Stage.SUCCEEDED, receipt="UC14KD82QZ", amount_settled_kes=250, attempts=(_ASKED,))
_CANCELLED = replace(_ENDED, stage=Stage.FAILED, failure=Failure(FailureReason.CANCELLED_BY_CALLER, safe_to_retry=True))
_WITHDRAWAL = replace(
    _DEPOSIT, kind=Kind.WITHDRAWAL, description=None, account_reference=None, remarks=DEFAULT_TEXT, owner=None,
    amount_kes=1200, phone_number="254722000222", purpose=Purpose.BUSINESS, metadata={},
)  # fmt: skip
_TO_PAYBILL = replace(
    _DEPOSIT, kind=Kind.BILL_PAYMENT, description=None, phone_number=None, paybill="888880", owner=None,
    account_reference="METER7731", remarks=DEFAULT_TEXT, amount_kes=830, metadata={},
)  # fmt: skip
_TO_TILL = replace(_TO_PAYBILL, paybill=None, till="556677", account_reference=reference_from(PAYMENT_ID))
_HISTORY_ITEM = {
    "sequence": 1,
    "at": timestamp(_CREATED_AT),
    "what": HistoryEntry.ACCEPTED.value,
    "previous_stage": None,
    "stage": Stage.ACCEPTED.value,
    "detail": {},
}
_PAID_EVENT = event_body(EventType.SUCCEEDED, event_id=UUID(int=PAYMENT_ID.int + 2), payment=_PAID, at=_ENDED_AT)


def answer_examples(route_name: str, status: int) -> dict[str, Any]:
    """Examples of the good answers of a route, by what they show."""
    match route_name:
        case "createDeposit":
            return {"to_a_user": public_payment(_DEPOSIT), "to_a_backend": public_payment(_DEPOSIT, for_backend=True)}
        case "createWithdrawal":
            return {"accepted": public_payment(_WITHDRAWAL, for_backend=True)}
        case "createBillPayment":
            return {
                "to_a_paybill": public_payment(_TO_PAYBILL, for_backend=True),
                "to_a_till": public_payment(_TO_TILL, for_backend=True),
            }
        case "readPayment":
            return {"paid": public_payment(_PAID), "seen_by_a_backend": public_payment(_PAID, for_backend=True)}
        case "cancelPayment":
            return {"cancelled": public_payment(_CANCELLED)}
        case "listPayments":
            return {"last_page": {"items": [public_payment(_PAID)], "next_cursor": None}}
        case "readHistory":
            return {"accepted": {"items": [_HISTORY_ITEM], "next_cursor": None}}
        case "listEvents":
            return {
                "one": {"items": [json.loads(_PAID_EVENT)], "next_cursor": feed_cursor(FeedPlace(1, "1f2e3d4c5b6a"))}
            }
        case "healthz":
            return {"ok": {"status": "ok"}}
        case "readyz":
            is_ready = status == 200
            checks = {"postgres": is_ready, "migrated": is_ready, "keys": True, "redis": True}
            report = {"postgres": "ok" if is_ready else "away", "redis": "ok"}
            return {"checks": {"status": "ready" if is_ready else "not ready", "checks": checks, **report}}
        case _:
            return {}


# Errors that cannot be made of nothing.
_ERRORS: Mapping[type[errors.PaymentServiceError], errors.PaymentServiceError] = {
    errors.InvalidRequest: errors.InvalidRequest(
        [FieldError("/amount", f"must be from 1 to {PAYMENT_MAX_KES} shillings")]
    ),
    errors.LimitExceeded: errors.LimitExceeded(
        "This payment would pass the limit of 500,000 shillings a day for this phone number. "
        "The next day begins at midnight in Nairobi.",
        limit=Meter.PHONE_DAY,
        maximum=500_000,
        resets_at=datetime(2026, 3, 1, 21, tzinfo=UTC),
    ),
    errors.RateLimited: errors.RateLimited(
        "You have sent too many requests. Send the same request again later.",
        limit="caller.requests_per_second",
        wait_seconds=1,
    ),
}


def problem_example(problem: Problem) -> dict[str, Any]:
    """`problem` as it is told of an error that leads to it."""
    kind = next((error for error, known in PROBLEMS.items() if known is problem), None)
    if kind is None:
        return told(problem, f"{problem.title}.")
    error = _ERRORS.get(kind) or kind()
    return {**told(problem, error.message), **members(error)}
