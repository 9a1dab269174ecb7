"""What callers are answered, as `/openapi.json` tells it.

The answers themselves are made in `domain/events.py` and `ingress.py`, from the same enumerations. Their agreement with
these models is checked both ways by `tests/unit/test_openapi_answers.py` and, over HTTP, by `tests/spec/test_openapi.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, WithJsonSchema

from domain.events import EVENT_SOURCE, EventType
from domain.failures import FailureReason
from domain.stages import Stage
from domain.values import Purpose
from gateway.fields import ITEMS_MAX, FeedCursor, HistoryCursor, PageCursor

AnsweredPhoneNumber = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^254[17][0-9]{8}$"})]
AnsweredShortcode = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]{5,7}$"})]


class Failure(BaseModel):
    """Why a payment failed."""

    reason: FailureReason
    message: str = Field(description="A sentence for a person.")
    provider_code: str | None = Field(description="Daraja's own code, where it gave one.")
    safe_to_retry: bool = Field(
        description="True only if nothing moved and nothing may: a new payment cannot pay twice."
    )


# Three members that only a backend sees, and then all of them.
_FOR_BACKENDS = ("idempotency_key", "recipient_name", "provider_ids")
_TOGETHER: dict[str, Any] = {"dependentRequired": {name: list(_FOR_BACKENDS) for name in _FOR_BACKENDS}}
_ONE_PARTY: dict[str, Any] = {"oneOf": [{"required": ["paybill"]}, {"required": ["till"]}]}


class AnyPayment(BaseModel):
    """What payments of every kind have. What has a default here may be absent."""

    model_config = ConfigDict(json_schema_extra=_TOGETHER)

    id: UUID
    status: Literal["pending", "success", "failed"] = Field(description="What an app needs to know.")
    stage: Stage = Field(description="Where the payment is, in detail.")
    amount: int = Field(ge=1, description="Whole Kenyan shillings.")
    amount_settled: Annotated[int, Field(ge=1)] | None = Field(
        description="Null until the payment succeeds, then the shillings that moved. It differs from `amount` only if an "
        "operator read another amount on M-PESA's statement."
    )
    currency: Literal["KES"]
    owner: str | None = Field(description="Whose payment it is; null for a backend's own.")
    metadata: dict[str, str]
    receipt: str | None = Field(description="M-PESA's number for the money moved.")
    failure: Failure | None
    needs_review: bool = Field(description="Whether a person should look at it.")
    created_at: datetime
    updated_at: datetime
    finalized_at: datetime | None
    idempotency_key: str = Field("", description="Backends only.")
    recipient_name: str | None = Field(None, description="Backends only: the name that M-PESA has for the recipient.")
    provider_ids: dict[str, list[str]] = Field({}, description="Backends only: Daraja's ids, by their kind.")


class Deposit(AnyPayment):
    """A customer pays us."""

    kind: Literal["deposit"]
    phone_number: AnsweredPhoneNumber
    account_reference: str
    description: str


class Withdrawal(AnyPayment):
    """We pay a customer."""

    kind: Literal["withdrawal"]
    phone_number: AnsweredPhoneNumber
    purpose: Purpose
    remarks: str


class BillPayment(AnyPayment):
    """We pay a paybill or a till."""

    model_config = ConfigDict(json_schema_extra=_TOGETHER | _ONE_PARTY)

    kind: Literal["bill_payment"]
    paybill: AnsweredShortcode = ""
    till: AnsweredShortcode = ""
    account_reference: str
    remarks: str


class Payment(RootModel[Annotated[Deposit | Withdrawal | BillPayment, Field(discriminator="kind")]]):
    """A payment as it stands."""


class PaymentPage(BaseModel):
    """Payments, newest first."""

    items: list[Payment] = Field(max_length=ITEMS_MAX)
    next_cursor: PageCursor | None = Field(description="Where the next page begins; null: this is the last one.")


class HistoryItem(BaseModel):
    """One thing that happened to a payment."""

    sequence: int = Field(ge=1)
    at: datetime
    what: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[a-z_]+$"})] = Field(
        description="What was learned or done. New words may come."
    )
    previous_stage: Stage | None
    stage: Stage
    detail: dict[str, str] = Field(description="What else is known of it: for people.")


class HistoryPage(BaseModel):
    """What happened to a payment, oldest first."""

    items: list[HistoryItem] = Field(max_length=ITEMS_MAX)
    next_cursor: HistoryCursor | None = Field(description="Where the next page begins; null: this is the last one.")


class Event(BaseModel):
    """What subscribers are told of a payment's end: CloudEvents 1.0, byte for byte as it was published."""

    specversion: Literal["1.0"]
    id: UUID = Field(description="Stable, and unique to what is told: seen again, it is a repetition.")
    source: Annotated[str, WithJsonSchema({"type": "string", "const": EVENT_SOURCE})]
    type: EventType
    subject: UUID = Field(description="The payment's id.")
    time: datetime
    sequence: int = Field(ge=1, description="Grows with each event of one payment.")
    datacontenttype: Literal["application/json"]
    data: Payment


class EventPage(BaseModel):
    """Events in the order of their commits; none is ever skipped."""

    items: list[Event] = Field(max_length=ITEMS_MAX)
    next_cursor: FeedCursor = Field(description="Where to go on, also when nothing is there yet.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Checks(BaseModel):
    """What was looked at."""

    postgres: bool
    migrated: bool
    keys: bool = Field(False, description="Whether keys to check tokens with were loaded. Absent without a key set.")
    redis: bool = Field(description="Told, not required.")


class Readiness(BaseModel):
    """Whether requests can be served."""

    status: Literal["ready", "not ready"]
    checks: Checks
    postgres: Literal["ok", "away", "read-only", "not migrated"]
    redis: Annotated[str, Field(description="`ok`, `away`, or `refuses:` and what Redis refuses.")]


class Document(BaseModel):
    """This document."""

    openapi: Literal["3.1.0"]
