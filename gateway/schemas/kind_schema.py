"""What callers see of one kind of payment: its route, its body, its answer, and an example of each.

One `KindSchema` per kind, on the kind's page beside this one. Rules of values are in `domain/values.py` and `domain/kinds`;
`fields.py` makes fields of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from domain.errors import FieldError
from domain.failures import FailureReason
from domain.kinds import KindRules
from domain.payment import Payment
from domain.stages import Stage
from gateway.fields import Metadata, Owner

AnsweredPhoneNumber = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^254[17][0-9]{8}$"})]
AnsweredShortcode = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]{5,7}$"})]

# The payment of the examples.
EXAMPLE_ID = UUID("0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")
EXAMPLE_KEY = "order-42"
EXAMPLE_OWNER = "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a10"
EXAMPLE_CREATED_AT = datetime(2026, 3, 1, 7, 15, 0, 123_000, tzinfo=UTC)


class Body(BaseModel):
    """What every body has. Unknown fields are refused, and types are taken at their word: `"100"` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    owner: Owner | None = Field(None, description="Whose payment it is. Set by backends; a user's is its own `sub`.")
    metadata: Metadata | None = Field(None, description="Yours: returned untouched, never sent to Daraja.")


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
TOGETHER: dict[str, Any] = {"dependentRequired": {name: list(_FOR_BACKENDS) for name in _FOR_BACKENDS}}


class AnyPayment(BaseModel):
    """What payments of every kind have. What has a default here may be absent."""

    model_config = ConfigDict(json_schema_extra=TOGETHER)

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


@dataclass(frozen=True, slots=True)
class Shown:
    """A payment of an example, and whether a backend is shown it."""

    payment: Payment
    for_backend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSchema:
    """One kind as callers meet it. Examples are by what they show.

    `find_faults` says what is wrong with a body that no single field shows.
    """

    rules: KindRules
    path: str
    route_name: str  # the operationId
    summary: str
    body: type[Body]
    answer: type[AnyPayment]
    body_examples: Mapping[str, dict[str, Any]]
    answer_examples: Mapping[str, Shown]
    find_faults: Callable[[Mapping[str, Any]], list[FieldError]] = lambda _body: []


def an_example(rules: KindRules, **fields: Any) -> Payment:
    """The payment of the examples as one of this kind, just accepted."""
    payment = Payment(
        id=EXAMPLE_ID,
        kind=rules.kind,
        stage=Stage.ACCEPTED,
        caller_key="",
        owner=None,
        amount_kes=250,
        phone_number=None,
        paybill=None,
        till=None,
        account_reference=None,
        description=None,
        remarks=None,
        purpose=None,
        metadata={},
        idempotency_key=EXAMPLE_KEY,
        created_at=EXAMPLE_CREATED_AT,
        expires_at=EXAMPLE_CREATED_AT + timedelta(minutes=1),
        updated_at=EXAMPLE_CREATED_AT,
    )
    return replace(payment, **fields)
