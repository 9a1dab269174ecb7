"""Examples for `/openapi.json`, made by the code that writes the real answers."""

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
from domain.events import EventType
from domain.failures import Failure, FailureReason
from domain.kinds import PAYMENT_MAX_KES
from domain.policy import LimitName
from domain.stages import Stage
from domain.views import event_body, public_payment, timestamp
from gateway.edge.problems import PROBLEMS, Problem, extra_members, problem_body
from gateway.schemas import SCHEMAS
from gateway.schemas.deposit import DEPOSIT_EXAMPLE
from gateway.schemas.kind_schema import EXAMPLE_CREATED_AT, EXAMPLE_ID
from gateway.webhooks.examples import ANSWER_EXAMPLES, BODY_EXAMPLES

_ENDED_AT = EXAMPLE_CREATED_AT + timedelta(seconds=9)
_ENDED = replace(DEPOSIT_EXAMPLE, updated_at=_ENDED_AT, finalized_at=_ENDED_AT)
_ASKED = Attempt(
    UUID(int=EXAMPLE_ID.int + 1),
    1,
    Outcome.ACKNOWLEDGED,
    frozenset({(IdKind.CHECKOUT_REQUEST, "ws_CO_010320261015")}),
)
_PAID = replace(
    _ENDED, stage=Stage.SUCCEEDED, receipt="UC14KD82QZ", amount_settled_kes=250, attempts=(_ASKED,)
)
_CANCELLED = replace(
    _ENDED,
    stage=Stage.FAILED,
    failure=Failure(FailureReason.CANCELLED_BY_CALLER, safe_to_retry=True),
)
_HISTORY_ITEM = {
    "sequence": 1,
    "at": timestamp(EXAMPLE_CREATED_AT),
    "what": HistoryEntry.ACCEPTED.value,
    "previous_stage": None,
    "stage": Stage.ACCEPTED.value,
    "detail": {},
}
_PAYMENTS_OF_EVENTS = {
    EventType.SUCCEEDED: _PAID,
    EventType.FAILED: _CANCELLED,
    EventType.CORRECTED: _PAID,
    EventType.RECEIPT_ADDED: _PAID,
}
# An example event of each type, as it is published.
EVENT_EXAMPLES: Mapping[EventType, str] = {
    kind: event_body(
        kind,
        event_id=UUID(int=EXAMPLE_ID.int + 2),
        payment=_PAYMENTS_OF_EVENTS[kind],
        at=_ENDED_AT,
    )
    for kind in EventType
}
_PAID_EVENT = EVENT_EXAMPLES[EventType.SUCCEEDED]


_EVENT_CURSOR = "events-1-1f2e3d4c5b6a"


def stream_example() -> str:
    """An example of a stream with one event."""
    return (
        f"retry: 3000\nid: events-0\n\nid: {_EVENT_CURSOR}\ndata: {_PAID_EVENT}\n\n: heartbeat\n\n"
    )


def body_examples(route_name: str) -> Mapping[str, dict[str, Any]]:
    """Example bodies for a route, by what they show."""
    if route_name in BODY_EXAMPLES:
        return BODY_EXAMPLES[route_name]
    return next(
        schema.body_examples for schema in SCHEMAS.values() if schema.route_name == route_name
    )


def answer_examples(route_name: str, status: int) -> dict[str, Any]:
    """Example success answers of a route, by what they show."""
    if route_name in ANSWER_EXAMPLES:
        return ANSWER_EXAMPLES[route_name]
    for schema in SCHEMAS.values():
        if schema.route_name == route_name:
            return {
                name: public_payment(example.payment, for_backend=example.for_backend)
                for name, example in schema.answer_examples.items()
            }
    match route_name:
        case "readPayment":
            return {
                "paid": public_payment(_PAID),
                "seen_by_a_backend": public_payment(_PAID, for_backend=True),
            }
        case "cancelPayment":
            return {"cancelled": public_payment(_CANCELLED)}
        case "listPayments":
            return {"last_page": {"items": [public_payment(_PAID)], "next_cursor": None}}
        case "readHistory":
            return {"accepted": {"items": [_HISTORY_ITEM], "next_cursor": None}}
        case "listEvents":
            return {
                "one": {
                    "items": [json.loads(_PAID_EVENT)],
                    "next_cursor": _EVENT_CURSOR,
                }
            }
        case "healthz":
            return {"ok": {"status": "ok"}}
        case "readyz":
            is_ready = status == 200
            checks = {"postgres": is_ready, "migrated": is_ready, "keys": True, "redis": True}
            report = {"postgres": "ok" if is_ready else "away", "redis": "ok"}
            return {
                "checks": {
                    "status": "ready" if is_ready else "not ready",
                    "checks": checks,
                    **report,
                }
            }
        case _:
            return {}


# Example errors whose classes need arguments.
_ERRORS: Mapping[type[errors.PaymentServiceError], errors.PaymentServiceError] = {
    errors.InvalidRequest: errors.InvalidRequest(
        [FieldError("/amount", f"must be from 1 to {PAYMENT_MAX_KES} shillings")]
    ),
    errors.LimitExceeded: errors.LimitExceeded(
        "This payment would exceed the limit of 500,000 shillings a day for this phone number. "
        "The next day begins at midnight in Nairobi.",
        limit=LimitName.PHONE_DAY,
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
    """The body of `problem` as the answer to an error of its class."""
    error_class = next((error for error, known in PROBLEMS.items() if known is problem), None)
    if error_class is None:
        return problem_body(problem, f"{problem.title}.")
    error = _ERRORS.get(error_class) or error_class()
    return {**problem_body(problem, error.message), **extra_members(error)}
