"""Valid values for tests: a test gives only the fields that it is about."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from domain.account import Account
from domain.attempts import Attempt, IdKind, Outcome
from domain.changes import Context, StoredCallback
from domain.evidence import Evidence, Inquiry, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.fence import Fence, OpenAttempt
from domain.kinds import RULES, Kind
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage
from domain.times import DEFAULT_TIMES, TIME_FOR_A_PERSON
from domain.values import Caller, PaymentRequest, Purpose, Role

NOW = datetime(2026, 3, 1, 7, 15, tzinfo=UTC)
PAYMENT_ID = UUID("0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")
RECEIPT = "UC14KD82QZ"
AMOUNT_KES = 250
A_FAILURE = Failure(FailureReason.CANCELLED_BY_CUSTOMER, True, "1032")

AN_ACCOUNT = Account(
    base_url="https://daraja.example", app="0f3a", shortcode="600111", initiator="payer"
)
ACCOUNTS = dict.fromkeys(Kind, AN_ACCOUNT)

_PARTIES: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {
        "phone_number": "254711000111",
        "account_reference": "INV00042",
        "description": "Invoice 42",
    },
    Kind.WITHDRAWAL: {
        "phone_number": "254711000111",
        "purpose": Purpose.BUSINESS,
        "remarks": "March wages",
    },
    Kind.BILL_PAYMENT: {"paybill": "888880", "account_reference": "PO771", "remarks": "Order 771"},
    Kind.POCHI_PAYMENT: {"phone_number": "254733000333", "remarks": "Order 772"},
}

# The outcomes of a payment's attempts, by the stage of the payment.
_OUTCOMES: dict[Stage, tuple[Outcome | None, ...]] = {
    Stage.ACCEPTED: (),
    Stage.SUBMITTING: (None,),
    Stage.AWAITING_RESULT: (Outcome.ACKNOWLEDGED,),
    Stage.IN_DOUBT: (Outcome.UNKNOWN,),
    Stage.SUCCEEDED: (Outcome.ACKNOWLEDGED,),
    Stage.FAILED: (Outcome.FAILED,),
}


def an_attempt_id(number: int = 1) -> UUID:
    return UUID(int=PAYMENT_ID.int + number)


def an_attempt(outcome: Outcome | None = None, *, number: int = 1, **ids: str) -> Attempt:
    """An attempt with these provider ids, for example `checkout_request_id="ws_CO_1"`."""
    return Attempt(
        an_attempt_id(number),
        number,
        outcome,
        frozenset((IdKind(kind), value) for kind, value in ids.items()),
        account=AN_ACCOUNT,
    )


def a_send(
    outcome: Outcome | None = Outcome.UNKNOWN,
    *,
    number: int = 1,
    at: datetime,
    ended: bool = True,
    **ids: str,
) -> Attempt:
    """An attempt that was claimed at `at`. It ended at the same time, unless `ended` is false."""
    return replace(
        an_attempt(outcome, number=number, **ids), claimed_at=at, ended_at=at if ended else None
    )


def an_inquiry(
    number: int = 1,
    outcome: InquiryOutcome | None = None,
    *,
    at: datetime = NOW,
    code: str | None = None,
) -> Inquiry:
    """An inquiry sent at `at`. It has an answer if it has an outcome."""
    return Inquiry(number, at, outcome, code)


def evidence_of(*inquiries: Inquiry, **overrides: Any) -> Evidence:
    return Evidence(inquiries=inquiries, **overrides)


def attempts_with(*outcomes: Outcome | None) -> tuple[Attempt, ...]:
    return tuple(an_attempt(outcome, number=number) for number, outcome in enumerate(outcomes, 1))


# The defaults of the settings.
_EXPIRIES = {
    "deposit_expires_after_seconds": timedelta(seconds=60),
    "payout_expires_after_seconds": timedelta(days=1),
    "bill_expires_after_seconds": timedelta(minutes=10),
}
EXPIRES_AFTER = {kind: _EXPIRIES[rules.expiry_setting] for kind, rules in RULES.items()}

TIMES = DEFAULT_TIMES

# The fields of a payment that its caller sent.
_REQUEST_FIELDS = {field.name for field in fields_of(PaymentRequest)}


def a_payment(
    *, stage: Stage = Stage.ACCEPTED, kind: Kind = Kind.DEPOSIT, **overrides: Any
) -> Payment:
    """A payment in `stage`, with the attempts and times of that stage."""
    attempts = overrides.pop("attempts", attempts_with(*_OUTCOMES[stage]))
    request = {"kind": kind, "owner": "user-1", "amount_kes": AMOUNT_KES, **_PARTIES[kind]}
    request |= {name: overrides.pop(name) for name in _REQUEST_FIELDS if name in overrides}
    fields: dict[str, Any] = {
        "id": PAYMENT_ID,
        "request": PaymentRequest(**request),
        "caller_key": "8:issuer-1app",
        "idempotency_key": "order-42",
        "created_at": NOW - timedelta(seconds=10),
        "expires_at": overrides.get("created_at", NOW - timedelta(seconds=10))
        + EXPIRES_AFTER[kind],
        "updated_at": NOW - timedelta(seconds=5),
        "finalized_at": NOW if stage.is_final else None,
        "receipt": RECEIPT if stage is Stage.SUCCEEDED else None,
        "amount_settled_kes": AMOUNT_KES if stage is Stage.SUCCEEDED else None,
        "failure": A_FAILURE if stage is Stage.FAILED else None,
        "attempt_id": attempts[-1].id if attempts else None,
        "lease_until": NOW + timedelta(seconds=60) if stage is Stage.SUBMITTING else None,
        "next_step_at": None
        if stage.is_final
        else NOW + timedelta(seconds=60 if stage is Stage.SUBMITTING else 30),
    }
    return Payment(stage=stage, attempts=attempts, **{**fields, **overrides})


def a_restored_payment(*, ago: timedelta = timedelta(0), **overrides: Any) -> Payment:
    """A payment that was unsent in a backup, as a restore leaves it."""
    restored_at = NOW - ago
    fields = {"updated_at": restored_at, "next_step_at": restored_at + TIME_FOR_A_PERSON}
    return a_payment(**{"needs_review": True, **fields, **overrides})


# Daraja's id by which we inquire. For a withdrawal and a Pochi payment we use the payment's own id.
INQUIRY_IDS: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {"checkout_request_id": "ws_CO_1"},
    Kind.WITHDRAWAL: {},
    Kind.BILL_PAYMENT: {"originator_conversation_id": "9d20-1"},
    Kind.POCHI_PAYMENT: {},
}


def a_due_payment(
    kind: Kind = Kind.WITHDRAWAL, stage: Stage = Stage.IN_DOUBT, **overrides: Any
) -> Payment:
    """A payment sent twenty minutes ago with unknown outcome, whose inquiry is due now."""
    sent_at = NOW - timedelta(minutes=20)
    attempts = (a_send(Outcome.UNKNOWN, at=sent_at, **INQUIRY_IDS[kind]),)
    fields = {
        "kind": kind,
        "stage": stage,
        "attempts": attempts,
        "created_at": sent_at,
        "next_step_at": NOW,
    }
    return a_payment(**{**fields, **overrides})


def a_report(outcome: ReportedOutcome = ReportedOutcome.SUCCESS, **overrides: Any) -> Report:
    """A report that agrees with `a_payment()` in all fields that its outcome has."""
    fields: dict[str, Any] = {"code": "0", "ids": frozenset()}
    if outcome is ReportedOutcome.SUCCESS:
        fields |= {"has_amount": True, "amount": Decimal(AMOUNT_KES), "receipt": RECEIPT}
    if outcome is ReportedOutcome.FAILURE:
        fields |= {"code": "1032", "failure": A_FAILURE}
    if outcome is ReportedOutcome.UNDECIDED:
        fields |= {"code": "4999"}
    return Report(outcome=outcome, **{**fields, **overrides})


def a_context(**overrides: Any) -> Context:
    return Context(**{"now": NOW, **overrides})


def a_callback(**overrides: Any) -> StoredCallback:
    fields: dict[str, Any] = {
        "id": an_attempt_id(99),
        "operation": "deposit",
        "outcome": "success",
        "source_address": "196.201.214.200",
        "source_allowed": True,
        "content_type": "application/json",
        "body": b"{}",
        "body_sha256": bytes(32),
    }
    return StoredCallback(**{**fields, **overrides})


def a_caller(role: Role = Role.BACKEND, subject: str = "shop") -> Caller:
    return Caller(issuer="https://project.example/auth/v1", subject=subject, role=role)


def an_open_attempt(number: int = 1) -> OpenAttempt:
    """An attempt under way, whose fence has a deadline in the far future."""
    fence = Fence(clock=lambda: 0.0, deadline_seconds=30, is_draining=lambda: False)
    return OpenAttempt(attempt_id=an_attempt_id(number), fence=fence)


_BACKLOG = """
WITH made AS (
    INSERT INTO mkwanja.payments (id, kind, stage, caller_key, amount_kes, phone_number, metadata,
        idempotency_key, created_at, updated_at, finalized_at, sequence)
    SELECT gen_random_uuid(), 'deposit', 'succeeded', 'c', 1, '254711000111', '{}',
        n::text, now(), now(), now(), 2
    FROM generate_series(1, %d) AS n
    RETURNING id
)
INSERT INTO mkwanja.payment_history
    (id, payment_id, sequence, recorded_at, what, stage, detail, event_type, event_body)
SELECT gen_random_uuid(), id, 2, clock_timestamp(), 'stored_by_a_test', 'succeeded', '{}',
    'a.test', '{"id": "stored_by_a_test"}'
FROM made
"""


# SQL that shares nothing with the product's: the payments of events that are not recorded as
# published.
UNPUBLISHED_EVENTS = """
SELECT history.payment_id FROM mkwanja.payment_history AS history
LEFT JOIN mkwanja.events AS event ON event.history_id = history.id
WHERE history.event_body IS NOT NULL AND coalesce(
    event.position > (SELECT published_through FROM mkwanja.event_publisher), true)
"""


def a_backlog_of(count: int) -> str:
    """SQL that adds `count` final payments, each with an unlisted, unpublished event."""
    return _BACKLOG % count
